"""Whether a process is alive: its number alone doesn't show it, since numbers are used again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def machine() -> str:
    """Identifies the boot of this machine, and the container with the visible process ids; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def process_started(pid: int) -> str | None:
    """The start time of a process of this machine; "" if only its existence is known, None if it has ended."""
    if Path("/proc/self/stat").exists():
        try:
            # The name, which may contain any characters, is in brackets: state, …, start time.
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    if sys.platform == "win32":
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # a process of another user
    return ""
