"""Signals that ask a run to end."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

ASKING = ("SIGINT", "SIGTERM", "SIGUSR1")
STANDARD_ERROR = 2


class RunInterrupted(SystemExit):
    """A signal has ended a run, saved before if it is at all; a program that does not catch it leaves with 75.

    Attributes:
        signal_name: of the signal, ``"SIGTERM"`` for instance.
    """

    EXIT_CODE = 75
    """That of a temporary failure: call it again, and it goes on."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(self.EXIT_CODE)
        self.signal_name = signal_name


class NotesSignals:
    """A ``with`` block in which the first SIGINT, SIGTERM or SIGUSR1 is noted; a second one does what it always does.

    What the first one leads to stands on the standard error output, since the step under way may take long.

    In another thread than the main one, where Python hands out no signals, nothing is noted.

    Attributes:
        received: the name of the signal; None before one has come.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._originals: dict[signal.Signals, Any] = {}

    def __enter__(self) -> NotesSignals:
        if threading.current_thread() is threading.main_thread():
            for name in ASKING:
                if hasattr(signal, name):
                    number = signal.Signals[name]
                    self._originals[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._put_back()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._put_back()
        told = f"{self.received}: the run ends when the step under way is over; another signal ends it at once\n"
        with suppress(OSError):  # whoever read it may be gone by the same signal; the run is saved all the same
            os.write(STANDARD_ERROR, told.encode())  # print may have been interrupted amid a line

    def _put_back(self) -> None:
        for number, original in self._originals.items():
            signal.signal(number, signal.SIG_DFL if original is None else original)
        self._originals = {}
