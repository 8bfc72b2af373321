"""Log-probs without all logits: they and their gradients are the plain ones in any chunks, and little is held."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from grpo_adapters.huggingface import OutputHead, plain_token_log_probs, token_log_probs

module = importlib.import_module("grpo_adapters.huggingface.models.token_log_probs")

LOG_2, LOG_3 = 0.6931472, 1.0986123
FLOAT_TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def build(
    rows: int = 6,
    width: int = 4,
    size: int = 11,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    with_bias: bool = False,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> tuple[Tensor, OutputHead, Tensor]:
    """Hidden states, a head and targets; the tensors are leaves that need gradients."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    head = OutputHead(leaf(size, width), leaf(size) if with_bias else None, scale, soft_cap)
    return leaf(rows, width), head, torch.randint(size, (rows,), generator=generator)


def chunks_of(columns: int, rows: int, dtype: torch.dtype = torch.float64, buffers: int = 1) -> int:
    """The size of chunks that hold so many columns of the vocabulary."""
    return columns * rows * buffers * dtype.itemsize


def differentiated(function: Any, hidden: Tensor, head: OutputHead, targets: Tensor, **options: Any) -> list[Tensor]:
    """Values, and the gradients of a fixed weighting of all of them by whatever needs one."""
    values = [value for value in function(hidden, head, targets, **options) if value is not None]
    inputs = [each for each in (hidden, head.weight, head.bias) if each is not None and each.requires_grad]
    weighted = [
        (value * torch.linspace(-1, 2, len(value), dtype=value.dtype)).sum() for value in values if value.requires_grad
    ]
    gradients = torch.autograd.grad(weighted, inputs, allow_unused=True) if weighted else ()
    return [value.detach() for value in values] + [each for each in gradients if each is not None]


def assert_all_close(
    found: list[Tensor], expected: list[Tensor], *, rtol: float | None = None, atol: float | None = None
) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@contextmanager
def plain_is_an_error() -> Iterator[None]:
    with patch.object(module, "plain_token_log_probs", side_effect=AssertionError("computed all logits")):
        yield


