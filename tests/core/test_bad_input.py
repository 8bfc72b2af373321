"""Bad input: a clear error, and parameters, optimizer and random generators as they were before the step."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from broken import WRONG_LOG_PROBS, set_at
from models import FunctionRewards, Quiet, SequencePolicy, TablePolicy
from pydantic import ValidationError
from torch import Tensor, nn

from grpo import (
    DPOTrainer,
    Evaluation,
    GroupRelative,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    NonFiniteError,
    OnlineDPOTrainer,
    PPOConfig,
    PPOTrainer,
    ReinforceTrainer,
    ScoreFunctionSurrogate,
    Terms,
    Trainer,
    TrainerConfig,
    Until,
    leave_one_out_advantages,
)
from grpo.config._elsewhere import KNOWN_ELSEWHERE_AS, LOSS_TYPES
from grpo_adapters.huggingface import SamplingConfig


def grade(state: Any, action: Any) -> float:
    return float(action == state)


class BrokenPolicy(TablePolicy):
    """A policy that works until ``breaks`` is set, then gives what that makes of the right answer."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        self.break_groups: Callable[[Any], Any] = lambda groups: groups
        self.break_log_probs: Callable[[Tensor], Any] = lambda log_probs: log_probs
        self.evaluations_until_broken = 0

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        torch.rand(1, generator=self.generator)
        random.random()
        np.random.rand()  # noqa: NPY002
        return self.break_groups(super().generate_actions(states, num_actions_per_state))

    def get_log_probabilities(self, states: Any, actions: Any) -> Any:
        log_probs = super().get_log_probabilities(states, actions)
        self.evaluations_until_broken -= 1
        return log_probs if self.evaluations_until_broken >= 0 else self.break_log_probs(log_probs)


class BrokenRewards(FunctionRewards):
    def __init__(self) -> None:
        super().__init__(lambda state, action: float(action - state))
        self.break_rewards: Callable[[Tensor], Any] = lambda rewards: rewards

    def compute_rewards(self, states: Any, actions: Any) -> Any:
        return self.break_rewards(super().compute_rewards(states, actions))


class Harness:
    """A trainer that has made two good steps, and everything that a failed one must leave alone."""

    def __init__(self, **settings: Any) -> None:
        torch.manual_seed(0)
        self.policy, self.rewards = BrokenPolicy(), BrokenRewards()
        self.trainer = GRPOTrainer(GRPOConfig(group_size=4, **settings), self.policy, self.rewards)
        for _ in range(2):
            self.trainer.step([0, 1])

    def state(self) -> list[Any]:
        assert self.trainer.optimizer is not None
        optimizer_state = copy.deepcopy(self.trainer.optimizer.state_dict())
        generators = [torch.get_rng_state(), self.policy.generator.get_state(), self.trainer.generator.get_state()]
        numpy_state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
        return [self.policy.logits.detach().clone(), optimizer_state, generators, random.getstate(), numpy_state]

    def assert_fails(self, error: type[Exception], message: str, states: Any = (0, 1)) -> None:
        before = self.state()
        gradient = self.policy.logits.grad
        with pytest.raises(error, match=message):
            self.trainer.step(states)
        torch.testing.assert_close(self.state(), before, rtol=0, atol=0)
        assert self.policy.logits.grad is None or self.policy.logits.grad is gradient


