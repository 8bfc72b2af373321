"""What a batch script asks of Slurm, done on this machine: ``srun``, ``scontrol``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

NOTES = "FAKE_SLURM_NOTES"


def srun(arguments: list[str]) -> int:
    """Run a command once for each node, and hand SIGUSR1 on to each."""
    while arguments[0].startswith("-"):
        arguments = arguments[1:]
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    tasks = [subprocess.Popen(arguments) for _ in range(nodes)]

    def hand_on(number: int, frame: object) -> None:
        for task in tasks:
            task.send_signal(number)

    signal.signal(signal.SIGUSR1, hand_on)
    return max(abs(task.wait()) for task in tasks)


def scontrol(arguments: list[str]) -> int:
    """Name the nodes of a list; note what else is asked."""
    if arguments[:2] == ["show", "hostnames"]:
        print("\n".join(arguments[2].split(",")))
    else:
        Path(os.environ[NOTES]).write_text(" ".join(arguments))
    return 0


def job_environment(folder: Path) -> dict[str, str]:
    """That of a job of two nodes, with a folder of commands that are found first."""
    commands = {command.__name__: f"{__file__} {command.__name__}" for command in (srun, scontrol)}
    for name, does in (commands | {"torchrun": "-m torch.distributed.run"}).items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {does} "$@"\n')
        script.chmod(0o755)
    return os.environ | {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost,localhost",
        "SLURM_JOB_NUM_NODES": "2",
        NOTES: str(folder / "notes"),
        "PROCESSES_PER_NODE": "1",
        "OMP_NUM_THREADS": "1",
    }


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
