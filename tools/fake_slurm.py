"""A SLURM cluster for tests: sbatch, srun, scontrol, scancel, squeue and sacct as programs that share one folder.

python tools/fake_slurm.py --install FOLDER    writes the programs into FOLDER/bin

It runs jobs on this machine, one after the other. What it imitates: options of `#SBATCH` lines and arguments, arrays,
the variables of SLURM in scripts and tasks, one process for each task, signals to tasks, requeueing (SIGTERM to the
job, then the same script again with SLURM_RESTART_COUNT), and states. `calls.jsonl` has the arguments of every call.
It does not imitate queues, limits, or machines: "nodes" are addresses of this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

PROGRAMS = ("sbatch", "srun", "scontrol", "scancel", "squeue", "sacct")
SHORT = {"-J": "job-name", "-o": "output", "-e": "error", "-n": "ntasks", "-N": "nodes", "-p": "partition",
         "-A": "account", "-t": "time", "-s": "signal"}  # fmt: skip
FLAGS = ("requeue", "unbuffered", "parsable", "exclusive", "no-requeue", "wait", "pty")
FIRST_JOB = 1001
WAIT_SECONDS = 30.0


def install(folder: str) -> str:
    """Write the programs; returns the folder to put before the others on the PATH."""
    programs = os.path.join(folder, "bin")
    os.makedirs(os.path.join(folder, "jobs"), exist_ok=True)
    os.makedirs(programs, exist_ok=True)
    for name in PROGRAMS:
        path = os.path.join(programs, name)
        command = [sys.executable, "-I", "-S", os.path.abspath(__file__), folder, name]
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        os.chmod(path, 0o755)
    return programs


def calls(folder: str, program: str) -> list[list[str]]:
    """The arguments of all calls of a program, in order."""
    with open(os.path.join(folder, "calls.jsonl"), encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["arguments"] for row in rows if row["program"] == program]


class Job:
    """The files of one job, or of one element of an array."""

    def __init__(self, root: str, key: str) -> None:
        self.key = key
        self.folder = os.path.join(root, "jobs", key)

    def read(self, name: str) -> str:
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.folder, name), encoding="utf-8") as file:
            return file.read()
        return ""

    def write(self, name: str, text: str) -> None:
        os.makedirs(self.folder, exist_ok=True)
        temporary = os.path.join(self.folder, f".{name}.{os.getpid()}")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, os.path.join(self.folder, name))

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.folder, name))

    def signal(self, number: int, names: Sequence[str]) -> None:
        """Send a signal to the processes whose numbers are in these files."""
        for name in names:
            for pid in self.read(name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), number)


def all_jobs(root: str) -> list[Job]:
    """All jobs, the oldest first."""
    return [Job(root, key) for key in sorted(os.listdir(os.path.join(root, "jobs")))]


def options_and_rest(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """`--key=value`, `--key value`, `-k value` and flags before the first other word; that word and what follows."""
    found: dict[str, str] = {}
    words = list(arguments)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        name, equals, value = word.partition("=")
        key = SHORT.get(name[:2], name.lstrip("-")) if not name.startswith("--") else name[2:]
        if not name.startswith("--") and len(name) > 2:
            value, equals = name[2:], "="
        found[key] = value if equals else "" if key in FLAGS else words.pop(0)
    return found, words


def in_script(text: str) -> dict[str, str]:
    """The options of the lines `#SBATCH …`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#SBATCH "):
            found |= options_and_rest(shlex.split(line.removeprefix("#SBATCH "), comments=True))[0]
    return found


def sbatch(root: str, arguments: list[str]) -> int:
    """Store the script and its options, and start the process that runs the job."""
    given, (path, *rest) = options_and_rest(arguments)
    with open(path, encoding="utf-8") as file:
        script = file.read()
    options = in_script(script) | given
    number = FIRST_JOB + 100 * len({job.key.partition("_")[0] for job in all_jobs(root)})
    first, _, last = options.get("array", "").partition("%")[0].partition("-")
    keys = [f"{number}_{index}" for index in range(int(first), int(last or first) + 1)] if first else [str(number)]
    for key in keys:
        job = Job(root, key)
        job.write("script", script)
        job.write("options", json.dumps(options))
        job.write("arguments", json.dumps(rest))
        job.write("state", "PENDING")
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__), root, "--run", *keys]
    with open(os.path.join(root, "controller.log"), "a", encoding="utf-8") as log:
        subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    print(number if "parsable" in options else f"Submitted batch job {number}")
    return 0