@pytest.mark.parametrize(
    ("break_groups", "error", "message"),
    [
        (lambda groups: groups[:1], ValueError, "returned 1 groups, expected 2"),
        (lambda groups: [groups[0], groups[1][:3]], ValueError, "returned 3 actions for state 1, expected 4"),
        (lambda groups: [action for group in groups for action in group], ValueError, "returned 8 groups, expected 2"),
        (lambda groups: [0, 1], TypeError, "returned a int for state 0, expected a sequence of 4 actions"),
        (lambda groups: torch.zeros(2, 5), ValueError, r"returned a tensor of shape \[2, 5\], expected \[2, 4, ...\]"),
        (lambda groups: None, TypeError, "returned a NoneType, expected one sequence of actions for each state"),
        (lambda groups: "ab", TypeError, "returned a str"),
    ],
)
def test_wrong_groups(break_groups: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    harness = Harness()
    harness.policy.break_groups = break_groups
    harness.assert_fails(error, f"generate_actions {message}")


@pytest.mark.parametrize(
    ("break_rewards", "error", "message"),
    [
        (lambda rewards: rewards.unsqueeze(1), ValueError, r"shape \[8, 1\], expected \[8\]: squeeze the last dim"),
        (lambda rewards: rewards[:5], ValueError, r"shape \[5\], expected \[8\]"),
        (lambda rewards: rewards.mean(), ValueError, r"shape \[\], expected \[8\]"),
        (lambda rewards: rewards.long(), TypeError, r"dtype torch.int64, expected a floating-point .* \.float\(\)"),
        (lambda rewards: rewards.tolist(), TypeError, "returned a list, expected a tensor"),
        (lambda rewards: rewards.to("meta"), ValueError, r"device meta, expected cpu: call .to\('cpu'\)"),
        (set_at(3, float("nan")), NonFiniteError, "returned nan for sample 3"),
        (set_at(7, float("-inf")), NonFiniteError, "returned -inf for sample 7"),
    ],
)
def test_wrong_rewards(break_rewards: Callable[[Tensor], Any], error: type[Exception], message: str) -> None:
    harness = Harness()
    harness.rewards.break_rewards = break_rewards
    harness.assert_fails(error, f"compute_rewards.* {message}")


@pytest.mark.parametrize("settings", [{}, {"batch_size": 3, "num_epochs_per_update": 2}])
@pytest.mark.parametrize(
    ("break_log_probs", "error", "message"),
    [
        *WRONG_LOG_PROBS,
        (lambda log_probs: log_probs.to("meta"), ValueError, "device meta, expected cpu"),
        (set_at(1, float("nan")), NonFiniteError, r"nan for sample \d"),
        (set_at(0, float("-inf")), NonFiniteError, r"-inf for sample \d"),
    ],
)
@pytest.mark.parametrize("good_evaluations", [0, 4])
def test_wrong_log_probs(
    break_log_probs: Callable[[Tensor], Any],
    error: type[Exception],
    message: str,
    settings: dict[str, int],
    good_evaluations: int,
) -> None:
    """At the first evaluation or, with several updates, in the middle of them, when parameters have moved already."""
    harness = Harness(**settings)
    harness.policy.break_log_probs = break_log_probs
    harness.policy.evaluations_until_broken = good_evaluations if settings else 0
    harness.assert_fails(error, f"policy.get_log_probabilities returned.*{message}")


def test_the_sample_is_named_under_shuffling_and_micro_batches() -> None:
    harness = Harness(batch_size=4, micro_batch_size=2)

    harness.policy.get_log_probabilities = lambda states, actions: torch.where(  # type: ignore[method-assign]
        (torch.tensor(states) == 1) & (torch.tensor(actions) == 2) & torch.is_grad_enabled(),
        torch.nan,
        TablePolicy.get_log_probabilities(harness.policy, states, actions),
    )
    harness.policy.break_groups = lambda groups: [[0, 0, 0, 0], [1, 1, 2, 1]]
    harness.assert_fails(NonFiniteError, "nan for sample 6")


def test_a_gradient_that_is_not_finite_names_the_sample_and_the_parameter() -> None:
    class Root(TablePolicy):
        def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
            bad = torch.tensor(actions) == 3
            return super().get_log_probabilities(states, actions) + torch.where(bad, (0 * self.logits[0, 0]).sqrt(), 0)

        def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
            return [[0, 1, 2, 3]]

    trainer = GRPOTrainer(GRPOConfig(group_size=4), Root(), FunctionRewards(grade))
    with pytest.raises(NonFiniteError, match=r"gradient of logits is not finite: .* for sample \d"):
        trainer.step([0])


@pytest.mark.parametrize(
    ("states", "error", "message"),
    [
        ([], ValueError, "states is empty, expected at least one entry"),
        (torch.zeros(0, 2), ValueError, "states is empty"),
        ("prompt", TypeError, "states is a str, expected a batch"),
        (3, TypeError, "states is a int, expected a batch"),
        ({"prompt": ["a", "b"]}, TypeError, r"these are columns: .*list\(table\.select\(range\(2\)\)\)"),
    ],
)
def test_wrong_states(states: Any, error: type[Exception], message: str) -> None:
    Harness().assert_fails(error, message, states)


def test_an_interrupted_update_is_put_back() -> None:
    harness = Harness(batch_size=2)

    def interrupt(log_probs: Tensor) -> Tensor:
        raise KeyboardInterrupt

    harness.policy.break_log_probs = interrupt
    harness.policy.evaluations_until_broken = 3
    before = harness.state()
    with pytest.raises(KeyboardInterrupt):
        harness.trainer.step([0, 1])
    torch.testing.assert_close(harness.state(), before, rtol=0, atol=0)


@pytest.mark.parametrize("bad", ["rewards", "log_probs"])
def test_non_finite_values_are_skipped_and_counted_on_request(bad: str) -> None:
    harness = Harness(non_finite="skip", batch_size=4)
    before = harness.policy.logits.detach().clone()
    if bad == "rewards":
        harness.rewards.break_rewards = set_at(0, float("nan"))
        assert harness.trainer.step([0, 1]) == {"num_updates": 0.0, "skipped_updates": 1.0}
        assert torch.equal(harness.policy.logits, before)
    else:
        harness.policy.break_log_probs = set_at(0, float("nan"))
        harness.policy.evaluations_until_broken = 2  # old log-probs and the first of two updates
        metrics = harness.trainer.step([0, 1])
        assert metrics["skipped_updates"] == 1
        assert metrics["num_updates"] == 1
        assert not torch.equal(harness.policy.logits, before)
        assert harness.policy.logits.isfinite().all()


def test_not_a_policy() -> None:
    class Half:
        def generate_actions(self) -> None: ...

    message = (
        "policy Half is not a PolicyModel: it lacks get_log_probabilities, get_parameters, train, eval, to. add them"
    )
    with pytest.raises(TypeError, match=message):
        GRPOTrainer(GRPOConfig(), Half(), FunctionRewards(grade))  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match="reward_model Half is not a RewardModel: it lacks compute_rewards, train, eval, to"
    ):
        GRPOTrainer(GRPOConfig(), TablePolicy(), Half())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="policy is the class TablePolicy, expected an instance"):
        GRPOTrainer(GRPOConfig(), TablePolicy, FunctionRewards(grade))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reference_policy Half is not a PolicyModel"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), Half())  # type: ignore[arg-type]


