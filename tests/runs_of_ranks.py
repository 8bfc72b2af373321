"""A small training in one process or several, of any settings, whose samples depend on nothing but its states."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from models import (
    EpisodePolicy,
    FunctionRewards,
    SequencePolicy,
    StepRewards,
    TablePolicy,
    TruncatingEpisodePolicy,
    TruncatingSequencePolicy,
    WalkerPolicy,
)
from torch import Tensor

from grpo import (
    AdaptiveKLCoefficient,
    DPOConfig,
    DPOTrainer,
    DynamicSampling,
    GeneralizedAdvantage,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    HorizonKLCoefficient,
    KLPenalizedRewards,
    KLPenaltySurrogate,
    MonteCarlo,
    Needs,
    OnlineDPOTrainer,
    PPOConfig,
    PPOTrainer,
    Preference,
    ReferenceSync,
    ReinforceConfig,
    ReinforceTrainer,
    SampleClippedSurrogate,
    Terms,
    World,
    batch_normalized_advantages,
    group_centered_advantages,
    group_time_baseline,
    mean_baseline,
)

NUM_TABLE_STATES = 3


@dataclass(frozen=True)
class Case:
    """What is trained, and how.

    Attributes:
        algorithm: which trainer.
        policy: which policy.
        states: of each step, as keys: a state of the policy is a key modulo the number of its states.
        settings: of the trainer's config.
        estimator: by name.
        objective: by name.
        optimizer: by name.
        reference: whether there is a reference policy.
        bad: keys whose rewards are not a number.
        cuts: seed of the shares of the processes.
    """

    algorithm: str = "grpo"
    policy: str = "table"
    states: tuple[tuple[int, ...], ...] = ((0, 1, 2, 3, 4), (5, 6, 7), (8, 9, 10, 11))
    settings: dict[str, Any] = field(default_factory=dict)
    estimator: str | None = None
    objective: str | None = None
    optimizer: str = "sgd"
    reference: bool = False
    bad: tuple[int, ...] = ()
    cuts: int = 0
    draws: bool = False


POLICIES: dict[str, Any] = {
    "table": TablePolicy,
    "sequence": SequencePolicy,
    "episode": EpisodePolicy,
    "truncating sequence": TruncatingSequencePolicy,
    "truncating episode": TruncatingEpisodePolicy,
    "walker": WalkerPolicy,
}


class SampledByKey:
    """Draws the actions for each key by a generator of the key's own."""

    def __init__(self) -> None:
        self.step = 0
        self.asked: Counter[int] = Counter()

    def begin(self, step: int) -> None:
        """Draw as in the first round of a step, whatever was asked before, here or elsewhere."""
        self.step = step
        self.asked.clear()

    def sample(self, policy: Any, states: Sequence[int], num_actions_per_state: int, **kwargs: Any) -> list[Any]:
        groups = []
        for key in states:
            with torch.random.fork_rng():
                torch.manual_seed(10_000 * self.step + 100 * key + self.asked[key])
                groups += policy.generate_actions([key], num_actions_per_state)
            self.asked[key] += 1
        return groups


def on_keys(policy_class: Any) -> Any:
    """A policy that is given keys in place of its states, and follows a mean of what it has seen."""

    class OnKeys(policy_class):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seen = torch.zeros(2, dtype=torch.float64)  # how many decisions, and in how many samples

        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return super().generate_actions([key % NUM_TABLE_STATES for key in states], num_actions_per_state)

        def encode_actions(self, states: Any, actions: Any) -> Any:
            return super().encode_actions([key % NUM_TABLE_STATES for key in states], actions)

        def get_log_probabilities(self, states: Any, actions: Any) -> Any:
            return super().get_log_probabilities([key % NUM_TABLE_STATES for key in states], actions)

        def update_statistics(self, batch: Any) -> None:
            self.seen += torch.tensor([batch.samples.total, len(batch.samples)], dtype=torch.float64)

    return OnKeys()


def reward_of(case: Case) -> Any:
    if case.policy == "walker":
        return StepRewards()

    def reward(key: int, action: Any) -> float:
        if key in case.bad:
            return float("nan")
        if isinstance(action, int):
            return float(action == key % 4) + 0.5 * (action == 3)
        return float(len(action) - abs(sum(action) - key % 5))

    return FunctionRewards(reward)


def above_the_mean(experience: Any) -> Tensor:
    """A user's estimator that looks at all samples and does not say so."""
    rewards = experience.sample_rewards.values
    assert len(experience.states) == len(experience.actions) == len(rewards)
    advantages: Tensor = (rewards - rewards.median()) / (1 + rewards.abs().max())
    return advantages


def estimator_of(name: str | None) -> Any:
    estimators: dict[str | None, Any] = {
        None: None,
        "centered": GroupRelative(group_centered_advantages),
        "batch": GroupRelative(batch_normalized_advantages),
        "own group function": GroupRelative(lambda rewards: rewards.centered / rewards.values.abs().max()),
        "mean": MonteCarlo(discount=0.9, baseline=mean_baseline),
        "time": MonteCarlo(discount=0.9, baseline=group_time_baseline),
        "own": above_the_mean,
        "kl": KLPenalizedRewards(GroupRelative(), AdaptiveKLCoefficient(0.01, 0.1)),
        "horizon": KLPenalizedRewards(
            MonteCarlo(discount=0.9, baseline=mean_baseline), HorizonKLCoefficient(0.01, 50.0)
        ),
        "gae": GeneralizedAdvantage(discount=0.9),
    }
    return estimators[name]


