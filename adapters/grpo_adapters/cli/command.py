"""The command ``anygrpo``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_adapters.cli.errors import UsageError

COMMANDS = {
    "train": ("training", "train", "gym ENVIRONMENT, lm MODEL, or file.py:function: begin a run"),
    "resume": ("training", "resume", "FOLDER: go on with a run that was interrupted, killed, or is to be longer"),
    "evaluate": ("evaluating", "evaluate", "FOLDER: how good is the policy of a run? On film with --video"),
    "plot": ("plotting", "plot", "FOLDER...: draw the curves of runs, seeds of the same settings as a band"),
    "show": ("showing", "show", "FOLDER: what a run is made of, and how it goes"),
    "check": ("checking", "check", "file.py:function: what is wrong with a policy of your own"),
    "init": ("projects", "init", "FOLDER: begin a project with a policy, a reward, settings and a test"),
}
INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Carry out a command.

    Args:
        words: of the command line behind ``anygrpo``; None for those that Python was called with.

    Returns:
        The exit status: 0; 2 where the command was used wrongly, which a message on the error output explains; 75 where
        a signal has ended a run that can go on.
    """
    words = sys.argv[1:] if words is None else list(words)
    if not words or words[0] in ("-h", "--help"):
        _help()
        return 0 if words else 2
    try:
        if words[0] not in COMMANDS:
            raise UsageError(f"there is no command {words[0]!r}, expected one of {', '.join(COMMANDS)}")
        module, function, _ = COMMANDS[words[0]]
        carry_out = getattr(importlib.import_module(f"grpo_adapters.cli.{module}"), function)
        return int(carry_out(words[1:]))
    except UsageError as error:
        Console(stderr=True).print(Text(f"anygrpo {words[0]}: {error}", style="red"), soft_wrap=True)
        return 2
    except SystemExit as ended:  # after a help, or wrong words, which were explained
        return ended.code if isinstance(ended.code, int) else 0
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        return INTERRUPTED


def _help() -> None:
    console = Console()
    table = Table.grid(padding=(0, 2))
    for name, (_, _, text) in COMMANDS.items():
        table.add_row(Text(f"anygrpo {name}", style="bold"), Text(text))
    console.print(Text("Reinforcement learning of any policy. Each command has --help.\n"))
    console.print(table)