def test_group_size_one_has_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match="group_size is 1, expected at least 2"):
        GRPOTrainer(GRPOConfig(group_size=1), TablePolicy(), FunctionRewards(grade))


def test_an_explicit_kl_coefficient_needs_a_reference_policy() -> None:
    with pytest.raises(ValueError, match="needs a reference policy"):
        GRPOTrainer(GRPOConfig(kl_coefficient=0.1), TablePolicy(), FunctionRewards(grade))
    with pytest.raises(ValueError, match="needs a reference policy"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), objective=GRPOObjective(kl_coefficient=0.1))


def test_objective_settings_beside_an_objective_are_refused() -> None:
    with pytest.raises(ValueError, match="config sets clip_high, kl_estimator, which the objective"):
        GRPOTrainer(
            GRPOConfig(clip_high=0.28, kl_estimator="k2"),
            TablePolicy(),
            FunctionRewards(grade),
            objective=GRPOObjective(),
        )


def test_an_optimizer_must_hold_a_parameter_of_the_policy() -> None:
    optimizer = torch.optim.SGD([torch.zeros(3, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match="optimizer SGD holds none of the policy's 1 trainable parameters"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), optimizer=optimizer)


def test_a_reference_policy_must_not_share_trainable_parameters() -> None:
    policy = TablePolicy()
    for reference in (policy, copy.copy(policy)):
        with pytest.raises(ValueError, match=r"shares trainable parameters with the policy \(logits\)"):
            GRPOTrainer(GRPOConfig(), policy, FunctionRewards(grade), reference)


def test_a_reference_policy_must_see_the_same_decisions() -> None:
    trainer = GRPOTrainer(GRPOConfig(), SequencePolicy(), FunctionRewards(lambda state, action: 0.0), _WholeSequences())
    with pytest.raises(ValueError, match="both must encode actions in the same way"):
        trainer.step([1])


class _WholeSequences(Quiet):
    """Sequences as single decisions."""

    def __init__(self) -> None:
        policy = SequencePolicy()
        self.generate_actions = policy.generate_actions
        self.get_log_probabilities = policy.get_log_probabilities
        self.get_parameters = policy.get_parameters


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("grup_size", r"did you mean group_size\?"),
        ("steps", "expected some of .*learning_rate, "),
        ("num_generations", "it is called group_size here"),
        ("n_epochs", "it is called num_epochs_per_update here"),
        ("vf_coef", "expected some of"),
        ("max_completion_length", r"here it is SamplingConfig\(max_new_tokens=...\)"),
        ("reward_weights", r"here it is FunctionReward\(\[...\], weights="),
        ("max_steps", r"here it is Until\(steps=...\)"),
        ("save_steps", r"here it is Run\(..., checkpoints=Checkpoints\(every=...\)\)"),
        ("report_to", r"here it is Run\(..., callbacks=\[Track\("),
    ],
)
def test_settings_that_are_not_there_are_told_of_those_that_are(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"GRPOConfig has no setting '{name}': {hint}"):
        GRPOConfig.model_validate({name: 1})


