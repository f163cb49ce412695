"""Runs several `xlm` commands one after another in one process, which imports torch once; for the tests."""

from __future__ import annotations

import json
import sys

from xlm.cli.main import main

MARK = "### command"

if __name__ == "__main__":
    for arguments in json.loads(sys.argv[1]):
        code = main(arguments)
        sys.stderr.flush()
        print(f"\n{MARK} {code}", flush=True)
        if code:
            sys.exit(code)
