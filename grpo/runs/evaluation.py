"""How good a policy is, apart from the rewards that it is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grpo.collection.experience_collector import ExperienceCollector
from grpo.data._checks import require_positive_integer
from grpo.data._protocols import type_name
from grpo.models._random_states import preserved_random_states
from grpo.models.policy import PolicyModel
from grpo.models.reward_model import RewardModel
from grpo.rollout.sampler import PolicySampler, Sampler
from grpo.runs.callback import Callback
from grpo.runs.run import Run

NORMAL_QUANTILE = 1.96

Evaluator = Callable[[Any], Mapping[str, float]]
"""From a policy to metrics of it."""


class Evaluate(Callback):
    """Evaluates the policy before the first step and every so many steps, as :attr:`grpo.Run.evaluation` tells.

    Random generators are put back afterwards: how often a run is evaluated changes nothing of what is trained. Of
    several processes each evaluates, and all take the metrics of the first.

    Args:
        evaluator: from the policy to metrics, a :class:`grpo.PolicyEvaluation` or a function.
        every: steps between evaluations.
        name: before the names of the metrics, ``"evaluation/reward"`` for instance.
        at_start: whether to evaluate before the first step as well.

    Example:
        >>> from grpo import GRPOConfig, GRPOTrainer, Until
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> score = Evaluate(lambda policy: {"arm_1": policy.probabilities()[1].item()}, every=10)
        >>> run = Run(GRPOTrainer(GRPOConfig(), SoftmaxPolicy(2), StationaryBandit([0, 1])), ["s"], callbacks=[score])
        >>> run(Until(steps=9))
        >>> run.evaluation
        {'evaluation/arm_1': 0.5}
    """

    def __init__(self, evaluator: Evaluator, every: int, *, name: str = "evaluation", at_start: bool = True) -> None:
        if not callable(evaluator) or isinstance(evaluator, type):
            raise TypeError(f"evaluator is {evaluator!r}, expected a function from a policy to metrics by name")
        require_positive_integer(every, "every", "steps between evaluations")
        self.evaluator = evaluator
        self.every = every
        self.name = name
        self.at_start = at_start
        self._noted: dict[str, float] = {}

    def start(self, run: Run) -> None:
        """Evaluate before the first step."""
        if self.at_start and run.num_steps == 0:
            self._evaluate(run)

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Evaluate if it is time to."""
        if run.num_steps % self.every == 0:
            self._evaluate(run)

    def _evaluate(self, run: Run) -> None:
        policy = run.trainer.policy
        with preserved_random_states([policy]):
            metrics = self.evaluator(policy)
        if not isinstance(metrics, Mapping):
            raise TypeError(f"evaluator returned {metrics!r:.200}, expected a mapping from names to floats")
        for name, value in metrics.items():
            if not isinstance(value, float | int):
                raise TypeError(
                    f"evaluator returned {value!r:.200} as {name!r}, a {type_name(value)}, expected a float: call "
                    f"float(...) on a number of another kind, and give each of several a name of its own"
                )
        noted = {f"{self.name}/{name}": float(value) for name, value in metrics.items()}
        self._noted = run.world.broadcast(noted)
        self._require_own_names(run)
        run.note_evaluation(self._noted)

    def _require_own_names(self, run: Run) -> None:
        others = (other for other in run.callbacks if isinstance(other, Evaluate) and other is not self)
        twice = [name for other in others for name in self._noted if name in other._noted]
        if twice:
            raise ValueError(
                f"two Evaluate callbacks tell {twice[0]!r}, so that one would hide the other: give one of them another "
                f"name, Evaluate(..., name='held_out') for instance"
            )


def at_least_one(rewards: Tensor) -> Tensor:
    """Whether rewards are 1 or more, bool of the same shape."""
    return rewards >= 1