def test_all_settings_that_are_not_there_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        GRPOConfig.model_validate({"num_generations": 1, "max_steps": 1, "one": 1, "another": 1, "grup_size": 1})
    for told in (
        "'num_generations': it is called group_size",
        "'max_steps': here it is Until(steps=...)",
        "'grup_size': did you mean group_size?",
        "'one', 'another': expected some of",
    ):
        assert f"no setting {told}" in str(refused.value)


@pytest.mark.parametrize("name", LOSS_TYPES)
def test_an_average_of_the_loss_that_others_call_otherwise_is_told(name: str) -> None:
    with pytest.raises(ValueError, match=f"loss_averaging is '{name}', as other libraries call it: here it is .per|L,"):
        PPOConfig.model_validate({"loss_averaging": name})


@pytest.mark.parametrize("kind", [GRPOTrainer, PPOTrainer, ReinforceTrainer, Trainer, DPOTrainer, OnlineDPOTrainer])
def test_arguments_of_other_libraries_are_told_what_takes_their_place(kind: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{kind.__name__} has no argument 'model': here it is policy=") as refused:
        kind(model="a name", args=None, train_dataset=[], processing_class=None, polici=None, xyzzy=None)
    for told in (
        "'args': here it is config=",
        "'train_dataset': here it is Run(trainer, StateLoader(rows",
        "'processing_class': here it is CausalLMPolicy(model, tokenizer)",
        "'polici': did you mean policy?",
        "'xyzzy': expected some of config, policy, ",
    ):
        assert f"no argument {told}" in str(refused.value)
    assert list(inspect.signature(kind).parameters)[:2] == ["config", "policy"]


def test_who_looks_for_train_is_told_of_step() -> None:
    trainer = GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade))
    assert not hasattr(trainer, "train")
    with pytest.raises(AttributeError, match=r"GRPOTrainer has no train\(\).*call trainer.step\(states\)"):
        trainer.train()