def variables(key: str, index: int, options: Mapping[str, str], restarts: int) -> dict[str, str]:
    """What SLURM sets in the script of a job."""
    nodes = int(options.get("nodes", "1"))
    per_node = options.get("ntasks-per-node")
    tasks = int(options.get("ntasks", nodes * int(per_node or 1)))
    number, _, element = key.partition("_")
    places = "127.0.0.1" if nodes == 1 else f"127.0.0.[1-{nodes}]"
    found = {
        "SLURM_JOB_ID": str(int(number) + index), "SLURM_JOB_NAME": options.get("job-name", "sbatch"),
        "SLURM_NTASKS": str(tasks), "SLURM_NNODES": str(nodes), "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NODELIST": places, "SLURM_JOB_NODELIST": places, "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0", "SLURM_SUBMIT_DIR": os.getcwd(), "FAKE_SLURM_JOB": key,
    }  # fmt: skip
    if per_node:
        found["SLURM_NTASKS_PER_NODE"] = per_node
    if element:
        found |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": element}
    if restarts:
        found["SLURM_RESTART_COUNT"] = str(restarts)
    return found


def output_path(pattern: str, key: str, task: str = "0") -> str:
    """A file name with the job's numbers in place of %j, %A, %a and %t."""
    number, _, element = key.partition("_")
    values = {"j": number, "A": number, "a": element or "0", "t": task, "n": "0", "%": "%"}
    return re.sub(r"%([jAatn%])", lambda found: values[found[1]], pattern)


def run_jobs(root: str, keys: Sequence[str]) -> int:
    """Run the elements of a job, each of them again as often as it is requeued."""
    for index, key in enumerate(keys):
        job = Job(root, key)
        options: dict[str, str] = json.loads(job.read("options"))
        restarts = 0
        while job.read("state") == "PENDING":
            code = run_once(job, options, index, restarts)
            if job.read("requeue"):
                job.remove("requeue")
                job.write("state", "PENDING")
                restarts += 1
            elif job.read("state") != "CANCELLED":
                job.write("state", "COMPLETED" if code == 0 else "FAILED")
    return 0


