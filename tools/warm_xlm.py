"""Runs `xlm` commands in copies of a process that has imported the libraries already: half of a short command is that.

python tools/warm_xlm.py SOCKET COMMAND …       the client: as `xlm COMMAND …`, warm if a server listens at SOCKET
python tools/warm_xlm.py --serve SOCKET         the server: until its standard input ends

A copy gets the client's folder, variables, standard streams and signals, and ends as a process of its own does; the
client's exit status is its. Variables that libraries read when they are imported must be the server's: with others,
or without a server, the client becomes a plain `xlm`. Only for tests, on systems that fork.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Read at import, by Python, by torch's thread pools, by the hub's libraries, which derive folders from HOME too.
AT_IMPORT = ("PYTHON", "OMP_", "MKL_", "TORCH", "HF_", "TRANSFORMERS_", "CUDA_", "HOME", "XDG_", "MPL", "LANG", "LC_")
PRELOADED = (
    "xlm.commands.train", "xlm.commands.eval", "xlm.commands.generate", "xlm.inference.trained", "xlm.compose",
    "matplotlib.figure", "pandas", "torch.utils.tensorboard",
)  # fmt: skip
# What forwards to the copy; SIGKILL shows as the end of the connection.
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def at_import(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that must agree."""
    return {name: value for name, value in environ.items() if name.startswith(AT_IMPORT)}


def receive(connection: socket.socket) -> tuple[list[str], list[int]]:
    """One message: strings, and the file descriptors that came with its length."""
    header, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_LEN(3 * 4))
    files: list[int] = []
    for _, kind, data in ancillary:
        if kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            files.extend(numbers)
    if len(header) < 8:
        raise EOFError
    size, body = int.from_bytes(header, "little"), b""
    while len(body) < size:
        part = connection.recv(size - len(body))
        if not part:
            raise EOFError
        body += part
    return body.decode("utf-8", "surrogateescape").split("\0"), files


def send(connection: socket.socket, parts: list[str], files: list[int] | None = None) -> None:
    """The other side of `receive`; no part may contain a zero byte, as no argument of a program does."""
    body = "\0".join(parts).encode("utf-8", "surrogateescape")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    connection.sendmsg([len(body).to_bytes(8, "little")], rights)
    connection.sendall(body)


# What tests call.


class Server:
    """A server in a process of its own, ready once this is made; `command` is what to put before the arguments."""

    def __init__(self, path: str, environ: dict[str, str]) -> None:
        self.path = path
        self.command = [sys.executable, "-I", "-S", os.path.abspath(__file__), path]
        self._process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--serve", path], env=environ, stdin=subprocess.PIPE
        )
        while not os.path.exists(path) and self._process.poll() is None:
            time.sleep(0.05)

    def close(self) -> None:
        """End it, and what it still runs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def warm_xlm(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The beginning of a warm `xlm` command in an environment, by default the present one.

    One server for each environment that asks, as far as imports look at it, as long as this process lives.
    """
    environ = os.environ if environ is None else environ
    return _server(tuple(sorted(at_import(environ).items())))


@functools.cache
def _server(variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    folder = tempfile.mkdtemp(prefix="xlm-warm-")
    server = Server(os.path.join(folder, "socket"), {"PATH": os.environ.get("PATH", ""), **dict(variables)})
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.close)
    return tuple(server.command)


# The client.


def plain(arguments: list[str]) -> int:
    """Become a plain `xlm`."""
    program = os.path.join(os.path.dirname(sys.executable), "xlm")
    os.execv(program, [program, *arguments])


def client(path: str, arguments: list[str]) -> int:
    """Run a command warm, or become a plain one."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        return plain(arguments)
    environ = [f"{name}={value}" for name, value in os.environ.items()]
    send(connection, [os.getcwd(), str(len(arguments)), *arguments, *environ], [0, 1, 2])
    (answer, *_), _ = receive(connection)
    if answer == "cold":
        return plain(arguments)
    for number in FORWARDED:
        signal.signal(number, lambda which, _: os.kill(int(answer), which))
    (status,), _ = receive(connection)
    code = os.waitstatus_to_exitcode(int(status))
    if code < 0:  # end as it did
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


# The server.


class Forked(Exception):  # noqa: N818 - no error, a way out of the server's loop
    """Raised in the forked process, up to where a program begins."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__()
        self.arguments = arguments


def become(cwd: str, environ: dict[str, str], files: list[int]) -> None:
    """Take the client's place in folder, variables and standard streams."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for stream, file in enumerate(files):
        os.dup2(file, stream)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    vars(sys).update(__stdin__=sys.stdin, __stdout__=sys.stdout, __stderr__=sys.stderr)


def serve(path: str) -> None:
    """Answer clients until standard input ends; what still runs then is killed."""
    import gc
    import importlib
    import select

    own = at_import(dict(os.environ))
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The name appears when the libraries are there.
    listening.bind(f"{path}.new")
    listening.listen(64)
    os.rename(f"{path}.new", path)
    running: dict[int, socket.socket] = {}
    try:
        while True:
            watched: list[Any] = [0, listening, *running.values()]
            readable, _, _ = select.select(watched, [], [], 0.02 if running else None)
            for pid in list(running):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    _, status = os.waitpid(pid, 0)
                    with contextlib.suppress(OSError):  # nobody waits any more
                        send(running[pid], [str(status)])
                    running.pop(pid).close()
                elif running[pid] in readable:  # the client sends nothing more: it is gone
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    running.pop(pid).close()
            if 0 in readable and not os.read(0, 1):
                return
            if listening in readable:
                connection, _ = listening.accept()
                if (started := start(connection, own, [listening, *running.values()])) is not None:
                    running[started] = connection
    finally:
        if os.getpid() == SERVER:
            os.unlink(path)
            for pid in running:
                os.kill(pid, signal.SIGKILL)


def start(connection: socket.socket, own: dict[str, str], others: list[socket.socket]) -> int | None:
    """Fork for one client; the number of the process, or None if the command has to run cold."""
    try:
        (cwd, count, *rest), files = receive(connection)
    except (EOFError, OSError):
        connection.close()
        return None
    arguments, pairs = rest[: int(count)], rest[int(count) :]
    environ = dict(pair.split("=", 1) for pair in pairs)
    if at_import(environ) != own or len(files) != 3:
        send(connection, ["cold"])
        pid = None
    else:
        pid = os.fork()
        if pid == 0:
            for other in (*others, connection):
                other.close()
            become(cwd, environ, files)
            raise Forked(arguments)
        send(connection, [str(pid)])
    for file in files:
        os.close(file)
    if pid is None:
        connection.close()
    return pid


SERVER = os.getpid()


def main(arguments: list[str]) -> int:
    """Serve, or run a command."""
    if arguments[0] != "--serve":
        return client(arguments[0], arguments[1:])
    try:
        serve(arguments[1])
    except Forked as copy:
        command = copy.arguments
    else:
        return 0
    from xlm.cli.main import main as xlm

    program = os.path.join(os.path.dirname(sys.executable), "xlm")
    sys.argv = [program, *command]
    sys.path[0] = os.path.dirname(program)
    return xlm()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