class Generating(nn.Module):
    """What a language model of Transformers looks like from here."""

    def generate(self) -> None: ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reward_model": grade}, r"wrap it, for language models by grpo_adapters\.huggingface\.FunctionReward\("),
        ({"reward_model": [grade, partial(grade, 1)]}, r"a function is none by itself: wrap it"),
        ({"reward_model": "a/name"}, r"pass grpo_adapters\.huggingface\.SequenceClassificationReward\('a/name'\)"),
        ({"reward_model": nn.Linear(1, 1)}, r"it lacks compute_rewards\. add it; grpo\.RewardModel documents each"),
        ({"policy": "a/name"}, r"for a language model pass grpo_adapters\.huggingface\.CausalLMPolicy\('a/name'\)"),
        ({"policy": Generating()}, r"for a language model by grpo_adapters\.huggingface\.CausalLMPolicy\(model, "),
        ({"policy": grade}, r"add them; grpo\.PolicyModel documents each"),
    ],
)
def test_what_is_no_model_is_told_what_makes_one_of_it(given: dict[str, Any], message: str) -> None:
    models: dict[str, Any] = {"policy": TablePolicy(), "reward_model": FunctionRewards(grade)}
    with pytest.raises(TypeError, match=message):
        GRPOTrainer(GRPOConfig(), **models | given)


@pytest.mark.parametrize(("name", "made"), [("reference", r"policy\.reference\(\)"), ("other", r"copy\.deepcopy")])
def test_a_coefficient_without_a_reference_is_told_how_to_make_one(name: str, made: str) -> None:
    policy = TablePolicy()
    setattr(policy, name, lambda: policy)
    with pytest.raises(ValueError, match=f"needs a reference policy, but there is none: pass reference_policy={made}"):
        GRPOTrainer(GRPOConfig(kl_coefficient=0.1), policy, FunctionRewards(grade))


def test_what_others_call_a_setting_is_a_setting_here() -> None:
    known = {name for config in (GRPOConfig, PPOConfig, SamplingConfig) for name in config.model_fields}
    assert {name for meant in KNOWN_ELSEWHERE_AS.values() for name in meant.split(" and ")} <= known
    with pytest.raises(ValueError, match="no setting 'clip_range': it is called clip_low and clip_high here"):
        PPOConfig(clip_range=0.1)  # type: ignore[call-arg]
    assert not KNOWN_ELSEWHERE_AS.keys() & known


@pytest.mark.parametrize(
    "make",
    [
        lambda: PPOConfig(value_clip=True),
        lambda: PPOConfig(target_kl=True),
        lambda: GRPOConfig(group_size=True),
        lambda: GRPOConfig(loss_averaging=True),
        lambda: Until(steps=True),
    ],
)
def test_a_switch_is_no_number(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"\.\w+ is True, expected another value: it is no switch"):
        make()
    assert GRPOConfig(kl_importance_correction=True).kl_importance_correction


@pytest.mark.parametrize("has", ["state_dict", "load_state_dict"])
@pytest.mark.parametrize("role", ["advantage_estimator", "objective"])
def test_half_a_state_is_refused(has: str, role: str) -> None:
    part: Any = {"advantage_estimator": GroupRelative().__call__, "objective": GRPOObjective()}[role]

    class Half:
        def __call__(self, *arguments: Any) -> Any:
            return part(*arguments)

    setattr(Half, has, lambda self, *arguments: {})
    make_trainer: Any = partial(GRPOTrainer, GRPOConfig(), TablePolicy(), FunctionRewards(grade))
    with pytest.raises(TypeError, match=f"{role} Half has {has}, but no .*: give it both, or none"):
        make_trainer(**{role: Half()})


@pytest.mark.parametrize(
    "bad",
    [
        {"group_sise": 4},
        {"group_size": 0},
        {"batch_size": 0},
        {"micro_batch_size": -1},
        {"num_epochs_per_update": 0},
        {"learning_rate": -0.1},
        {"learning_rate": float("nan")},
        {"max_grad_norm": 0},
        {"loss_averaging": "per_token"},
        {"loss_averaging": 0},
        {"non_finite": "ignore"},
        {"clip_low": 2},
        {"clip_high": -0.2},
        {"dual_clip": 1.0},
        {"kl_coefficient": -0.1},
        {"kl_estimator": "k4"},
        {"entropy_coefficient": -1},
        {"seed": -1},
    ],
)
def test_config_keys_that_are_unknown_or_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        GRPOConfig(**bad)


