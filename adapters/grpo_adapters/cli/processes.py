"""The command in several processes, of which one is heard."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout

from grpo import CheckpointError, RankError, World
from grpo_adapters.cli.errors import UsageError

WRONGLY_USED = 2
WRONG_USES = (UsageError, CheckpointError, FileExistsError, FileNotFoundError)


def by_all(carry_out: Callable[[World], int]) -> int:
    """Carry out a command in all processes that ``torchrun`` has started, or in this one; the exit status.

    The first process prints, and tells what was wrong, in whichever process it was.
    """
    world = World.from_environment()
    with ExitStack() as stack:
        if world.rank > 0:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            with world.together():
                return carry_out(world)
        except (UsageError, RankError) as error:
            if isinstance(error, RankError) and not any(map(error.is_a, WRONG_USES)):
                raise
            if world.rank > 0:
                return WRONGLY_USED
            raise UsageError(str(error)) from error


def was_started_again() -> bool:
    """Whether ``torchrun --max-restarts`` has started the command again, after a process was killed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