class LargestTensor(TorchDispatchMode):
    """Notes how many entries the largest tensor has that any operation makes, and how many matrix products it sees."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_entries = 0
        self.num_products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.num_products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.num_entries = max(self.num_entries, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return result


def test_constants() -> None:
    """softmax of (0, log 3) is (1/4, 3/4), its entropy 2 log 2 - 3/4 log 3; a temperature of 1/2 makes 3 a 9."""
    hidden, head = torch.tensor([[1.0], [1.0]]), OutputHead(torch.tensor([[0.0], [LOG_3]]))
    targets = torch.tensor([0, 1])
    log_probs, entropy = token_log_probs(hidden, head, targets, with_entropy=True, chunk_bytes=1)
    assert entropy is not None
    assert log_probs.tolist() == pytest.approx([-2 * LOG_2, LOG_3 - 2 * LOG_2], abs=1e-6)
    assert entropy.tolist() == pytest.approx([2 * LOG_2 - 0.75 * LOG_3] * 2, abs=1e-6)
    log_probs, entropy = token_log_probs(hidden, head, targets, temperature=0.5, chunk_bytes=1)
    assert entropy is None
    assert log_probs.exp().tolist() == pytest.approx([0.1, 0.9])


OPTIONS = list(itertools.product([False, True], [1.0, 0.7], [None, 1.5], [1.0, 1.3]))


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("columns", [1, 3, 8, 20])
def test_gradients_are_those_of_finite_differences(with_entropy: bool, columns: int) -> None:
    for with_bias, scale, soft_cap, temperature in OPTIONS:
        hidden, head, targets = build(3, 2, 8, with_bias=with_bias, scale=scale, soft_cap=soft_cap)

        options: dict[str, Any] = {"temperature": temperature, "with_entropy": with_entropy}

        def values(
            hidden: Tensor,
            weight: Tensor,
            bias: Tensor | None = None,
            head: OutputHead = head,
            targets: Tensor = targets,
            options: dict[str, Any] = options,
        ) -> Any:
            described = OutputHead(weight, bias, head.scale, head.soft_cap)
            chunk_bytes = chunks_of(columns, len(hidden))
            found = token_log_probs(hidden, described, targets, **options, chunk_bytes=chunk_bytes)
            return tuple(value for value in found if value is not None)

        leaves = [hidden, head.weight] if head.bias is None else [hidden, head.weight, head.bias]
        assert gradcheck(values, leaves, fast_mode=True)


@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 6),
    size=st.integers(1, 200),
    columns=st.integers(1, 250),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.01, 1.0, 30.0]),
    options=st.sampled_from(OPTIONS),
    with_entropy=st.booleans(),
    frozen=st.sampled_from(["nothing", "hidden", "head", "weight", "bias"]),
)
def test_values_and_gradients_are_the_plain_ones(
    rows: int,
    width: int,
    size: int,
    columns: int,
    seed: int,
    spread: float,
    options: tuple[bool, float, float | None, float],
    with_entropy: bool,
    frozen: str,
) -> None:
    with_bias, scale, soft_cap, temperature = options
    hidden, head, targets = build(
        rows, width, size, seed=seed, with_bias=with_bias, scale=scale * spread, soft_cap=soft_cap
    )
    hidden.requires_grad_(frozen != "hidden")
    head.weight.requires_grad_(frozen not in ("head", "weight"))
    if head.bias is not None:
        head.bias.requires_grad_(frozen not in ("head", "bias"))
    given_all = (hidden, head, targets)
    wanted: dict[str, Any] = {"temperature": temperature, "with_entropy": with_entropy}
    expected = differentiated(plain_token_log_probs, *given_all, **wanted)
    with plain_is_an_error():
        found = differentiated(
            token_log_probs, *given_all, **wanted, chunk_bytes=chunks_of(min(columns, 7 * size), rows)
        )
    assert_all_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_chunks_hardly_change_anything(soft_cap: float | None, with_entropy: bool) -> None:
    """Widths of whole blocks of columns and of odd ones, down to one, in the precision of training."""
    arguments = build(5, 16, 300, dtype=torch.float32, soft_cap=soft_cap)
    expected = differentiated(plain_token_log_probs, *arguments, with_entropy=with_entropy)
    for columns in (1, 7, 64, 100, 128, 299, 300, 600):
        size = chunks_of(columns, 5, torch.float32, 1 + with_entropy + (soft_cap is not None))
        with plain_is_an_error():
            found = differentiated(token_log_probs, *arguments, with_entropy=with_entropy, chunk_bytes=size)
        assert_all_close(found, expected, **FLOAT_TOLERANCE)


def test_repeatable_bit_by_bit_and_as_without_gradients() -> None:
    hidden, head, targets = build(7, 8, 100, dtype=torch.float32)
    size = chunks_of(30, 7, torch.float32)
    first, second = (differentiated(token_log_probs, hidden, head, targets, chunk_bytes=size) for _ in range(2))
    assert all(torch.equal(ours, again) for ours, again in zip(first, second, strict=True))
    with torch.no_grad():
        log_probs, _ = token_log_probs(hidden, head, targets, chunk_bytes=size)
    assert not log_probs.requires_grad
    assert torch.equal(log_probs, first[0])


def test_without_gradients_logits_are_all_that_is_computed() -> None:
    hidden, head, targets = build(7, 8, 100)
    for weight in (head.weight, head.weight.detach()):
        with torch.no_grad(), LargestTensor() as mode:
            token_log_probs(hidden, OutputHead(weight), targets, chunk_bytes=chunks_of(25, 7))
        assert mode.num_products == 4


def test_backward_twice() -> None:
    hidden, head, targets = build()
    for weight in (head.weight, head.weight.detach()):
        log_probs, _ = token_log_probs(hidden, OutputHead(weight), targets, chunk_bytes=1)
        first, second = (torch.autograd.grad(log_probs.sum(), hidden, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_gradients_are_refused(frozen: bool) -> None:
    hidden, head, targets = build()
    head.weight.requires_grad_(not frozen)
    log_probs, _ = token_log_probs(hidden, head, targets, chunk_bytes=1)
    (gradient,) = torch.autograd.grad(log_probs.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_weight_that_embeds_too() -> None:
    _, head, targets = build(5, 4, 9)
    tokens = torch.tensor([0, 3, 3, 8, 1])

    def gradient(function: Any, **options: Any) -> Tensor:
        log_probs, _ = function(head.weight[tokens].tanh(), head, targets, **options)
        (found,) = torch.autograd.grad(log_probs.square().sum(), head.weight)
        return found

    torch.testing.assert_close(gradient(token_log_probs, chunk_bytes=80), gradient(plain_token_log_probs))


def test_hidden_states_and_weights_in_any_layout() -> None:
    hidden, head, targets = build(6, 4, 10)
    strided = torch.stack([hidden.detach(), hidden.detach()], 1)[:, 0].requires_grad_()
    transposed = OutputHead(head.weight.detach().t().contiguous().t().requires_grad_())
    assert not strided.is_contiguous()
    assert not transposed.weight.is_contiguous()
    found = differentiated(token_log_probs, strided, transposed, targets, chunk_bytes=200)
    assert_all_close(found, differentiated(plain_token_log_probs, hidden, head, targets))


@pytest.mark.parametrize("frozen", [False, True])
def test_an_entropy_that_is_not_used_costs_no_more(frozen: bool) -> None:
    hidden, head, targets = build(8, 4, 300)
    head.weight.requires_grad_(not frozen)
    counts = []
    for with_entropy in (False, True):
        log_probs, _ = token_log_probs(
            hidden,
            head,
            targets,
            with_entropy=with_entropy,
            chunk_bytes=chunks_of(300, 8, buffers=2),
        )
        with LargestTensor() as mode:
            log_probs.sum().backward()
        counts.append(mode.num_products)
    assert counts == ([0, 0] if frozen else [3, 3])


def test_an_entropy_alone() -> None:
    arguments = build()
    for chunk_bytes in (1, 2**20):
        _, ours = token_log_probs(*arguments, with_entropy=True, chunk_bytes=chunk_bytes)
        _, plain = plain_token_log_probs(*arguments, with_entropy=True)
        assert ours is not None
        assert plain is not None
        found, expected = (torch.autograd.grad(each.sum(), arguments[0])[0] for each in (ours, plain))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
def test_an_entropy_that_is_but_looked_at(chunk_bytes: int) -> None:
    hidden, head, targets = build(soft_cap=2.0)
    for frozen in (False, True):
        described = OutputHead(head.weight.detach() if frozen else head.weight, soft_cap=2.0)
        log_probs, entropy = token_log_probs(hidden, described, targets, with_entropy=True, chunk_bytes=chunk_bytes)
        plain, expected = plain_token_log_probs(hidden, described, targets, with_entropy=True)
        assert entropy is not None
        assert expected is not None
        torch.testing.assert_close(entropy, expected, check_stride=False)
        losses = ((each.square().sum(), (each * own).sum()) for each, own in ((log_probs, entropy), (plain, expected)))
        for found, wanted in zip(*losses, strict=True):  # without the entropy's gradient, and with it
            ours, theirs = (torch.autograd.grad(loss, hidden, retain_graph=True)[0] for loss in (found, wanted))
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("frozen", [False, True])
def test_logits_of_all_rows_are_never_held(with_entropy: bool, soft_cap: float | None, frozen: bool) -> None:
    hidden, head, targets = build(256, 2, 4096, dtype=torch.float32, soft_cap=soft_cap)
    head.weight.requires_grad_(not frozen)
    bound = 256 * 4096 // 16
    with LargestTensor() as mode:
        differentiated(token_log_probs, hidden, head, targets, with_entropy=with_entropy, chunk_bytes=4 * bound)
    assert bound // 2 < mode.num_entries <= bound
    with LargestTensor() as mode:
        differentiated(plain_token_log_probs, hidden, head, targets, with_entropy=with_entropy)
    assert mode.num_entries >= 256 * 4096


def test_a_backward_pass_keeps_nothing_of_the_size_of_the_logits() -> None:
    hidden, head, targets = build(128, 2, 2048)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        token_log_probs(hidden, head, targets, with_entropy=True, chunk_bytes=2**16)
    assert sorted(saved) == [128, 128, 128, 256, 4096]


def test_few_logits_are_computed_once() -> None:
    arguments = build(8, 4, 16)
    with patch.object(module, "_reduce", side_effect=AssertionError("computed in chunks")):
        found = differentiated(token_log_probs, *arguments, with_entropy=True)
    assert_all_close(found, differentiated(plain_token_log_probs, *arguments, with_entropy=True), rtol=0.0, atol=0.0)


def rounded_leaves(hidden: Tensor, head: OutputHead, dtype: torch.dtype) -> tuple[Tensor, OutputHead]:
    """Rounded to halves, but held in double precision."""

    def rounded(tensor: Tensor) -> Tensor:
        return tensor.detach().to(dtype).double().requires_grad_(tensor.requires_grad)

    assert head.bias is not None
    return rounded(hidden), OutputHead(rounded(head.weight), rounded(head.bias), head.scale, head.soft_cap)


def multiply_halves_as_cuda_does(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    assert left.dtype == right.dtype
    return out.copy_(left.double() @ right.double())


@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("as_cuda", [False, True])
def test_halves(as_cuda: bool, autocast: bool, dtype: torch.dtype, frozen: bool, soft_cap: float | None) -> None:
    """Given such, or from autocast; values are exact to float32 where products are not rounded."""
    given_dtype = torch.float32 if autocast else dtype
    hidden, head, targets = build(12, 16, 70, dtype=torch.float32, with_bias=True, soft_cap=soft_cap)
    assert head.bias is not None
    hidden = hidden.detach().to(dtype).to(given_dtype).requires_grad_()
    weight, bias = (each.detach().to(dtype).to(given_dtype) for each in (head.weight, head.bias))
    head = OutputHead(weight.requires_grad_(not frozen), bias.requires_grad_(not frozen), soft_cap=soft_cap)
    wide_hidden, wide_head = rounded_leaves(hidden, head, dtype)
    options = {"with_entropy": not frozen}
    expected = differentiated(plain_token_log_probs, wide_hidden, wide_head, targets, **options)
    product = multiply_halves_as_cuda_does if as_cuda else module._multiply
    with patch.object(module, "_multiply", product), torch.autocast("cpu", dtype=dtype, enabled=autocast):
        found = differentiated(token_log_probs, hidden, head, targets, **options, chunk_bytes=2**10)
    num_values = 1 if frozen else 2
    assert [each.dtype for each in found] == [torch.float32] * num_values + [given_dtype] * (1 if frozen else 3)
    found = [each.double() for each in found]
    rounding = 8 * torch.finfo(dtype).eps
    value_rounding = 1e-5 if as_cuda else rounding
    assert_all_close(found[:num_values], expected[:num_values], rtol=value_rounding, atol=value_rounding)
    assert_all_close(found[num_values:], expected[num_values:], rtol=rounding, atol=rounding)


@pytest.mark.parametrize("frozen", [False, True])
def test_sums_over_chunks_are_not_rounded_to_halves(frozen: bool) -> None:
    hidden, head, targets = build(12, 16, 4096, dtype=torch.bfloat16, with_bias=True)
    head.weight.requires_grad_(not frozen)
    assert head.bias is not None
    head.bias.requires_grad_(not frozen)
    wide_hidden, wide_head = rounded_leaves(hidden, head, torch.bfloat16)
    with patch.object(module, "_multiply", multiply_halves_as_cuda_does):
        found = differentiated(token_log_probs, hidden, head, targets, chunk_bytes=chunks_of(8, 12, torch.float32))
    expected = differentiated(plain_token_log_probs, wide_hidden, wide_head, targets)
    error = (found[1].double() - expected[1]).norm() / expected[1].norm()
    assert error < torch.finfo(torch.bfloat16).eps / 2


def test_backward_in_and_out_of_autocast() -> None:
    hidden, head, targets = build(12, 16, 70, dtype=torch.float32, with_bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs, _ = token_log_probs(hidden, head, targets, chunk_bytes=2**10)
        inside = differentiated(token_log_probs, hidden, head, targets, chunk_bytes=2**10)
    weighted = (log_probs * torch.linspace(-1, 2, 12)).sum()
    assert head.bias is not None
    outside = torch.autograd.grad(weighted, (hidden, head.weight, head.bias))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(inside[1:], outside, strict=True))


def test_autocast_leaves_double_precision_alone() -> None:
    arguments = build()
    expected = differentiated(plain_token_log_probs, *arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for chunk_bytes in (1, 2**20):
            assert_all_close(differentiated(token_log_probs, *arguments, chunk_bytes=chunk_bytes), expected)


def test_hidden_states_of_half_and_a_head_of_full_precision() -> None:
    hidden, head, targets = build(dtype=torch.float32)
    half = hidden.detach().bfloat16().requires_grad_()
    found = differentiated(token_log_probs, half, head, targets)
    expected = differentiated(plain_token_log_probs, half.detach().float().requires_grad_(), head, targets)
    assert [each.dtype for each in found] == [torch.float32, torch.bfloat16, torch.float32]
    assert_all_close([each.float() for each in found], expected, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
def test_no_rows(frozen: bool, chunk_bytes: int) -> None:
    hidden, head, targets = build(0, with_bias=True, dtype=torch.bfloat16)
    head.weight.requires_grad_(not frozen)
    log_probs, entropy = token_log_probs(hidden, head, targets, with_entropy=True, chunk_bytes=chunk_bytes)
    assert entropy is not None
    assert log_probs.shape == entropy.shape == (0,)
    (log_probs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == hidden.shape
    if not frozen:
        assert head.weight.grad is not None
        assert not head.weight.grad.any()


def test_large_logits_and_forbidden_tokens() -> None:
    """Logits of ±10⁴, which rise from chunk to chunk, and a bias of -∞ on some tokens."""
    weight = torch.linspace(-1e4, 1e4, 9, dtype=torch.float64).unsqueeze(1).requires_grad_()
    hidden, targets = torch.tensor([[1.0], [-1.0]], dtype=torch.float64, requires_grad=True), torch.tensor([8, 7])
    for head in (OutputHead(weight), OutputHead(weight, torch.tensor([-torch.inf, 0, 0] * 3, dtype=torch.float64))):
        found = differentiated(token_log_probs, hidden, head, targets, chunk_bytes=1)
        assert all(each.isfinite().all() for each in found)
        assert_all_close(found, differentiated(plain_token_log_probs, hidden, head, targets))


def test_what_is_not_finite_shows() -> None:
    hidden, head, targets = build()
    with torch.no_grad():
        hidden[2, 1] = torch.nan
        log_probs, _ = token_log_probs(hidden, head, targets, chunk_bytes=1)
    assert log_probs.isnan().tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("token", [-100, -1, 11])
@pytest.mark.parametrize("function", [token_log_probs, plain_token_log_probs])
def test_targets_outside_the_vocabulary(function: Any, token: int) -> None:
    hidden, head, targets = build()
    targets[3] = token
    with pytest.raises(ValueError, match=rf"targets must be tokens in \[0, 11\).*got .*{token}.*leave out"):
        function(hidden, head, targets)


def test_shapes_that_do_not_agree() -> None:
    hidden, head, targets = build()
    for bad in ((hidden[:5], head, targets), (hidden[:, :3], head, targets), (hidden.unsqueeze(0), head, targets)):
        with pytest.raises(ValueError, match=r"do not agree: expected \[D, H\]"):
            token_log_probs(*bad)