def test_configs_are_frozen_and_survive_a_round_trip() -> None:
    config = GRPOConfig(group_size=4, loss_averaging=128, clip_high=0.28)
    with pytest.raises(ValueError, match="frozen"):
        config.group_size = 5  # type: ignore[misc]
    assert GRPOConfig(**config.model_dump()) == config
    assert GRPOConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (lambda experience: [1.0], TypeError, "advantage_estimator returned a list"),
        (lambda experience: torch.zeros(3), ValueError, r"shape \[3\], expected \[8\]"),
        (
            lambda experience: torch.full((8,), torch.nan),
            NonFiniteError,
            "advantage_estimator returned nan for sample 0",
        ),
        (lambda experience: torch.zeros(8, dtype=torch.int64), TypeError, "advantage_estimator of dtype torch.int64"),
    ],
)
def test_wrong_advantages(estimator: Any, error: type[Exception], message: str) -> None:
    harness = Harness()
    harness.trainer.advantage_estimator = estimator
    harness.assert_fails(error, message)


@pytest.mark.parametrize(
    ("break_loss", "message"),
    [
        (lambda loss: loss.mean(), r"loss of shape \[\], expected \[8\], one a decision"),
        (lambda loss: loss * torch.nan, "objective returned a loss with nan for sample 0"),
    ],
)
def test_wrong_losses(break_loss: Callable[[Tensor], Tensor], message: str) -> None:
    harness = Harness()
    objective = harness.trainer.objective
    harness.trainer.objective = lambda evaluation, decisions: type(terms := objective(evaluation, decisions))(
        break_loss(terms.loss), terms.metrics
    )
    harness.assert_fails(ValueError, message)


@pytest.mark.parametrize(
    ("evaluation", "error", "message"),
    [
        (lambda e: e.log_probs, TypeError, r"evaluate_actions returned a Tensor, expected a grpo.Evaluation"),
        (lambda e: Evaluation(e.log_probs, e.entropy[:-1]), ValueError, "an entropy of shape"),
        (lambda e: Evaluation(e.log_probs.index_fill(0, torch.tensor([9]), torch.nan)), NonFiniteError, "its decision"),
    ],
)
def test_wrong_evaluations(evaluation: Callable[[Evaluation], Any], error: type[Exception], message: str) -> None:
    class Broken(SequencePolicy):
        def evaluate_actions(self, batch: Any) -> Any:
            return evaluation(super().evaluate_actions(batch))

    torch.manual_seed(0)
    with pytest.raises(error, match=message):
        GRPOTrainer(GRPOConfig(), Broken(), FunctionRewards(lambda state, action: 0.0)).step([1, 2, 3])


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (lambda policy: [1, 2], TypeError, "encode_actions returned a list, expected a grpo.ActionBatch"),
        (lambda policy: policy.encode([1], [(1, 0)]), ValueError, "encode_actions returned 1 samples of 2 decisions"),
    ],
)
def test_wrong_batches(batch: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    class Broken(SequencePolicy):
        encode = SequencePolicy.encode_actions

        def encode_actions(self, states: Any, actions: Any) -> Any:
            return batch(self)

    with pytest.raises(error, match=message):
        GRPOTrainer(GRPOConfig(), Broken(), FunctionRewards(lambda state, action: 0.0)).step([1, 2])


def test_experience_without_old_log_probs_serves_one_update_only() -> None:
    one = GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade))
    two = GRPOTrainer(GRPOConfig(num_epochs_per_update=2), TablePolicy(), FunctionRewards(grade))
    with pytest.raises(ValueError, match="no old_log_probs, but this trainer, which makes 2 updates of it, reads them"):
        two.update(replace(one.collector.collect([0, 1]), old_log_probs=None))


def test_a_gradient_that_reaches_no_parameter_held() -> None:
    class Elsewhere(TablePolicy):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.zeros(2, requires_grad=True)

        def get_parameters(self) -> dict[str, Tensor]:
            return {"unused": self.unused}

    with pytest.raises(ValueError, match="no gradient reached a parameter that the optimizer holds"):
        GRPOTrainer(GRPOConfig(), Elsewhere(), FunctionRewards(grade)).step([0])


