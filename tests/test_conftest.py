"""However many tests there are, and however many of them are long, each is dealt to one worker."""

from dataclasses import dataclass

import pytest
from conftest import LONG, pytest_collection_modifyitems
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Item:
    nodeid: str


@given(num_long=st.integers(0, 30), num_others=st.integers(0, 30), num_workers=st.integers(1, 6))
def test_every_test_is_dealt_once(num_long: int, num_others: int, num_workers: int) -> None:
    items = [Item(f"tests/{LONG[0]}_{index}") for index in range(num_long)]
    items += [Item(f"tests/short_{index}") for index in range(num_others)]
    dealt = list(items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_XDIST_WORKER_COUNT", str(num_workers))
        pytest_collection_modifyitems(dealt)  # type: ignore[arg-type]  # an item needs no more than a name here
    assert sorted(map(str, dealt)) == sorted(map(str, items))
