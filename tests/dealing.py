"""In which order tests are dealt out to the processes that run them side by side."""

from collections.abc import Sequence
from itertools import islice, pairwise
from typing import TypeVar

TestT = TypeVar("TestT")


def dealt(tests: Sequence[TestT], long: Sequence[TestT], num_workers: int) -> list[TestT]:
    """All tests, such that each worker, which takes an equal part in turn, has long ones first and equally many."""
    known = set(map(id, long))
    others = iter([test for test in tests if id(test) not in known])
    bounds = [len(tests) * worker // num_workers for worker in range(num_workers + 1)]
    order: list[TestT] = []
    for worker, (start, end) in enumerate(pairwise(bounds)):
        first = long[worker::num_workers]
        order += [*first, *islice(others, max(0, end - start - len(first)))]
    return [*order, *others]