def run_once(job: Job, options: Mapping[str, str], index: int, restarts: int) -> int:
    """One start of the script, until it has ended."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environ |= variables(job.key, index, options, restarts)
    path = output_path(options.get("output", "slurm-%A_%a.out" if "_" in job.key else "slurm-%j.out"), job.key)
    until = time.monotonic() + WAIT_SECONDS  # whoever submits a job may make its folder afterwards
    while not os.path.isdir(os.path.dirname(path) or ".") and time.monotonic() < until:
        time.sleep(0.05)
    job.write("state", "RUNNING")
    job.remove("tasks")
    command = ["/bin/bash", os.path.join(job.folder, "script"), *json.loads(job.read("arguments"))]
    mode = "a" if options.get("open-mode") == "append" else "w"
    with open(path, mode, encoding="utf-8") as file:
        script = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environ, start_new_session=True)
        job.write("batch", str(script.pid))
        stopped = 0.0
        while script.poll() is None:
            time.sleep(0.05)
            if job.read("requeue") and not stopped:
                job.signal(signal.SIGTERM, ("tasks", "batch"))
                stopped = time.monotonic()
            elif stopped and time.monotonic() > stopped + WAIT_SECONDS:
                job.signal(signal.SIGKILL, ("tasks", "batch"))
        wait_for_tasks(job)
    return script.returncode


def wait_for_tasks(job: Job) -> None:
    """Wait for tasks that outlive the script, and kill them in the end, as SLURM does."""
    until = time.monotonic() + WAIT_SECONDS
    while any(os.path.exists(f"/proc/{pid}") for pid in job.read("tasks").split()):
        if time.monotonic() > until:
            job.signal(signal.SIGKILL, ("tasks",))
        time.sleep(0.02)


def srun(root: str, arguments: list[str]) -> int:
    """Start the tasks of a step, and wait for them."""
    options, command = options_and_rest(arguments)
    key = os.environ.get("FAKE_SLURM_JOB", "")
    count = int(options.get("ntasks") or os.environ.get("SLURM_NTASKS") or "1")
    nodes = min(count, int(options.get("nodes") or os.environ.get("SLURM_NNODES") or "1"))
    job, running, files = Job(root, key or "interactive"), [], []
    for task in range(count):
        environ = os.environ | {
            "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task % (count // nodes)), "SLURM_STEP_ID": "0",
            "SLURM_NODEID": str(task // (count // nodes)), "SLURM_NTASKS": str(count), "SLURM_NNODES": str(nodes),
            "SLURM_STEP_NUM_TASKS": str(count),
        }  # fmt: skip
        if "pty" in options:
            environ["SLURM_PTY_PORT"] = "1"
        streams: dict[str, Any] = {}
        for stream, name in (("stdout", "output"), ("stderr", "error")):
            if name in options:
                path = output_path(options[name], key, str(task))
                files.append(open(path, "a", encoding="utf-8"))  # noqa: SIM115
                streams[stream] = files[-1]
        shell = ["/bin/sh", "-c", 'export SLURM_TASK_PID=$$; exec "$@"', "task", *command]
        running.append(subprocess.Popen(shell, env=environ, **streams))
    job.write("tasks", " ".join(str(task.pid) for task in running))
    signal.signal(signal.SIGTERM, lambda number, _: job.signal(number, ("tasks",)))
    codes = [task.wait() for task in running]
    return max(code if code >= 0 else 128 - code for code in codes)


def scontrol(root: str, arguments: list[str]) -> int:
    """`scontrol requeue KEY`."""
    verb, key = arguments
    job = Job(root, key)
    if verb != "requeue" or job.read("state") != "RUNNING":
        print("Invalid job id specified", file=sys.stderr)
        return 1
    if "no-requeue" in json.loads(job.read("options")):
        print("Requested operation is presently disabled", file=sys.stderr)
        return 1
    job.write("requeue", "1")
    return 0


def scancel(root: str, arguments: list[str]) -> int:
    """Send a signal to the tasks of a job, or end it; `--signal=USR1 KEY` or `KEY --signal USR1`."""
    words = [word for word in arguments if not word.startswith("-")]
    options, _ = options_and_rest([word for word in arguments if word != words[0]])
    job = Job(root, words[0])
    name = options.get("signal")
    if name:
        job.signal(getattr(signal, f"SIG{name.removeprefix('SIG')}"), ("tasks",))
    else:
        job.write("state", "CANCELLED")
        job.signal(signal.SIGTERM, ("tasks", "batch"))
    return 0


def squeue(root: str, arguments: list[str]) -> int:
    """The jobs that have not ended."""
    print("JOBID STATE")
    for job in all_jobs(root):
        if job.read("state") in ("PENDING", "RUNNING"):
            print(job.key, job.read("state"))
    return 0


def sacct(root: str, arguments: list[str]) -> int:
    """The states of all jobs."""
    print("JobID|State|NodeList")
    for job in all_jobs(root):
        print(f"{job.key}|{job.read('state')}|127.0.0.1")
    return 0


def main(arguments: list[str]) -> int:
    """Install the programs, or be one of them."""
    if arguments[0] == "--install":
        print(install(os.path.abspath(arguments[1])))
        return 0
    root, program, *rest = arguments
    if program == "--run":
        return run_jobs(root, rest)
    with open(os.path.join(root, "calls.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps({"program": program, "arguments": rest}) + "\n")
    of_name = {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "scancel": scancel, "squeue": squeue}
    return of_name.get(program, sacct)(root, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
