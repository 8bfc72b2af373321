"""Softmax policies: they pass the conformance kit, and say what a plain softmax says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo import GRPOConfig, GRPOTrainer, check_policy_model
from grpo_adapters.bandit import (
    ContextualBandit,
    ContextualSoftmaxPolicy,
    GaussianRewards,
    SoftmaxPolicy,
    StationaryBandit,
    seeded_generator,
)


def build_contextual() -> ContextualSoftmaxPolicy:
    torch.manual_seed(0)
    return ContextualSoftmaxPolicy(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)))


CONTEXTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("policy", "states"),
    [
        (SoftmaxPolicy(5), ["any", "state", "at all"]),
        (SoftmaxPolicy(5, torch.Generator().manual_seed(3)), torch.zeros(3, 1)),
        (build_contextual(), CONTEXTS),
        (build_contextual(), list(CONTEXTS)),
        (build_contextual().to(torch.float64), CONTEXTS.double()),
    ],
)
def test_conformance(policy: Any, states: Any) -> None:
    check_policy_model(policy, states)


def test_log_probs_and_entropy_are_those_of_a_softmax() -> None:
    policy = build_contextual().eval()
    actions = torch.tensor([2, 0, 1])
    expected = torch.distributions.Categorical(logits=policy.network(CONTEXTS))
    evaluation = policy.evaluate_actions(policy.encode_actions(CONTEXTS, actions))
    torch.testing.assert_close(evaluation.log_probs, expected.log_prob(actions))
    torch.testing.assert_close(evaluation.entropy, expected.entropy())
    torch.testing.assert_close(policy.get_log_probabilities(CONTEXTS, actions.tolist()), expected.log_prob(actions))


def test_probabilities_of_a_softmax_policy() -> None:
    policy = SoftmaxPolicy(3)
    torch.testing.assert_close(policy.probabilities(), torch.full((3,), 1 / 3))
    assert not policy.probabilities().requires_grad


def test_a_generator_of_its_own_makes_sampling_repeatable() -> None:
    def draw() -> Tensor:
        return SoftmaxPolicy(10, seeded_generator("policy", 1)).generate_actions([0, 1], 20)

    torch.manual_seed(0)
    first = draw()
    torch.manual_seed(1)
    assert torch.equal(draw(), first)


@pytest.mark.parametrize("settings", [{}, {"batch_size": 8, "num_epochs_per_update": 2}])
def test_grpo_finds_the_best_arm(settings: dict[str, int]) -> None:
    for seed in range(3):
        policy = SoftmaxPolicy(5, seeded_generator("policy", seed))
        bandit = StationaryBandit([0.1, 0.3, 0.9, 0.5, 0.2], seed=seed)
        trainer = GRPOTrainer(GRPOConfig(group_size=16, learning_rate=0.1, **settings), policy, bandit)
        for _ in range(200):
            trainer.step([0])
        assert policy.probabilities()[2] > 0.9


def test_grpo_finds_the_best_arm_of_every_context() -> None:
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(5))
    for seed in range(3):
        torch.manual_seed(seed)
        policy = ContextualSoftmaxPolicy(nn.Linear(4, 3))
        bandit = ContextualBandit(lambda contexts: contexts @ weights, GaussianRewards(0.5), seed=seed)
        trainer = GRPOTrainer(GRPOConfig(group_size=8, learning_rate=0.05), policy, bandit)
        for _ in range(150):
            trainer.step(torch.randn(32, 4))
        contexts = torch.randn(500, 4)
        chosen = policy.network(contexts).argmax(1)
        assert ((contexts @ weights).argmax(1) == chosen).float().mean() > 0.9


def test_a_copy_serves_as_reference() -> None:
    policy = SoftmaxPolicy(3, torch.Generator().manual_seed(0))
    trainer = GRPOTrainer(GRPOConfig(), policy, StationaryBandit([0.1, 0.5, 0.9]), copy.deepcopy(policy))
    assert trainer.step([0])["kl"] == 0
    assert trainer.step([0])["kl"] > 0
