"""Whether two actions are the same, whatever they are made of."""

from __future__ import annotations

from array import array
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo.data._equality import are_equal

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Walk:
    steps: torch.Tensor
    name: str


class Opaque:
    """An object that knows no equality."""


OPAQUE, UNKNOWN = Opaque(), torch.tensor([1.0, torch.nan])
EQUAL: list[tuple[Any, Any]] = [
    (1, 1),
    ("left", "le" + "ft"),
    (None, None),
    (OPAQUE, OPAQUE),
    (UNKNOWN, UNKNOWN),
    (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])),
    (torch.tensor(3), torch.tensor(3)),
    (torch.zeros(0), torch.zeros(0)),
    (np.array([1, 2]), np.array([1, 2])),
    (np.array([], dtype=np.int64), np.array([], dtype=np.int64)),
    (np.int64(3), np.int64(3)),
    (np.array(3.0), np.array(3.0)),
    (array("i", [1, 2]), array("i", [1, 2])),
    ([1, [2, torch.tensor([3])]], [1, [2, torch.tensor([3])]]),
    ((1, torch.ones(2)), (1, torch.ones(2))),
    ([1, 2], (1, 2)),
    (Point(1, torch.ones(2)), Point(1, torch.ones(2))),
    ({"a": torch.ones(2), "b": 1}, {"b": 1, "a": torch.ones(2)}),
    (OrderedDict(a=np.ones(2)), OrderedDict(a=np.ones(2))),
    (Walk(torch.ones(2), "x"), Walk(torch.ones(2), "x")),
    ({1, 2}, {2, 1}),
    ([], []),
]
DIFFERENT: list[tuple[Any, Any]] = [
    (1, 2),
    (1, True),
    (1, 1.0),
    ("left", "right"),
    (None, 0),
    (Opaque(), Opaque()),
    (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])),
    (torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 2.0]])),
    (torch.tensor([1.0]), torch.tensor([1.0, 1.0])),
    (torch.tensor([1.0]), torch.tensor([1.0], device="meta")),
    (torch.tensor(1), 1),
    (np.array([1, 2]), np.array([1, 3])),
    (np.array([1, 1]), np.array([1])),
    (np.array([[1, 1]]), np.array([1, 1])),
    (np.array([1, 1]), [1, 1]),
    (np.int64(3), np.int64(4)),
    (array("i", [1, 2]), array("i", [1, 3])),
    ([1, 2], [1, 3]),
    ([1, 2], [1, 2, 3]),
    ([1, 2], (1, 2, 3)),
    (Point(1, torch.ones(2)), Point(1, torch.zeros(2))),
    ([torch.tensor([1, 2])], [torch.tensor([2, 1])]),
    ({"a": 1}, {"b": 1}),
    ({"a": 1}, {"a": 1, "b": 1}),
    ({"a": torch.ones(2)}, {"a": torch.zeros(2)}),
    (Walk(torch.ones(2), "x"), Walk(torch.zeros(2), "x")),
    (Walk(torch.ones(2), "x"), Walk(torch.ones(2), "y")),
    ({1, 2}, {1, 3}),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal(one: Any, other: Any) -> None:
    assert are_equal(one, other) is True
    assert are_equal(other, one) is True


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different(one: Any, other: Any) -> None:
    assert are_equal(one, other) is False
    assert are_equal(other, one) is False


leaves = st.integers(-2, 2) | st.booleans() | st.text(max_size=2) | st.none()
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=1), inner, max_size=2)
)


def as_tensors(value: Any) -> Any:
    """The same with every integer a tensor."""
    if isinstance(value, list):
        return [as_tensors(entry) for entry in value]
    if isinstance(value, dict):
        return {key: as_tensors(entry) for key, entry in value.items()}
    return torch.tensor(value) if type(value) is int else value


@given(values, values)
def test_containers_of_tensors_compare_as_their_entries_do(one: Any, other: Any) -> None:
    assert are_equal(as_tensors(one), as_tensors(other)) == are_equal(one, other)
    assert are_equal(as_tensors(one), as_tensors(one))