class PolicyEvaluation:
    """Samples actions for states of its own and scores them by a reward model of its own.

    Each call draws the same random numbers, so that evaluations differ by the policy alone. The metrics are
    ``reward``, the mean over states of the mean over their actions; ``reward_low`` and ``reward_high``, its 95%
    confidence interval by the normal approximation over states; and ``pass@k`` for each k asked for: the probability
    that at least one of k actions is a success, estimated without bias from all that were sampled.

    Args:
        states: S states.
        reward_model: scores actions, one reward a sample.
        group_size: actions for each state, G.
        pass_at: each k, at most G.
        is_success: whether rewards [N] count as success, bool [N]; those of at least 1 do where nothing is said.
        sampler: makes the actions; None for the policy itself.
        seed: of the random numbers.
        generation_kwargs: for the sampler, and handed on by it to ``generate_actions``: what makes it sample greedily,
            for instance.

    Raises:
        ValueError: if a k is above the group size.

    References:
        pass@k: Chen et al. 2021, arXiv:2107.03374.

    Example:
        >>> from grpo_adapters.bandit import ContextualBandit, SoftmaxPolicy
        >>> bandit = ContextualBandit(lambda contexts: contexts)  # a context is what each arm pays
        >>> states = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        >>> metrics = PolicyEvaluation(states, bandit, group_size=4, pass_at=(2,))(SoftmaxPolicy(2))
        >>> metrics["reward"], metrics["pass@2"]
        (0.5, 0.5)
    """

    def __init__(
        self,
        states: Any,
        reward_model: RewardModel[Any, Any],
        *,
        group_size: int = 1,
        pass_at: Sequence[int] = (),
        is_success: Callable[[Tensor], Tensor] = at_least_one,
        sampler: Sampler[Any, Any] | None = None,
        seed: int = 0,
        generation_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        require_positive_integer(group_size, "group_size", "actions for each state")
        if not isinstance(pass_at, Sequence):
            raise TypeError(f"pass_at is {pass_at!r}, expected a sequence of integers: pass ({pass_at!r},)")
        beyond = [k for k in pass_at if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= group_size]
        if beyond:
            raise ValueError(f"pass_at holds {beyond}, expected 1 to the group_size, {group_size}, integers")
        self.states = states
        self.reward_model = reward_model
        self.group_size = group_size
        self.pass_at = tuple(pass_at)
        self.is_success = is_success
        self.sampler = sampler
        self.seed = seed
        self.generation_kwargs = dict(generation_kwargs or {})

    def __call__(self, policy: PolicyModel[Any, Any]) -> dict[str, float]:
        """Metrics of the policy, which is left in evaluation mode."""
        sampler = PolicySampler() if self.sampler is None else self.sampler
        with preserved_random_states([policy, self.reward_model, sampler], seed=self.seed):
            collector = ExperienceCollector(policy, self.reward_model, sampler=sampler, group_size=self.group_size)
            rewards = collector.collect(self.states, **self.generation_kwargs).sample_rewards
        metrics = mean_with_interval(rewards.groups.mean(rewards.values), "reward")
        if self.pass_at:
            successes = rewards.groups.sum(self._successes(rewards.values).double())
            metrics |= {
                f"pass@{k}": pass_at_k(successes, rewards.groups.lengths, k).mean().item() for k in self.pass_at
            }
        return metrics

    def _successes(self, rewards: Tensor) -> Tensor:
        successes = self.is_success(rewards)
        if not isinstance(successes, Tensor) or successes.dtype != torch.bool or successes.shape != rewards.shape:
            raise TypeError(
                f"is_success returned {successes!r:.200}, expected a bool tensor of shape {list(rewards.shape)}, one a "
                f"reward: compare the rewards with a number, lambda rewards: rewards >= 1 for instance"
            )
        return successes


def mean_with_interval(values: Tensor, name: str) -> dict[str, float]:
    """The mean of independent values, [n], with the ends of its 95% confidence interval by the normal approximation.

    Args:
        values: [n], at least one.
        name: that the mean has in what is returned.

    Returns:
        The mean, and its interval's ends under ``name_low`` and ``name_high``, in the unit of the values; all three
        the same for one value.

    Example:
        >>> mean_with_interval(torch.tensor([1.0, 1.0, 1.0]), "reward")
        {'reward': 1.0, 'reward_low': 1.0, 'reward_high': 1.0}
    """
    std, mean = (part.item() for part in torch.std_mean(values.double(), correction=min(1, len(values) - 1)))
    half = NORMAL_QUANTILE * std / math.sqrt(len(values))
    return {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}


def pass_at_k(successes: Tensor, samples: Tensor, k: int) -> Tensor:
    """The probability that one of k samples succeeds, 1 - C(n - c, k) / C(n, k), without bias from c of n, [S].

    Args:
        successes: c, [S].
        samples: n, [S], at least k.
        k: at least 1.

    Returns:
        The probability of each state, [S], in [0, 1], float64.

    References:
        Chen et al. 2021, arXiv:2107.03374.

    Example:
        >>> pass_at_k(torch.tensor([0, 1, 4]), torch.tensor([4, 4, 4]), 2)
        tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    failures, samples = (samples - successes).double(), samples.double()
    tries = torch.arange(k, dtype=torch.float64, device=samples.device)
    remaining = (failures.unsqueeze(1) - tries).clamp(min=0) / (samples.unsqueeze(1) - tries)
    return 1 - remaining.prod(1)