@pytest.mark.parametrize(
    ("break_terms", "error", "message"),
    [
        (lambda terms: terms.loss, TypeError, r"objective returned a Tensor, expected grpo.Terms\(loss, metrics\)"),
        (lambda terms: Terms(terms.loss, {"mine": terms.loss.mean()}), ValueError, r"returned \[\] as metric 'mine'"),
        (lambda terms: Terms(terms.loss, dict[str, Any](mine=0.5)), ValueError, "returned float as metric 'mine'"),
        (
            lambda terms: Terms(terms.loss, cast("Any", None)),
            TypeError,
            "returned None as metrics, expected tensors",
        ),
        (
            lambda terms: Terms(terms.loss, cast("Any", {1: terms.loss})),
            TypeError,
            "as metrics, expected tensors",
        ),
    ],
)
def test_wrong_terms(break_terms: Callable[[Terms], Any], error: type[Exception], message: str) -> None:
    harness = Harness()
    objective = harness.trainer.objective
    harness.trainer.objective = lambda evaluation, decisions: break_terms(objective(evaluation, decisions))
    harness.assert_fails(error, message)


def test_a_failed_update_is_put_back_as_a_failed_step_is() -> None:
    harness = Harness(batch_size=2)
    experience = harness.trainer.collector.collect([0, 1])
    harness.policy.break_log_probs = set_at(0, float("nan"))
    harness.policy.evaluations_until_broken = 2
    before = harness.state()
    with pytest.raises(NonFiniteError):
        harness.trainer.update(experience)
    torch.testing.assert_close(harness.state(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (["left", "right"], TypeError, "score was given a str for state 0, expected a sequence of one or more actions"),
        ([1, 2], TypeError, "score was given a int for state 0"),
        ([[0], []], ValueError, "score was given 0 actions for state 1, expected one or more"),
        ([[0]], ValueError, "score was given 1 groups, expected 2"),
        (None, TypeError, "score was given a NoneType"),
    ],
)
def test_wrong_groups_to_score(groups: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Harness().trainer.collector.score([0, 1], groups)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": TrainerConfig()}, "expected a grpo.GRPOConfig"),
        ({"config": {"group_size": 4}}, "expected a grpo.GRPOConfig"),
        ({"objective": ScoreFunctionSurrogate()}, r"pass objective=GRPOObjective\(surrogate=ScoreFunctionSurrogate"),
        ({"objective": GRPOObjective}, "objective is .* expected an instance or a function"),
        ({"objective": 3}, "objective is 3, expected an instance or a function"),
        ({"advantage_estimator": leave_one_out_advantages}, r"pass GroupRelative\(leave_one_out_advantages\)"),
        ({"optimizer": torch.optim.SGD}, "expected an instance of a torch.optim.Optimizer"),
        ({"optimizer": torch.optim.LBFGS([torch.zeros(1, requires_grad=True)])}, "that needs no closure"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {
        "config": GRPOConfig(),
        "policy": TablePolicy(),
        "reward_model": FunctionRewards(grade),
    }
    with pytest.raises(TypeError, match=message):
        GRPOTrainer(**(defaults | arguments))


def test_a_function_of_grouped_rewards_that_is_given_an_experience() -> None:
    def doubled(rewards: Any) -> Any:
        return 2 * rewards.centered

    with pytest.raises(AttributeError) as caught:
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), advantage_estimator=doubled).step([0])
    assert "goes into GroupRelative" in caught.value.__notes__[0]


def test_a_function_of_grouped_rewards_that_takes_values_for_rewards() -> None:
    """An experience has values as well: those of a critic, None without one."""

    def first(rewards: Any) -> Any:
        return rewards.values[0] - rewards.values

    with pytest.raises(TypeError) as caught:
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), advantage_estimator=first).step([0])
    assert "goes into GroupRelative" in caught.value.__notes__[0]


