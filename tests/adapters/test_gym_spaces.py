"""Features of observations, and distributions over actions: they are distributions, and sample what they say."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from grpo_adapters.gym import (
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    ObservationEncoder,
    distribution_for,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def draw(distribution: Any, outputs: Tensor, num_samples: int, masks: Tensor | None = None) -> Tensor:
    """Decisions of one state, [num_samples, ...]."""
    noise = distribution.noise((num_samples,), generator(1))
    many = None if masks is None else masks.expand(num_samples, -1)
    decisions: Tensor = distribution.sample(outputs.expand(num_samples, -1), noise, many)
    return decisions


ENCODED: list[tuple[Any, Any, list[list[float]]]] = [
    (spaces.Box(-1, 1, (2,), np.float64), np.array([[0.5, 1.0], [0.0, -1.0]]), [[0.5, 1.0], [0.0, -1.0]]),
    (spaces.Discrete(3, start=-1), np.array([-1, 1]), [[1, 0, 0], [0, 0, 1]]),
    (spaces.MultiDiscrete([2, 3]), np.array([[1, 0], [0, 2]]), [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
    (spaces.MultiDiscrete([2, 2], start=[5, 1]), np.array([[5, 2], [6, 1]]), [[1, 0, 0, 1], [0, 1, 1, 0]]),
    (spaces.MultiBinary(3), np.array([[1, 0, 1], [0, 0, 0]], dtype=np.int8), [[1, 0, 1], [0, 0, 0]]),
    (
        spaces.Dict({"b": spaces.Box(0, 9, (2, 1)), "a": spaces.Discrete(2)}),
        {"a": np.array([1, 0]), "b": np.array([[[3.0], [4.0]], [[5.0], [6.0]]])},
        [[0, 1, 3, 4], [1, 0, 5, 6]],
    ),
]


@pytest.mark.parametrize(("space", "observations", "expected"), ENCODED)
def test_features_of_observations(space: Any, observations: Any, expected: list[list[float]]) -> None:
    encoder = ObservationEncoder(space)
    features = encoder(observations)
    assert features.dtype == np.float32
    assert features.tolist() == expected
    assert features.shape[1:] == encoder.shape
    for index, own in enumerate(expected):
        one = {n: part[index] for n, part in observations.items()} if isinstance(observations, dict) else observations
        assert encoder.single(one if isinstance(one, dict) else one[index]).tolist() == own


def test_pictures_keep_their_shape() -> None:
    encoder = ObservationEncoder(spaces.Box(0, 255, (4, 5, 3), np.uint8))
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert encoder.shape == (4, 5, 3)
    assert np.array_equal(encoder(picture[None])[0], picture)
    assert np.array_equal(encoder.single(picture), picture)


def all_decisions(space: Any) -> Tensor:
    if isinstance(space, spaces.Discrete):
        return torch.arange(int(space.n))
    return torch.tensor(list(product(*(range(size) for size in space.nvec))))


DISCRETE = [
    spaces.Discrete(4),
    spaces.Discrete(3, start=7),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([3, 1, 2], start=[1, 0, -4]),
]


@pytest.mark.parametrize("space", DISCRETE)
@given(seed=st.integers(0, 1000), scale=st.floats(0, 20), allowed=st.booleans())
def test_probabilities_sum_to_one_and_give_the_entropy(space: Any, seed: int, scale: float, allowed: bool) -> None:
    distribution = distribution_for(space)
    outputs = scale * normal(1, distribution.num_outputs, seed=seed)
    masks = None if allowed else masks_for(distribution, seed)
    decisions = all_decisions(space)
    outputs = outputs.expand(len(decisions), -1)
    masks = None if masks is None else masks.expand(len(decisions), -1)
    log_probs, entropy = distribution.log_probs_and_entropy(outputs, decisions, masks)
    probabilities = log_probs.double().exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5)
    expected = -(probabilities * log_probs)[probabilities > 0].sum().item()
    assert entropy[0].item() == pytest.approx(expected, abs=1e-4)
    of_mode, _ = distribution.log_probs_and_entropy(outputs, distribution.mode(outputs, masks), masks)
    assert of_mode[0].item() == pytest.approx(log_probs.max().item(), abs=1e-5)


def masks_for(distribution: Any, seed: int) -> Tensor:
    """A mask that forbids the last option of each choice that has several, and perhaps some more."""
    parts = []
    for size in distribution.sizes:
        part = torch.rand(size, generator=generator(seed)) < 0.7
        part[-1], part[0] = size == 1, True
        parts.append(part)
    return torch.cat(parts).unsqueeze(0)


@pytest.mark.parametrize("space", DISCRETE)
def test_choices_come_as_often_as_their_probabilities_say(space: Any) -> None:
    distribution = distribution_for(space)
    outputs = normal(1, distribution.num_outputs)
    decisions = draw(distribution, outputs, 40_000)
    for decision in all_decisions(space):
        same = (decisions == decision).reshape(len(decisions), -1).all(-1)
        log_prob, _ = distribution.log_probs_and_entropy(outputs, decision.unsqueeze(0), None)
        assert same.float().mean().item() == pytest.approx(log_prob.exp().item(), abs=0.012)


@pytest.mark.parametrize("space", DISCRETE)
def test_actions_are_in_the_space_and_all_of_it(space: Any) -> None:
    actions = distribution_for(space).actions(all_decisions(space))
    assert all(action in space for action in actions)
    assert len({tuple(np.atleast_1d(action).tolist()) for action in actions}) == len(all_decisions(space))
    assert np.array_equal(np.asarray(actions).min(0), np.asarray(space.start))


@pytest.mark.parametrize("space", DISCRETE)
def test_what_is_forbidden_has_probability_zero_and_no_gradient(space: Any) -> None:
    distribution = distribution_for(space)
    masks = masks_for(distribution, seed=3)
    outputs = (5 * normal(1, distribution.num_outputs)).requires_grad_()
    decisions = draw(distribution, outputs.detach(), 5000, masks)
    starts = np.cumsum([0, *distribution.sizes[:-1]])
    chosen = decisions.reshape(5000, -1) + torch.from_numpy(starts)
    assert masks[0][chosen].all()
    assert masks[0][distribution.mode(outputs, masks).reshape(-1) + torch.from_numpy(starts)].all()

    forbidden = all_decisions(space)[-1:]
    with torch.no_grad():
        assert distribution.log_probs_and_entropy(outputs, forbidden, masks)[0].exp().item() == 0
    log_probs, entropy = distribution.log_probs_and_entropy(outputs, decisions[:1], masks)
    assert entropy.isfinite().all()
    (gradient,) = torch.autograd.grad(log_probs.sum() + entropy.sum(), outputs)
    assert (gradient[~masks] == 0).all()
    assert (gradient[masks] != 0).any()


def test_a_single_option_is_certain() -> None:
    distribution = Categorical(spaces.Discrete(3))
    masks = torch.tensor([[False, True, False]])
    log_probs, entropy = distribution.log_probs_and_entropy(normal(1, 3), torch.tensor([1]), masks)
    assert log_probs.item() == 0
    assert entropy.item() == 0


def test_a_mask_of_another_size_is_refused() -> None:
    distribution = MultiCategorical(spaces.MultiDiscrete([2, 3]))
    with pytest.raises(ValueError, match=r"action_mask of 4 environments has shape \[4, 3\], expected \[4, 5\]"):
        distribution.mode(normal(4, 5), torch.ones(4, 3, dtype=torch.bool))


@pytest.mark.parametrize("mean", [-1.5, 0.0, 0.7])
@pytest.mark.parametrize("std", [0.2, 1.0])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (2.0, 7.0), (-math.inf, math.inf)])
def test_densities_over_the_actions_integrate_to_one(low: float, high: float, mean: float, std: float) -> None:
    space = spaces.Box(low, high, (1,), np.float64)
    distribution = DiagonalGaussian(space, initial_std=std).double()
    drawn = torch.linspace(mean - 9 * std, mean + 9 * std, 20_001, dtype=torch.float64).unsqueeze(-1)
    with torch.no_grad():
        log_probs, _ = distribution.log_probs_and_entropy(torch.full_like(drawn, mean), drawn, None)
    actions = distribution.actions(drawn)[:, 0]
    assert (np.diff(actions) >= 0).all()
    assert np.trapezoid(log_probs.exp().numpy(), actions) == pytest.approx(1, abs=1e-3)
    if math.isfinite(high):
        assert actions.min() < low + 0.2 * (high - low)
        assert actions.max() > high - 0.5 * (high - low)


def test_a_bounded_density_is_that_of_the_actions_that_are_played() -> None:
    """A histogram of actions against the density, so that the two agree on where an action lies."""
    space = spaces.Box(-2.0, 4.0, (1,), np.float64)
    distribution = DiagonalGaussian(space, initial_std=0.6).double()
    outputs = torch.tensor([[0.4]], dtype=torch.float64)
    with torch.no_grad():
        drawn = draw(distribution, outputs, 100_000)
        counts, edges = np.histogram(distribution.actions(drawn)[:, 0], bins=24, range=(-2, 4))
        width = edges[1] - edges[0]
        centres = torch.from_numpy((edges[:-1] + edges[1:]) / 2)
        at_centres = torch.atanh((centres - 1) / 3).unsqueeze(-1)
        log_probs, _ = distribution.log_probs_and_entropy(outputs.expand(24, -1), at_centres, None)
    np.testing.assert_allclose(counts / (100_000 * width), log_probs.exp().numpy(), atol=0.03)


BOXES = [
    spaces.Box(-1.0, 1.0, (1,)),
    spaces.Box(np.array([-1.0, 0.0, -np.inf]), np.array([3.0, 0.5, np.inf]), dtype=np.float64),
    spaces.Box(-np.inf, np.inf, (2,)),
]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("std", [0.3, 1.0])
def test_entropy_of_continuous_actions_is_that_of_samples(box: spaces.Box, std: float) -> None:
    distribution = DiagonalGaussian(box, initial_std=std)
    outputs = 0.5 * normal(1, *box.shape)
    with torch.no_grad():
        decisions = draw(distribution, outputs, 200_000)
        log_probs, entropy = distribution.log_probs_and_entropy(outputs.expand(200_000, -1), decisions, None)
    error = log_probs.std().item() / math.sqrt(200_000)
    assert entropy[0].item() == pytest.approx(-log_probs.mean().item(), abs=4 * error + 1e-3)
    assert (entropy == entropy[0]).all()


@pytest.mark.parametrize("box", BOXES)
def test_gradient_of_the_entropy_of_continuous_actions(box: spaces.Box) -> None:
    distribution = DiagonalGaussian(box, initial_std=0.7).double()
    outputs = (0.5 * normal(1, *box.shape)).double().requires_grad_()

    def entropy(mean: Tensor, log_std: Tensor) -> Tensor:
        with torch.no_grad():
            distribution.log_std.copy_(log_std)
        return distribution.log_probs_and_entropy(mean, torch.zeros_like(mean), None)[1].sum()

    start = distribution.log_std.detach().clone()
    gradients = torch.autograd.grad(entropy(outputs, start), [outputs, distribution.log_std], allow_unused=True)
    step = 1e-5
    for index in range(box.shape[0]):
        change = torch.zeros_like(start)
        change[index] = step
        with torch.no_grad():
            by_mean = (entropy(outputs + change, start) - entropy(outputs - change, start)) / (2 * step)
            by_std = (entropy(outputs, start + change) - entropy(outputs, start - change)) / (2 * step)
        found = torch.zeros(()) if gradients[0] is None else gradients[0][0, index]
        assert found.item() == pytest.approx(by_mean.item(), abs=1e-6)
        assert gradients[1][index].item() == pytest.approx(by_std.item(), abs=1e-6)


def test_gradient_of_the_entropy_of_choices() -> None:
    distribution = MultiCategorical(spaces.MultiDiscrete([2, 3]))
    masks = torch.tensor([[True, True, True, False, True]])
    zeros = torch.zeros(1, 2, dtype=torch.int64)
    outputs = normal(1, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda out: distribution.log_probs_and_entropy(out, zeros, masks)[1], outputs)


@pytest.mark.parametrize(
    "box",
    [
        *BOXES,
        spaces.Box(0.0, np.inf, (2,)),
        spaces.Box(np.array([-np.inf, -0.1]), np.array([0.1, 0.3]), dtype=np.float64),
        spaces.Box(-0.1, 0.3, (2,), np.float16),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_continuous_actions_are_in_the_space(box: spaces.Box, scale: float) -> None:
    distribution = DiagonalGaussian(box)
    with torch.no_grad():
        decisions = draw(distribution, scale * normal(1, *box.shape), 1000)
        log_probs, entropy = distribution.log_probs_and_entropy(
            scale * normal(1, *box.shape).expand(1000, -1), decisions, None
        )
    actions: NDArray[Any] = distribution.actions(decisions)
    assert actions.dtype == box.dtype
    assert all(action in box for action in actions)
    assert log_probs.isfinite().all()
    assert entropy.isfinite().all()


def test_an_unbounded_density_is_gaussian_and_the_mode_its_mean() -> None:
    distribution = DiagonalGaussian(spaces.Box(-np.inf, np.inf, (3,)), initial_std=0.5)
    outputs, decisions = normal(4, 3), normal(4, 3, seed=1)
    expected = torch.distributions.Normal(outputs, 0.5)
    log_probs, entropy = distribution.log_probs_and_entropy(outputs, decisions, None)
    torch.testing.assert_close(log_probs, expected.log_prob(decisions).sum(-1))
    torch.testing.assert_close(entropy, expected.entropy().sum(-1))
    assert torch.equal(distribution.mode(outputs, None), outputs)
    np.testing.assert_array_equal(distribution.actions(outputs), outputs.numpy())


def test_without_squashing_what_is_drawn_is_gaussian_and_what_is_played_clipped() -> None:
    distribution = DiagonalGaussian(spaces.Box(-1, 2, (2,)), initial_std=0.5, squash=False)
    drawn = torch.tensor([[-3.0, 0.25], [1.5, 9.0]])
    means = torch.zeros(2, 2)
    expected = torch.distributions.Normal(means, 0.5)
    log_probs, entropy = distribution.log_probs_and_entropy(means, drawn, None)
    torch.testing.assert_close(log_probs, expected.log_prob(drawn).sum(-1))
    torch.testing.assert_close(entropy, expected.entropy().sum(-1))
    np.testing.assert_array_equal(distribution.actions(drawn), [[-1.0, 0.25], [1.5, 2.0]])


def test_a_bounded_density_far_out_is_the_exact_one() -> None:
    """log(1 - tanh²) of what was drawn far out, where tanh itself rounds to 1."""
    distribution = DiagonalGaussian(spaces.Box(-1, 1, (1,)))
    drawn = torch.tensor([[12.0], [-30.0]])
    with torch.no_grad():
        log_probs, _ = distribution.log_probs_and_entropy(drawn, drawn, None)
    expected = [-math.log(2 * math.pi) / 2 - (2 * math.log(2) - 2 * abs(x)) for x in (12.0, -30.0)]
    assert log_probs.tolist() == pytest.approx(expected, rel=1e-6)
