"""Actors that fail as tests ask them to, in a module that Ray's workers import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from ray_train import Player


class MortalPlayer(Player):
    """Is killed in the midst of a call, as long as there is a note that says so."""

    def __init__(self, note: Path) -> None:
        super().__init__()
        self.note = note

    def play(self, weights: Any, state: int, count: int) -> Any:
        if self.note.exists():
            self.note.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().play(weights, state, count)


class Trouble:
    """Fails as it is asked to."""

    def play(self, weights: Any, how: str, count: int) -> Any:
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang":
            time.sleep(3600)
        raise ArithmeticError("the engine has no fuel")
