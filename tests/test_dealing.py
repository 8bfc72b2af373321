"""However many tests there are, and however many of them are long, each is dealt to one worker."""

from dealing import dealt
from hypothesis import given
from hypothesis import strategies as st


@given(num_long=st.integers(0, 30), num_others=st.integers(0, 30), num_workers=st.integers(1, 6))
def test_every_test_is_dealt_once(num_long: int, num_others: int, num_workers: int) -> None:
    long = [f"long {index}" for index in range(num_long)]
    tests = [*long, *(f"other {index}" for index in range(num_others))]
    assert sorted(dealt(tests, long, num_workers)) == sorted(tests)


def test_each_worker_begins_with_long_tests() -> None:
    tests = ["a", "b", "LONG 1", "c", "d", "LONG 2"]
    assert dealt(tests, ["LONG 1", "LONG 2"], 2) == ["LONG 1", "a", "b", "LONG 2", "c", "d"]
