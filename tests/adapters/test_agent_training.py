"""A step on conversations of a game follows the gradient that one writes by hand, turn by turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from adventure_game import ADVENTURE, Rooms
from agent_start import make_policy
from grpo import GRPOConfig, GRPOTrainer, MonteCarlo, group_time_baseline
from grpo_adapters.huggingface import AgentSampler, CausalLMPolicy, Conversation, ConversationReward, SamplingConfig
from text_games import Message

GROUP_SIZE = 4
Advantages = list[list[float]]
"""Of each turn of each conversation."""


class Warmer(Rooms):
    """Rewards each turn that ends with a move to another room, so that a model with random weights is rewarded too."""

    async def step(self, message: Message) -> tuple[list[Message], float, bool]:
        before = self.place
        answers, _, is_over = await super().step({"content": message["content"][-1:]})
        return answers, float(self.place != before), is_over


class Listening(AgentSampler):
    """Remembers the conversations that it sampled."""

    def sample(self, *arguments: Any, **settings: Any) -> list[list[Conversation]]:
        self.groups = super().sample(*arguments, **settings)
        return self.groups


def of_conversations(group: Sequence[Conversation]) -> Advantages:
    """A conversation's reward in standard deviations from the group's mean, for each of its turns."""
    rewards = [sum(turn.reward for turn in own.turns) for own in group]
    mean, std = statistics.mean(rewards), statistics.stdev(rewards)
    return [
        [(reward - mean) / std if std else 0.0] * len(own.turns) for own, reward in zip(group, rewards, strict=True)
    ]


def of_turns(group: Sequence[Conversation]) -> Advantages:
    """Rewards from a turn on, less their mean over the conversations that got as far."""
    to_go = [[sum(turn.reward for turn in own.turns[place:]) for place in range(len(own.turns))] for own in group]
    most = max(map(len, to_go))
    means = [statistics.mean(own[place] for own in to_go if place < len(own)) for place in range(most)]
    return [[value - means[place] for place, value in enumerate(own)] for own in to_go]


def loss_by_hand(
    policy: CausalLMPolicy,
    groups: Sequence[Sequence[Conversation]],
    advantages_of: Callable[[Sequence[Conversation]], Advantages],
    averaging: Any,
) -> torch.Tensor:
    """Minus the sum of weight x advantage x log-prob over the model's own tokens, each turn evaluated by itself."""
    conversations = [own for group in groups for own in group]
    num_tokens = sum(len(turn.completion.token_ids) for own in conversations for turn in own.turns)
    total = torch.zeros((), dtype=torch.float64)
    for group in groups:
        for own, advantages in zip(group, advantages_of(group), strict=True):
            own_tokens = sum(len(turn.completion.token_ids) for turn in own.turns)
            weight = {
                "per_sample": 1 / (len(conversations) * own_tokens),
                "per_decision": 1 / num_tokens,
            }.get(averaging) or 1 / (len(conversations) * averaging)
            for turn, advantage in zip(own.turns, advantages, strict=True):
                said = torch.tensor(turn.completion.token_ids)
                logits = policy.causal_model(input_ids=torch.tensor([[*turn.context, *said.tolist()]])).logits[0]
                predicted = logits[len(turn.context) - 1 : -1].log_softmax(-1)
                total = total - weight * advantage * predicted.gather(1, said[:, None]).sum()
    return total


@pytest.mark.parametrize("averaging", ["per_sample", "per_decision", 7])
@pytest.mark.parametrize(
    ("per", "estimator", "advantages_of"),
    [("conversation", None, of_conversations), ("turn", MonteCarlo(baseline=group_time_baseline), of_turns)],
)
def test_a_step_follows_the_sum_over_own_tokens(
    per: Any, estimator: Any, advantages_of: Callable[[Sequence[Conversation]], Advantages], averaging: Any
) -> None:
    policy = make_policy(ADVENTURE, seed=1)
    policy.model.double()
    policy.sampling = SamplingConfig(max_new_tokens=8, stop_strings=("n", "e", "s", "w"))
    sampler = Listening(Warmer, max_turns=4)
    before = {name: value.detach().clone() for name, value in policy.get_parameters().items()}
    trainer: GRPOTrainer[Any, Any] = GRPOTrainer(
        GRPOConfig(group_size=GROUP_SIZE, max_grad_norm=None, loss_averaging=averaging, micro_batch_size=5),
        policy,
        ConversationReward(per),
        sampler=sampler,
        optimizer=torch.optim.SGD(policy.get_parameters().values(), lr=1.0),
        advantage_estimator=estimator,
    )
    rows, _ = ADVENTURE.make_rows(0)
    metrics = trainer.step(rows[:3])
    after = {name: value.detach().clone() for name, value in policy.get_parameters().items()}
    with torch.no_grad():
        for name, value in policy.get_parameters().items():
            value.copy_(before[name])
    assert len({len(own.turns) for group in sampler.groups for own in group}) > 2
    assert metrics["reward_std"] > 0.3
    loss = loss_by_hand(policy, sampler.groups, advantages_of, averaging)
    gradients = torch.autograd.grad(loss, list(policy.get_parameters().values()))
    for (name, value), gradient in zip(before.items(), gradients, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(value - after[name], gradient, rtol=0, atol=1e-6 * float(gradient.abs().max()))
