"""Adapters tell all that changes in them, and go on from it as if nothing had happened."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from language_models import PROMPTS, build_model, build_policy, sampled
from peft import LoraConfig
from state_laws import TrainerSteps, are_same, check_goes_on, check_refuses
from torch import Tensor, nn

from grpo import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    Preference,
    ReferenceSync,
    Stateful,
)
from grpo_adapters.bandit import (
    ContextualBandit,
    ContextualSoftmaxPolicy,
    DynamicBandit,
    GaussianRewards,
    SoftmaxPolicy,
    StationaryBandit,
    random_walk_means,
)
from grpo_adapters.bandit.baselines import UCB1, DiscountedUCB, EpsilonGreedy, SlidingWindowUCB, ThompsonSampling
from grpo_adapters.huggingface import CausalLMActorCritic, FunctionReward
from grpo_adapters.tracking import JSONLinesTracker, TensorBoardTracker, Trackers

CONTEXTS = torch.linspace(-1, 1, 8).view(4, 2)


def bandit(policy: Any, reward_model: Any, states: Any = ("a", "b")) -> TrainerSteps:
    config = GRPOConfig(group_size=4, batch_size=3, learning_rate=0.05)
    return TrainerSteps(GRPOTrainer(config, policy, reward_model), states)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def contextual(generator: torch.Generator | None = None) -> TrainerSteps:
    network = nn.Linear(2, 3)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    environment = ContextualBandit(lambda contexts: contexts[:, :1] * torch.arange(3), GaussianRewards())
    return bandit(ContextualSoftmaxPolicy(network, generator), environment, CONTEXTS)


def dynamic() -> TrainerSteps:
    environment = DynamicBandit(random_walk_means(100, 3), GaussianRewards())
    return bandit(SoftmaxPolicy(3, generator()), environment)


BANDITS: dict[str, Callable[[], TrainerSteps]] = {
    "stationary": lambda: bandit(SoftmaxPolicy(3), StationaryBandit([0.1, 0.5, 0.9])),
    "stationary, own generator": lambda: bandit(SoftmaxPolicy(3, generator()), StationaryBandit([0.1, 0.5, 0.9])),
    "contextual": contextual,
    "contextual, own generator": lambda: contextual(generator()),
    "dynamic": dynamic,
}


@pytest.mark.parametrize("case", BANDITS)
def test_bandits_go_on(case: str) -> None:
    check_goes_on(BANDITS[case])


def test_a_dynamic_bandit_goes_on_by_itself() -> None:
    class Pulls(DynamicBandit):
        def step(self) -> Any:
            rewards = self.compute_rewards([0] * 5, [0, 1, 2, 1, 0])
            return rewards, self.arms(), self.regret(), self.time

    check_goes_on(lambda: Pulls(random_walk_means(40, 3), GaussianRewards()))
    pulled = DynamicBandit(random_walk_means(40, 3), GaussianRewards())
    check_refuses(
        pulled, DynamicBandit(random_walk_means(30, 3), GaussianRewards()).state_dict(), "arms", "[30]", "[40]"
    )
    check_refuses(pulled, StationaryBandit([0.5]).state_dict(), "time", "missing")
    check_refuses(pulled, None, "NoneType")


def test_a_policys_generator_is_in_its_state_where_it_has_one() -> None:
    own, shared = SoftmaxPolicy(3, generator()), SoftmaxPolicy(3)
    assert shared.state_dict().keys() == {"network.logits"}
    assert own.state_dict()["_extra_state"].dtype == torch.uint8
    before = own.generator.get_state() if own.generator else None
    own.load_state_dict(shared.state_dict())
    assert own.generator is not None
    assert are_same(own.generator.get_state(), before)
    with pytest.raises(RuntimeError, match="_extra_state"):
        shared.load_state_dict(own.state_dict())
    shared.load_state_dict(own.state_dict(), strict=False)
    inner = nn.Sequential(own)
    nn.Sequential(SoftmaxPolicy(3, generator())).load_state_dict(inner.state_dict())


STRATEGIES: dict[str, Callable[[], Any]] = {
    "greedy": lambda: EpsilonGreedy(5, 3, epsilon=0.5),
    "ucb": lambda: UCB1(5, 3),
    "discounted": lambda: DiscountedUCB(5, 3, discount=0.9),
    "window": lambda: SlidingWindowUCB(5, 3, window=4),
    "thompson": lambda: ThompsonSampling(5, 3),
}


class Pulls:
    """A strategy whose rewards depend on the arm and the time."""

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.load_state_dict = strategy.load_state_dict
        self.state_dict = strategy.state_dict

    def step(self) -> Tensor:
        arms: Tensor = self.strategy.select()
        self.strategy.update(arms, arms + torch.rand(len(arms)))
        return arms


@pytest.mark.parametrize("case", STRATEGIES)
def test_strategies_go_on(case: str) -> None:
    check_goes_on(lambda: Pulls(STRATEGIES[case]()), num_before=7, num_after=9)


def test_strategies_refuse_states_of_others() -> None:
    played = Pulls(SlidingWindowUCB(5, 3, window=6))
    for _ in range(6):
        played.step()
    check_refuses(Pulls(SlidingWindowUCB(5, 3, window=4)), played.state_dict(), "6 pulls", "window, 4")
    check_refuses(Pulls(UCB1(5, 3)), played.state_dict(), "past")
    check_refuses(Pulls(UCB1(5, 4)), UCB1(5, 3).state_dict(), "counts", "[5, 3]", "[5, 4]")


def test_a_window_keeps_its_own_pulls() -> None:
    strategy = SlidingWindowUCB(1, 2, window=2)
    arms, rewards = torch.tensor([0]), torch.tensor([1.0])
    for _ in range(2):
        strategy.update(arms, rewards)
    rewards.fill_(5.0)
    strategy.update(arms, rewards)
    assert strategy.sums.tolist() == [[6.0, 0.0]]


def length(completion_ids: list[list[int]]) -> list[float]:
    return [float(len(ids) + ids[0] % 3) for ids in completion_ids]


class Curriculum:
    """A reward function that changes from call to call, with noise."""

    __name__ = "curriculum"

    def __init__(self) -> None:
        self.num_calls = 0
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, completion_ids: list[list[int]]) -> list[float]:
        self.num_calls += 1
        noise = torch.rand(len(completion_ids), generator=self.generator).tolist()
        return [value * len(ids) ** self.num_calls for value, ids in zip(noise, completion_ids, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"num_calls": self.num_calls}

    def load_state_dict(self, state_dict: Any) -> None:
        self.num_calls = state_dict["num_calls"]


LORA = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights="gaussian", fan_in_fan_out=True)


def language_model(**options: Any) -> TrainerSteps:
    config = GRPOConfig(group_size=3, batch_size=4, learning_rate=0.01, kl_coefficient=0.1)
    policy = build_policy(**options)
    trainer = GRPOTrainer(config, policy, FunctionReward([length, Curriculum()]), policy.reference())
    return TrainerSteps(trainer, PROMPTS[:2])


def synced_language_model() -> TrainerSteps:
    sync = ReferenceSync(mixing=0.5, every=2)
    config = GRPOConfig(group_size=3, learning_rate=0.01, kl_coefficient=0.1, reference_sync=sync)
    policy = build_policy("llama")
    return TrainerSteps(GRPOTrainer(config, policy, FunctionReward(length), policy.reference()), PROMPTS[:2])


def actor_critic(**options: Any) -> TrainerSteps:
    policy = build_policy(kind=CausalLMActorCritic, **options)
    return TrainerSteps(PPOTrainer(PPOConfig(batch_size=4), policy, FunctionReward(length)), PROMPTS)


def language_preferences() -> TrainerSteps:
    policy = build_policy(peft_config=LORA)
    prompts, completions = sampled(build_policy(), PROMPTS, 2)
    pairs = [Preference(*each) for each in zip(prompts[::2], completions[::2], completions[1::2], strict=True)]
    config = DPOConfig(batch_size=2, learning_rate=0.01)
    return TrainerSteps(DPOTrainer(config, policy, policy.reference()), pairs)


LANGUAGE_MODELS: dict[str, Callable[[], TrainerSteps]] = {
    "whole": language_model,
    "reference that follows": synced_language_model,
    "adapters": lambda: language_model(peft_config=LORA),
    "actor and critic": actor_critic,
    "actor and critic, adapters": lambda: actor_critic(peft_config=LORA),
    "preferences": language_preferences,
}


@pytest.mark.parametrize("case", LANGUAGE_MODELS)
def test_language_models_go_on(case: str) -> None:
    check_goes_on(LANGUAGE_MODELS[case])


def test_a_language_model_goes_on_to_sample_by_itself() -> None:
    def make() -> Any:
        policy = build_policy()
        policy.step = lambda: [completion.token_ids for completion in policy.generate_actions(PROMPTS[:1], 2)[0]]
        return policy

    check_goes_on(make)


def test_only_adapters_are_in_the_state_and_only_once() -> None:
    policy = build_policy(peft_config=LORA, kind=CausalLMActorCritic)
    reference = policy.reference()
    state = policy.state_dict()
    assert reference.state_dict()["weights"] == {}
    names = state["weights"].keys()
    assert {"value_head.weight", "value_head.bias"} < names
    assert all("lora_" in name or name.startswith("value_head.") for name in names)
    with torch.no_grad():
        for weight in policy.get_parameters().values():
            if weight.requires_grad:
                weight.add_(1.0)
    moved = policy.state_dict()
    reference.load_state_dict(reference.state_dict())
    assert are_same(policy.state_dict(), moved)
    assert not are_same(moved["weights"], state["weights"])


def test_frozen_weights_of_adapters_are_in_the_state() -> None:
    policy = build_policy(peft_config=LORA)
    for name, weight in policy.model.named_parameters():
        if "lora_A" in name:
            weight.requires_grad_(False)
    assert any("lora_A" in name for name in policy.state_dict()["weights"])


def test_a_tied_head_is_in_the_state_once() -> None:
    policy = build_policy()
    weights = policy.state_dict()["weights"]
    assert sum("wte" in name or "lm_head" in name for name in weights) == 1
    assert sum(weight.numel() for weight in weights.values()) == sum(
        weight.numel() for weight in policy.model.parameters()
    )


def test_lengths_are_told_as_before() -> None:
    policy = build_policy()
    policy.encode_actions(*sampled(policy))
    fresh = build_policy()
    fresh.load_state_dict(policy.state_dict())
    assert fresh.get_metrics() == policy.get_metrics() != {}


@pytest.mark.parametrize(
    ("make_other", "names"),
    [
        (lambda: build_policy("llama"), ("CausalLMPolicy", "lm_head.weight", "none of that name")),
        (lambda: build_policy(model=build_model(n_embd=32)), ("c_attn.bias", "[96]", "[48]")),
        (lambda: build_policy(model=build_model(dtype=torch.bfloat16)), ("bfloat16", "float32")),
        (lambda: build_policy(peft_config=LORA), ("lora_A", "adapters")),
        (lambda: build_policy(kind=CausalLMActorCritic), ("value_head.weight",)),
        (lambda: SoftmaxPolicy(3), ("network.logits", "weights")),
    ],
)
def test_a_state_of_another_model_is_refused(make_other: Callable[[], Any], names: tuple[str, ...]) -> None:
    check_refuses(build_policy(), make_other().state_dict(), *names)


def test_a_generator_of_another_device_is_refused() -> None:
    policy = build_policy()
    state = policy.state_dict() | {"generator": torch.zeros(16, dtype=torch.uint8)}
    check_refuses(policy, state, "16 bytes", "cpu", "device")


def test_a_state_of_other_reward_functions_is_refused() -> None:
    rewards = FunctionReward([length, Curriculum()])
    check_refuses(rewards, FunctionReward(length).state_dict(), "FunctionReward", "curriculum")
    check_refuses(rewards, {}, "FunctionReward")


def log(tracker: Any, steps: range) -> None:
    for step in steps:
        tracker.log({"reward": step / 7, "loss": -step}, step)
        if step % 2 == 0:
            tracker.log_table("completions", ("text", "reward"), [("a", step), ("b", None)], step)
        if step >= 4:
            tracker.log_table("late", ("text",), [("c",)], step)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


@pytest.mark.parametrize("taken_at", [0, 1, 3, 5])
def test_json_lines_are_as_if_nothing_had_happened(taken_at: int, tmp_path: Path) -> None:
    with JSONLinesTracker(tmp_path / "whole" / "metrics.jsonl") as tracker:
        log(tracker, range(8))
    path = tmp_path / "resumed" / "metrics.jsonl"
    with JSONLinesTracker(path) as tracker:
        log(tracker, range(taken_at))
        state = json.loads(json.dumps(tracker.state_dict()))
        log(tracker, range(taken_at, 7))
        tracker.load_state_dict(state)
        log(tracker, range(taken_at, 7))
    with path.open("a") as file:
        file.write('{"step": 7, "rew')  # killed
    with JSONLinesTracker(path, append=True) as tracker:
        tracker.load_state_dict(state)
        assert tracker.state_dict() == state
        log(tracker, range(taken_at, 8))
    assert contents(path.parent) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda path, state: path.write_text(""), ("0 bytes",)),
        (lambda path, state: path.write_text("something else " * 20), ("no line of a JSONLinesTracker",)),
        (lambda path, state: state.clear(), ("metrics.jsonl",)),
        (lambda path, state: state["lengths"].update({"other.jsonl": 0}), ("other.jsonl",)),
        (lambda path, state: state["lengths"].update({"metrics./../../x": 0}), ("metrics./../../x",)),
    ],
)
def test_json_lines_of_another_run_are_left_alone(
    change: Callable[[Path, Any], Any], names: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "metrics.jsonl"
    with JSONLinesTracker(path) as tracker:
        log(tracker, range(3))
        state = tracker.state_dict()
        change(path, state)
        check_refuses(tracker, state, *names)


def test_tensorboard_shows_no_step_twice(tmp_path: Path) -> None:
    with TensorBoardTracker(tmp_path) as tracker:
        log(tracker, range(3))
        state = tracker.state_dict()
        log(tracker, range(3, 6))
    with TensorBoardTracker(tmp_path) as tracker:
        tracker.load_state_dict(state)
        assert tracker.state_dict() == state
        tracker.log({"reward": 10.0}, 3)
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("reward")] == [
        (0, 0.0),
        (1, 0.143),
        (2, 0.286),
        (3, 10.0),
    ]
    with TensorBoardTracker(tmp_path) as tracker:
        check_refuses(tracker, {}, "TensorBoardTracker", "next_step")


class Run:
    """A run of Weights & Biases or of Trackio."""

    def __init__(self, name: str, history: list[tuple[int, Any]]) -> None:
        self.id = self.name = name
        self.history = history

    @property
    def step(self) -> int:
        return max((step for step, _ in self.history), default=-1) + 1

    def log(self, metrics: Any, step: int) -> None:
        self.history.append((step, metrics))

    def finish(self, exit_code: int = 0) -> None: ...


def library(**options: Any) -> Any:
    """What the trackers ask of wandb and of trackio."""
    return SimpleNamespace(init=lambda **_: Run(**options), Table=dict)


def test_weights_and_biases_gets_no_step_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo_adapters.tracking import WandbTracker

    history: list[tuple[int, Any]] = []
    monkeypatch.setitem(__import__("sys").modules, "wandb", library(name="first", history=history))
    with WandbTracker("project") as tracker:
        log(tracker, range(3))
        state = tracker.state_dict()
        log(tracker, range(3, 5))
        logged = list(history)
        tracker.load_state_dict(state)
        log(tracker, range(3, 4))
        assert history == logged
    with WandbTracker("project", id="first", resume="must") as tracker:
        tracker.load_state_dict(state)
        log(tracker, range(3, 7))
    assert [step for step, metrics in history if "reward" in metrics] == list(range(7))
    monkeypatch.setitem(__import__("sys").modules, "wandb", library(name="second", history=[]))
    with WandbTracker("project") as tracker:
        check_refuses(tracker, state, "'first'", "'second'", "resume='must'")


def test_trackio_goes_on_with_its_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from grpo_adapters.tracking import TrackioTracker

    monkeypatch.setitem(__import__("sys").modules, "trackio", library(name="first", history=[]))
    with TrackioTracker("project", "first") as tracker:
        state = tracker.state_dict()
        tracker.load_state_dict(state)
        check_refuses(tracker, {"run": "second"}, "'first'", "'second'", "resume='must'")


def test_several_trackers_go_on_together(tmp_path: Path) -> None:
    def make(append: bool) -> Trackers:
        return Trackers([TensorBoardTracker(tmp_path), JSONLinesTracker(tmp_path / "metrics.jsonl", append=append)])

    with make(append=False) as trackers:
        log(trackers, range(2))
        state, content = trackers.state_dict(), contents(tmp_path)
        log(trackers, range(2, 4))
        trackers.load_state_dict(state)
        assert contents(tmp_path)["metrics.jsonl"] == content["metrics.jsonl"]
        check_refuses(trackers, Trackers().state_dict(), "Trackers")
    with pytest.raises(ValueError, match="closed"):
        trackers.load_state_dict(state)


def test_what_has_a_state_is_stateful() -> None:
    makers: list[Callable[[], Any]] = [*STRATEGIES.values(), functools.partial(StationaryBandit, [0.5]), build_policy]
    assert all(isinstance(make(), Stateful) for make in makers)
