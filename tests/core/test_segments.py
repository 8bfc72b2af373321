"""Segments: the short cut for equal lengths and the general way agree with a plain loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grpo import Segments

lengths_of_segments = st.lists(st.integers(1, 5), min_size=1, max_size=8)
uniform_lengths = st.tuples(st.integers(1, 6), st.integers(1, 5)).map(lambda pair: [pair[1]] * pair[0])


def values_for(lengths: list[int]) -> Tensor:
    return torch.randn(sum(lengths), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def general(lengths: list[int]) -> Segments:
    """Segments that do not know that their lengths are equal."""
    segments = Segments.of_lengths(lengths)
    segments.uniform_length = None
    return segments


@given(lengths_of_segments | uniform_lengths)
def test_reductions_equal_a_plain_loop(lengths: list[int]) -> None:
    values = values_for(lengths)
    parts = values.split(lengths)
    for segments in (Segments.of_lengths(lengths), general(lengths)):
        torch.testing.assert_close(segments.sum(values), torch.stack([part.sum() for part in parts]))
        torch.testing.assert_close(segments.mean(values), torch.stack([part.mean() for part in parts]))
        torch.testing.assert_close(segments.norm(values), torch.stack([part.norm() for part in parts]))
        torch.testing.assert_close(segments.center(values), torch.cat([part - part.mean() for part in parts]))


@given(lengths_of_segments | uniform_lengths)
def test_layout(lengths: list[int]) -> None:
    for segments in (Segments.of_lengths(lengths), general(lengths)):
        assert len(segments) == segments.count == len(lengths)
        assert segments.total == sum(lengths)
        assert segments.lengths.tolist() == lengths
        assert segments.ids.tolist() == [index for index, length in enumerate(lengths) for _ in range(length)]
        assert segments.starts.tolist() == [sum(lengths[:index]) for index in range(len(lengths))]
        assert segments.last.tolist() == [sum(lengths[: index + 1]) - 1 for index in range(len(lengths))]
        assert segments.longest == max(lengths)


@given(lengths_of_segments | uniform_lengths, st.data())
def test_positions_follow_the_order_of_the_chosen_segments(lengths: list[int], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=10))
    entries = torch.arange(sum(lengths)).split(lengths)
    expected = torch.cat([entries[index] for index in chosen]).tolist()
    for segments in (Segments.of_lengths(lengths), general(lengths)):
        assert segments.positions(torch.tensor(chosen)).tolist() == expected
        assert segments.select(torch.tensor(chosen)).lengths.tolist() == [lengths[index] for index in chosen]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6) | uniform_lengths, st.sampled_from([0.0, 0.3, 0.95, 1.0]))
def test_discounted_sums_equal_a_plain_loop(lengths: list[int], discount: float) -> None:
    values = values_for(lengths)
    expected = []
    for part in values.split(lengths):
        total, sums = 0.0, []
        for value in reversed(part.tolist()):
            total = value + discount * total
            sums.append(total)
        expected += sums[::-1]
    for segments in (Segments.of_lengths(lengths), general(lengths)):
        before = values.clone()
        torch.testing.assert_close(
            segments.discounted_sum(values, discount), torch.tensor(expected, dtype=values.dtype)
        )
        assert torch.equal(values, before)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from([torch.float32, torch.float64]))
def test_discounted_sums_of_a_segment_do_not_depend_on_its_neighbours(lengths: list[int], dtype: torch.dtype) -> None:
    values = values_for(lengths).to(dtype)
    together = Segments.of_lengths(lengths).discounted_sum(values, 0.9405)
    alone = [Segments(1, len(part)).discounted_sum(part, 0.9405) for part in values.split(lengths)]
    assert torch.equal(together, torch.cat(alone))
    assert together.dtype == dtype


def test_discounted_sums_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 5.0, 0.0, 1.0], requires_grad=True)
    sums = Segments.of_lengths([4, 1, 2]).discounted_sum(values, 0.5)
    # 8; 4 + 4; 2 + 4; 1 + 3 | 5 | 1; 0 + 0.5
    assert sums.tolist() == [4.0, 6.0, 8.0, 8.0, 5.0, 0.5, 1.0]
    assert not sums.requires_grad


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 100))
def test_discounted_sums_with_a_discount_for_each_entry(lengths: list[int], seed: int) -> None:
    values, generator = values_for(lengths), torch.Generator().manual_seed(seed)
    discounts = torch.rand(len(values), generator=generator, dtype=values.dtype)
    expected = []
    for part, own in zip(values.split(lengths), discounts.split(lengths), strict=True):
        total, sums = 0.0, []
        for value, discount in zip(reversed(part.tolist()), reversed(own.tolist()), strict=True):
            total = value + discount * total
            sums.append(total)
        expected += sums[::-1]
    before = discounts.clone()
    sums_of_all = Segments.of_lengths(lengths).discounted_sum(values, discounts)
    torch.testing.assert_close(sums_of_all, torch.tensor(expected, dtype=values.dtype))
    assert torch.equal(discounts, before)


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=5))
def test_segments_are_counted_in_those_that_they_lie_in(parts: list[list[int]]) -> None:
    inner = [length for own in parts for length in own]
    outer = [sum(own) for own in parts]
    counts = [len(own) for own in parts]
    for segments in (Segments.of_lengths(inner), general(inner)):
        for whole in (Segments.of_lengths(outer), general(outer)):
            assert segments.count_within(whole).lengths.tolist() == counts


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5), st.integers(1, 7))
def test_equal_entries_are_centred_to_exactly_zero(values: list[float], length: int) -> None:
    lengths = [length] * len(values)
    repeated = torch.tensor(values).repeat_interleave(length)
    for segments in (Segments.of_lengths(lengths), general(lengths)):
        assert not segments.center(repeated).any()


@given(lengths_of_segments)
def test_reductions_have_the_gradient_of_a_plain_loop(lengths: list[int]) -> None:
    values = values_for(lengths).requires_grad_()
    segments = Segments.of_lengths(lengths)
    [ours] = torch.autograd.grad(segments.expand(segments.mean(values)).square().sum(), values)
    means = [part.mean() for part in values.split(lengths)]
    [theirs] = torch.autograd.grad(sum(n * m**2 for n, m in zip(lengths, means, strict=True)), values)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("lengths", [[0, 2], [3, -1]])
def test_empty_segments_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one entry"):
        Segments.of_lengths(lengths)


def test_lengths_must_be_integers() -> None:
    with pytest.raises(ValueError, match=r"expected int64 of shape \[2\]"):
        Segments(2, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("lengths", [[2, 3], [2, 2], [1, 1]])
@pytest.mark.parametrize("method", ["sum", "mean", "center", "norm", "expand"])
def test_tensors_of_another_length_are_refused(lengths: list[int], method: str) -> None:
    segments = Segments.of_lengths(lengths)
    with pytest.raises(ValueError, match=r"takes a tensor of shape \[\d\], got \[7\]"):
        getattr(segments, method)(torch.ones(7))
    with pytest.raises(ValueError, match=r"takes a tensor of shape \[\d\], got \[7\]"):
        segments.discounted_sum(torch.ones(7), 0.5)


def test_fractional_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="expected int64"):
        Segments.of_lengths([1.5, 2.7])  # type: ignore[list-item]


def test_same_cut() -> None:
    assert Segments(2, 3).same_cut(Segments.of_lengths([3, 3]))
    assert Segments.of_lengths([1, 2]).same_cut(Segments.of_lengths([1, 2]))
    assert not Segments.of_lengths([1, 2]).same_cut(Segments.of_lengths([2, 1]))
    assert not Segments.of_lengths([1, 2]).same_cut(Segments(3, 1))


def test_whole_numbers_are_not_discounted() -> None:
    with pytest.raises(TypeError, match=r"floating-point values, got torch.int64: call \.float\(\) on them"):
        Segments(1, 2).discounted_sum(torch.tensor([1, 1]), 0.5)