def test_parameters_must_be_a_mapping() -> None:
    class Listed(TablePolicy):
        def get_parameters(self) -> Any:
            return [self.logits]

    for policies in ((Listed(),), (TablePolicy(), FunctionRewards(grade), Listed())):
        with pytest.raises(TypeError, match="get_parameters returned a list, expected a mapping from names to tensors"):
            GRPOTrainer(GRPOConfig(), policies[0], *policies[1:] or (FunctionRewards(grade),))


def test_a_reference_policy_that_is_not_used_is_told() -> None:
    with pytest.warns(UserWarning, match="reference_policy is not used"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), TablePolicy(), objective=GRPOObjective())


def test_wrong_surrogates() -> None:
    objective = GRPOObjective(surrogate=lambda log_probs, decisions: -decisions.advantages * log_probs)
    with pytest.raises(TypeError, match=r"surrogate returned a Tensor, expected grpo.Terms"):
        GRPOTrainer(GRPOConfig(), TablePolicy(), FunctionRewards(grade), objective=objective).step([0])


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (lambda call, loss: {"x": loss, "y": loss} if call == 0 else {"x": loss}, r"metrics \['x'\], but \['x', 'y'\]"),
        (lambda call, loss: {"reward": loss}, "metric 'reward', a name of the trainer's own"),
    ],
)
def test_metrics_must_keep_their_names(metrics: Any, message: str) -> None:
    harness = Harness(micro_batch_size=4)
    objective, calls = harness.trainer.objective, iter(range(9))

    def changing(evaluation: Evaluation, decisions: Any) -> Terms:
        loss = objective(evaluation, decisions).loss
        return Terms(loss, metrics(next(calls), loss.detach()))

    harness.trainer.objective = changing
    harness.assert_fails(ValueError, message)


def test_a_loss_without_gradient() -> None:
    harness = Harness()
    objective = harness.trainer.objective
    harness.trainer.objective = lambda evaluation, decisions: Terms(objective(evaluation, decisions).loss.detach(), {})
    harness.assert_fails(ValueError, "objective returned a loss without gradient")


def test_rewards_whose_spread_overflows_are_skipped_on_request() -> None:
    for non_finite in ("raise", "skip"):
        policy = TablePolicy(dtype=torch.float32)
        rewards = FunctionRewards(lambda state, action: 3e38 * (-1) ** action, torch.float32)
        config = GRPOConfig(group_size=8, non_finite=non_finite)
        trainer = GRPOTrainer(config, policy, rewards)
        if non_finite == "raise":
            with pytest.raises(NonFiniteError, match="advantage_estimator returned"):
                trainer.step([0, 1])
        else:
            assert trainer.step([0, 1])["skipped_updates"] == 1


@pytest.mark.parametrize("undo", [True, False])
@pytest.mark.parametrize("good_evaluations", [1, 4])
def test_without_copies_the_updates_before_the_one_that_failed_stay_made(undo: bool, good_evaluations: int) -> None:
    """The first evaluation notes the old log-probs, each update takes one more."""
    harness = Harness(batch_size=2, undo_failed_updates=undo)
    harness.policy.break_log_probs = set_at(0, float("nan"))
    harness.policy.evaluations_until_broken = good_evaluations
    if undo or good_evaluations == 1:
        harness.assert_fails(NonFiniteError, "nan for sample")
        return
    logits, random_state = harness.policy.logits.detach().clone(), torch.get_rng_state()
    order = harness.trainer.generator.get_state()
    with pytest.raises(NonFiniteError, match="nan for sample"):
        harness.trainer.step([0, 1])
    assert not torch.equal(harness.policy.logits, logits)
    assert harness.policy.logits.isfinite().all()
    assert harness.policy.logits.grad is None
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(harness.trainer.generator.get_state(), order)
    assert harness.trainer.num_steps == 2


def test_without_copies_good_steps_are_the_same() -> None:
    results = []
    for undo in (True, False):
        harness = Harness(batch_size=2, undo_failed_updates=undo)
        results.append((harness.trainer.step([0, 1]), harness.policy.logits.detach()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