@Needs(critic=False, reference=False, all_samples=True)
def centred_over_the_step(evaluation: Any, decisions: Any) -> Terms:
    """A user's objective in which every decision's loss depends on all others of the optimiser step."""
    advantages = decisions.advantages - decisions.advantages.mean()
    log_probs = evaluation.log_probs - evaluation.log_probs.mean()
    lengths = decisions.samples.expand(decisions.samples.lengths.double())
    loss = -advantages * log_probs / lengths + 0.1 * log_probs.square()
    return Terms(loss, {"spread": log_probs.detach().square()})


def objective_of(name: str | None) -> Any:
    objectives: dict[str | None, Any] = {
        None: None,
        "penalty": GRPOObjective(surrogate=KLPenaltySurrogate(coefficient=AdaptiveKLCoefficient(0.001))),
        "gspo": GRPOObjective(surrogate=SampleClippedSurrogate()),
        "own": centred_over_the_step,
    }
    return objectives[name]


def shares(count: int, size: int, seed: int) -> list[int]:
    """Where the shares of ``size`` processes begin and end; some may be empty."""
    generator = torch.Generator().manual_seed(seed + 17 * count)
    inner = torch.randint(0, count + 1, (size - 1,), generator=generator).sort().values.tolist()
    return [0, *inner, count]


def trainer_of(case: Case, world: World) -> Any:
    """The trainer of a case."""
    policy = on_keys(POLICIES[case.policy])
    reference = copy.deepcopy(policy) if case.reference else None
    parameters = policy.get_parameters().values()
    optimizer: Any = torch.optim.SGD(parameters, lr=0.3, momentum=0.5)
    if case.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters, lr=0.05, eps=1e-2)
    settings = {"learning_rate": 0.3 if case.optimizer == "sgd" else 0.05, **case.settings}
    if "dynamic_sampling" in settings:
        drawn = iter(range(100, 1000))
        draw = (lambda count: [next(drawn) for _ in range(count + (count > 2))]) if case.draws else None
        settings["dynamic_sampling"] = DynamicSampling(max_rounds=settings["dynamic_sampling"], draw_states=draw)
    if isinstance(settings.get("reference_sync"), tuple):
        mixing, every = settings["reference_sync"]
        settings["reference_sync"] = ReferenceSync(mixing=mixing, every=every)
    arguments: dict[str, Any] = {"reference_policy": reference, "optimizer": optimizer, "world": world}
    if case.algorithm == "dpo":
        return DPOTrainer(DPOConfig(**settings), policy, **arguments)
    if case.algorithm == "online dpo":
        return OnlineDPOTrainer(
            DPOConfig(**settings), policy, reward_of(case), sampler=SampledByKey(), group_size=4, **arguments
        )
    trainers: dict[str, Any] = {
        "grpo": (GRPOTrainer, GRPOConfig),
        "ppo": (PPOTrainer, PPOConfig),
        "reinforce": (ReinforceTrainer, ReinforceConfig),
    }
    trainer_class, config_class = trainers[case.algorithm]
    return trainer_class(
        config_class(**({"group_size": 4} | settings)),
        policy,
        reward_of(case),
        sampler=SampledByKey(),
        advantage_estimator=estimator_of(case.estimator),
        objective=objective_of(case.objective),
        **arguments,
    )


def preferences_of(keys: Sequence[int], policy: Any) -> list[Preference[int, Any]]:
    """A pair for each key."""
    pairs = []
    for key in keys:
        with torch.random.fork_rng():
            torch.manual_seed(key)
            actions = policy.generate_actions([key], 16)[0]
        other = next((action for action in actions if action != actions[0]), None)
        if other is not None:
            pairs.append(Preference(key, actions[0], other))
    return pairs


def train(world: World, case: Case) -> dict[str, Any]:
    """What comes out of a training: parameters, metrics of each step, whatever else has changed."""
    trainer = trainer_of(case, world)
    metrics = []
    for step, keys in enumerate(case.states):
        if case.algorithm != "dpo":
            trainer.sampler.begin(step)
        cuts = shares(len(keys), world.size, case.cuts)
        own: Any = list(keys[cuts[world.rank] : cuts[world.rank + 1]])
        if case.algorithm == "dpo":
            own = preferences_of(own, on_keys(POLICIES[case.policy]))
        metrics.append(trainer.step(own))
    parameters = {name: tensor.detach().clone() for name, tensor in trainer.policy.get_parameters().items()}
    reference = {} if trainer.reference_policy is None else trainer.reference_policy.get_parameters()
    parts = [getattr(trainer, "advantage_estimator", None), trainer.objective]
    parts += [getattr(part, "surrogate", None) for part in parts]
    coefficients: list[Any] = [getattr(part, "coefficient", None) for part in parts]
    return {
        "parameters": parameters,
        "reference": {name: tensor.detach().clone() for name, tensor in reference.items()},
        "metrics": metrics,
        "coefficients": [coefficient.value for coefficient in coefficients if hasattr(coefficient, "value")],
        "seen": trainer.policy.seen.clone(),
        "generator": trainer.generator.get_state(),
    }
