"""Language models in parts on several processes, beside the whole model on one."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from language_models import build_model, build_tokenizer
from processes import on_ranks
from sharded_training import (
    Case,
    Outcome,
    criticise_on_rank,
    evaluate_between,
    fail_in_turn,
    give_up_half_way,
    joined,
    make_policy,
    prefer_on_rank,
    refusal,
    refusal_of_a_backend,
    sample_alone,
    sample_on_rank,
    sync_with_a_whole,
    take_turns,
    talk_on_rank,
    train,
    train_by_run,
    train_by_trainer,
    train_on_rank,
    write_and_read,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM

from grpo import ReferenceSync
from grpo_adapters.huggingface import CausalLMActorCritic, CausalLMPolicy

CASES = {
    "gpt2": (2, Case("gpt2", shares=(4, 2))),
    "gpt2 on four": (4, Case("gpt2", shares=(3, 2, 0, 1))),
    "llama": (2, Case("llama", shares=(6, 0))),
    "llama on four": (4, Case("llama")),
    "adapters": (2, Case("llama", lora=True)),
    "layers computed again": (2, Case("gpt2", options={"gradient_checkpointing": True})),
    "layers kept": (2, Case("llama", shard={"reshard_after_forward": False}, rows_per_micro_batch=6)),
    "copies of parts": (4, Case("llama", mesh=(2, 2), shares=(1, 3, 0, 2))),
    "cut by hand": (2, Case("llama", by_hand=True)),
    "one process": (1, Case("gpt2")),
}


@cache
def on_one_process(case_name: str) -> Outcome:
    return train(CASES[case_name][1])


@pytest.mark.parametrize("name", CASES)
def test_parts_train_as_the_whole(name: str) -> None:
    size, case = CASES[name]
    whole = on_one_process(name)
    outcomes = on_ranks(size, train_on_rank, case)
    assert joined(outcomes, "log_probs") == pytest.approx(whole.log_probs, rel=1e-9)
    assert joined(outcomes, "reference_log_probs") == pytest.approx(whole.reference_log_probs, rel=1e-9)
    for outcome in outcomes:
        assert outcome.gradients.keys() == whole.gradients.keys()
        for name, gradient in whole.gradients.items():
            torch.testing.assert_close(outcome.gradients[name], gradient, rtol=1e-9, atol=1e-12)
        for name, parameter in whole.parameters.items():
            torch.testing.assert_close(outcome.parameters[name], parameter, rtol=1e-8, atol=1e-9)


def test_rounded_parameters() -> None:
    case = Case("llama", dtype=torch.float32)
    rounded = Case("llama", dtype=torch.float32, shard={"param_dtype": torch.bfloat16})
    outcomes = on_ranks(2, train_on_rank, rounded)
    assert joined(outcomes, "log_probs") == pytest.approx(train(case).log_probs, rel=0.1, abs=0.1)
    assert joined(outcomes, "log_probs") != pytest.approx(train(case).log_probs, rel=1e-5)
    assert all(
        each.dtype == torch.float32 for each in (*outcomes[0].parameters.values(), *outcomes[0].gradients.values())
    )


@pytest.mark.parametrize("gathers", [True, False], ids=["gathered", "in step"])
@pytest.mark.parametrize("num_states", [(2, 4), (3, 0)])
def test_samples_are_those_of_the_whole_model(gathers: bool, num_states: tuple[int, ...]) -> None:
    case = Case("gpt2", shard={"gather_for_sampling": gathers})
    answers = on_ranks(2, sample_on_rank, case, num_states)
    for rank, (tokens, training) in enumerate(answers):
        assert tokens == sample_alone(case, rank, num_states[rank])
        assert not training


@pytest.mark.parametrize("shard", [{}, {"param_dtype": torch.bfloat16}], ids=["as they are", "rounded"])
def test_a_step_given_up_leaves_nothing(shard: dict[str, Any]) -> None:
    for before, after in on_ranks(2, give_up_half_way, Case("gpt2", shard=shard, dtype=torch.float32)):
        for name, gradient in before.items():
            torch.testing.assert_close(after[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_evaluations_between_a_pass_and_its_backward(lora: bool) -> None:
    for alone, between in on_ranks(2, evaluate_between, Case("llama", lora=lora)):
        for name, gradient in alone.items():
            torch.testing.assert_close(between[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("where", ["rewards", "evaluation"])
def test_a_failure_on_one_rank_is_raised_on_both_and_both_go_on(where: str) -> None:
    for rank, (loss, *seen) in enumerate(on_ranks(2, fail_in_turn, where, 2)):
        raised, losses = seen[::2], seen[1::2]
        assert raised == [("ArithmeticError" if rank == failing else "RankError") for failing in range(2)]
        assert losses == pytest.approx([loss] * 2, rel=1e-9)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_written_and_read(lora: bool, tmp_path: Path) -> None:
    case = Case("gpt2", lora=lora, dtype=torch.float32)
    whole, first, second, refused = on_ranks(2, write_and_read, case, str(tmp_path))[1]
    assert all(torch.equal(tensor, first[name]) and torch.equal(tensor, second[name]) for name, tensor in whole.items())
    assert "in parts on 2 processes, expected the whole tensor" in refused
    if not lora:
        read = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(read).__name__ == "GPT2LMHeadModel"
        assert all(torch.equal(tensor, whole[name]) for name, tensor in read.named_parameters())
    else:
        assert {file.name for file in tmp_path.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}


@pytest.mark.parametrize(
    ("what", "size", "message"),
    [
        ("no process group", 1, "start the script by torchrun"),
        ("other weights", 2, "transformer.wte.weight, .* differ among the processes"),
        ("no world", 2, "policy.join_world"),
        ("other world", 2, "parts on 2 processes, the trainer's world has 1"),
        ("cut twice", 1, "lies in parts on several processes already: leave out shard"),
        ("layers cut", 1, "what is left of it does not: call fully_shard on the model too"),
        ("reference of what was cut by hand", 1, "load its weights once more, cut that model in the same way"),
        ("other device", 1, "parts stay where they are"),
    ],
)
def test_refusals(what: str, size: int, message: str) -> None:
    for told in on_ranks(size, refusal, what):
        assert re.search(message, told), told


@pytest.mark.parametrize(
    ("shares", "lora", "changes"),
    [
        ((4, 2), False, {}),
        ((6, 0), False, {"max_grad_norm": 0.01, "undo_failed_updates": False}),
        ((3, 3), True, {"num_epochs_per_update": 2}),
        ((3, 3), False, {"reference_sync": ReferenceSync(every=2, mixing=0.5)}),
        ((2, 0, 3, 1), False, {}),
    ],
)
def test_a_trainer_of_parts(shares: tuple[int, ...], lora: bool, changes: dict[str, Any]) -> None:
    case = Case("llama", lora=lora)
    [(expected, told)] = on_ranks(1, train_by_trainer, case, changes, (6,))
    for parameters, metrics in on_ranks(len(shares), train_by_trainer, case, changes, shares):
        for name, parameter in expected.items():
            torch.testing.assert_close(parameters[name], parameter, rtol=1e-8, atol=1e-9)
        for step, step_told in zip(metrics, told, strict=True):
            assert step["loss"] == pytest.approx(step_told["loss"], rel=1e-6, abs=1e-9)
            assert step["grad_norm"] == pytest.approx(step_told["grad_norm"], rel=1e-6)


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_a_run_of_parts_that_was_cut_goes_on(lora: bool, tmp_path: Path) -> None:
    case = Case("llama", lora=lora)
    for folder, steps in (("whole", 4), ("cut", 2), ("cut", 4)):
        outcomes = on_ranks(2, train_by_run, case, tmp_path / folder, steps)
        if folder == "whole":
            expected = outcomes
    for (resumed, parameters), (_, wanted) in zip(outcomes, expected, strict=True):
        assert resumed
        assert all(torch.equal(parameters[name], parameter) for name, parameter in wanted.items())
    [(_, alone)] = on_ranks(1, train_by_run, case, tmp_path / "one process", 4)
    for name, parameter in alone.items():
        torch.testing.assert_close(wanted[name], parameter, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4)])
def test_a_run_of_parts_goes_on_with_other_parts(before: int, after: int, tmp_path: Path) -> None:
    case = Case("llama")
    [(_, expected)] = on_ranks(1, train_by_run, case, tmp_path / "one process", 4)
    on_ranks(before, train_by_run, case, tmp_path / "run", 2)
    for resumed, parameters in on_ranks(after, train_by_run, case, tmp_path / "run", 4):
        assert resumed
        for name, parameter in expected.items():
            torch.testing.assert_close(parameters[name], parameter, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("gathers", [True, False], ids=["gathered", "in step"])
def test_conversations_of_different_lengths(gathers: bool) -> None:
    case = Case("gpt2", shard={"gather_for_sampling": gathers})
    answers = on_ranks(2, talk_on_rank, case)
    assert answers[0][2] == answers[1][2]
    for rank, (said, num_groups, _) in enumerate(answers):
        assert said == take_turns(make_policy(case, None, seed=10 + rank), rank + 1)
        assert num_groups == rank


def test_preferences() -> None:
    [expected] = on_ranks(1, prefer_on_rank, (4,))
    for parameters in on_ranks(2, prefer_on_rank, (3, 1)):
        for name, parameter in expected.items():
            torch.testing.assert_close(parameters[name], parameter, rtol=1e-8, atol=1e-9)


def test_a_critic(tmp_path: Path) -> None:
    [expected] = on_ranks(1, criticise_on_rank, (4,), str(tmp_path / "whole"))
    for parameters in on_ranks(2, criticise_on_rank, (3, 1), str(tmp_path / "parts")):
        for name, parameter in expected.items():
            torch.testing.assert_close(parameters[name], parameter, rtol=1e-8, atol=1e-9)
    read = [CausalLMActorCritic(tmp_path / name, dtype=torch.float64) for name in ("whole", "parts")]
    for one, other in zip(*(policy.get_parameters().values() for policy in read), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_a_backend_that_does_not_fit_is_refused() -> None:
    [told] = on_ranks(1, refusal_of_a_backend)
    assert "parts of a model on cpu are exchanged by gloo, but the process group has" in told
    assert "World.from_environment()" in told


def test_a_whole_reference_cannot_follow_parts() -> None:
    for told in on_ranks(2, sync_with_a_whole):
        assert "in the same parts on the same processes as the policy, but transformer.wte.weight does not" in told


def test_other_wrappers_are_refused() -> None:
    class Wrapper(DistributedDataParallel):
        def __init__(self, module: nn.Module) -> None:
            nn.Module.__init__(self)
            self.module = module

    model = build_model()
    with pytest.raises(TypeError, match=r"model is wrapped in Wrapper.*world= sums the gradients"):
        CausalLMPolicy(Wrapper(model), build_tokenizer())  # type: ignore[arg-type]
    model.transformer.h[0] = Wrapper(model.transformer.h[0])
    with pytest.raises(TypeError, match=r"transformer\.h\.0 is wrapped in Wrapper"):
        CausalLMPolicy(model, build_tokenizer())


def test_a_hollow_model_is_refused() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build_model().config)
    with pytest.raises(ValueError, match=r"wte.weight of GPT2LMHeadModel is on the meta device"):
        CausalLMPolicy(model, build_tokenizer())
