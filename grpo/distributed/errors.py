"""Errors that come from another process."""

from __future__ import annotations

from collections.abc import Sequence


class RankError(RuntimeError):
    """Another process has failed, and so this one stopped where it waited for it; both can go on afterwards.

    Attributes:
        rank: the process that failed first.
        classes: names of the class of its error and of those that this inherits from.
    """

    def __init__(self, message: str, rank: int, classes: Sequence[str]) -> None:
        super().__init__(message)
        self.rank = rank
        self.classes = tuple(classes)

    def __reduce__(self) -> tuple[type[RankError], tuple[str, int, tuple[str, ...]]]:
        return type(self), (str(self), self.rank, self.classes)

    def is_a(self, kind: type[BaseException]) -> bool:
        """Whether the other process's error was one of a class."""
        return kind.__name__ in self.classes


class RankLostError(RuntimeError):
    """Another process is gone, does not answer or does something else: this one starts again with it."""
