"""What a batch script asks of Slurm, done on this machine: ``srun``, ``scontrol``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

NOTES = "FAKE_SLURM_NOTES"


def srun(arguments: list[str]) -> int:
    """Run the command once for each node, and hand signals on, as srun does."""
    while arguments[0].startswith("-"):
        arguments = arguments[1:]
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    tasks = [subprocess.Popen(arguments) for _ in range(nodes)]
    signal.signal(signal.SIGUSR1, lambda number, frame: [task.send_signal(number) for task in tasks] and None)
    return max(task.wait() for task in tasks)


def scontrol(arguments: list[str]) -> int:
    """Name the nodes of a list, or note what else is asked."""
    if arguments[:2] == ["show", "hostnames"]:
        print("\n".join(arguments[2].split(",")))
    else:
        Path(os.environ[NOTES]).open("a").write(" ".join(arguments) + "\n")
    return 0


def install(folder: Path) -> dict[str, str]:
    """Commands of these names in a folder, and the environment of a job of two nodes that finds them."""
    for command in (srun, scontrol):
        script = folder / command.__name__
        script.write_text(f"#!/bin/sh\nexec {sys.executable} {__file__} {command.__name__} \"$@\"\n")
        script.chmod(0o755)
    torchrun = folder / "torchrun"
    torchrun.write_text(f"#!/bin/sh\nexec {sys.executable} -m torch.distributed.run \"$@\"\n")
    torchrun.chmod(0o755)
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "localhost,localhost",
        "SLURM_JOB_NUM_NODES": "2",
        NOTES: str(folder / "notes"),
    }


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
