"""Runs of language models are saved as plain data, and go on bit by bit after they were killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from language_models import PROMPTS, build_policy, sampled
from peft import LoraConfig
from state_laws import are_same

from grpo import (
    BestWeights,
    Checkpoints,
    DPOConfig,
    DPOTrainer,
    Evaluate,
    GeneralizedAdvantage,
    GRPOConfig,
    GRPOTrainer,
    KLPenalizedRewards,
    PolicyEvaluation,
    PPOConfig,
    PPOTrainer,
    Preference,
    ReferenceSync,
    Run,
    SampleLog,
    StateLoader,
    Until,
    load_best_weights,
)
from grpo_adapters.huggingface import (
    CausalLMActorCritic,
    Completion,
    FunctionReward,
    SamplingConfig,
    describe_completion,
)

LORA = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights="gaussian", fan_in_fan_out=True)
SAMPLING = SamplingConfig(max_new_tokens=6, temperature=0.8, top_k=8, top_p=0.95, min_p=0.01, stop_strings=("77",))


def length(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [float(len(ids) + ids[0] % 3) for ids in completion_ids]


def group_relative(**options: Any) -> Any:
    sync = None if "peft_config" in options else ReferenceSync(mixing=0.5, every=2)
    config = GRPOConfig(group_size=3, batch_size=4, learning_rate=0.01, kl_coefficient=0.1, reference_sync=sync)
    policy = build_policy(sampling=SAMPLING, **options)
    return GRPOTrainer(config, policy, FunctionReward(length), policy.reference())


def actor_critic() -> Any:
    policy = build_policy(kind=CausalLMActorCritic, peft_config=LORA, sampling=SAMPLING)
    estimator = KLPenalizedRewards(GeneralizedAdvantage(discount=1.0, gae_lambda=0.95), 0.1)
    config = PPOConfig(batch_size=2, learning_rate=0.01)
    return PPOTrainer(config, policy, FunctionReward(length), policy.reference(), advantage_estimator=estimator)


def preferences() -> Any:
    policy = build_policy(peft_config=LORA)
    return DPOTrainer(DPOConfig(batch_size=2, learning_rate=0.01), policy, policy.reference())


def pairs() -> list[Any]:
    prompts, completions = sampled(build_policy(), PROMPTS, 2)
    return [Preference(*each) for each in zip(prompts[::2], completions[::2], completions[1::2], strict=True)]


TRAININGS: dict[str, tuple[Callable[[], Any], Callable[[], list[Any]]]] = {
    "reference that follows": (group_relative, lambda: PROMPTS),
    "adapters": (lambda: group_relative(peft_config=LORA), lambda: [{"prompt": prompt} for prompt in PROMPTS]),
    "actor and critic": (actor_critic, lambda: PROMPTS),
    "preferences": (preferences, pairs),
}


def make_run(case: str, folder: Path) -> Run:
    make_trainer, make_rows = TRAININGS[case]
    evaluation = PolicyEvaluation(PROMPTS[:2], FunctionReward(length), group_size=4, pass_at=(1, 4))
    return Run(
        make_trainer(),
        StateLoader(make_rows(), 2, seed=3),
        folder=folder,
        checkpoints=Checkpoints(every=2),
        callbacks=[
            Evaluate(evaluation, every=2),
            BestWeights("evaluation/reward"),
            SampleLog(every=1, count=2, describe=describe_completion),
        ],
    )


@pytest.mark.parametrize("case", TRAININGS)
def test_a_killed_run_goes_on(case: str, tmp_path: Path) -> None:
    """It is killed in a step after its last checkpoint, and what that step wrote is gone."""
    whole, killed = make_run(case, tmp_path / "whole"), make_run(case, tmp_path / "killed")
    torch.manual_seed(0)
    whole(Until(steps=5))
    torch.manual_seed(0)
    step, num_calls = killed.trainer.step, 0

    def fail_in_the_fourth(states: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 4:
            raise KeyboardInterrupt
        return step(states)

    killed.trainer.step = fail_in_the_fourth
    with pytest.raises(KeyboardInterrupt):
        killed(Until(steps=5))
    torch.manual_seed(7)
    resumed = make_run(case, tmp_path / "killed")
    assert resumed.resume()
    assert resumed.num_steps == 2
    resumed(Until(steps=5))
    states = [run.trainer.state_dict() for run in (whole, resumed)]
    assert are_same(*states)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_samples_are_texts_and_the_best_weights_are_found(tmp_path: Path) -> None:
    run = make_run("adapters", tmp_path)
    run(Until(steps=2))
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in samples] == [1, 1, 2, 2]
    assert all(line["state"] in PROMPTS for line in samples)
    assert run.trainer.last_experience.actions[0].text == samples[2]["action"]
    fresh = build_policy(peft_config=LORA, sampling=SAMPLING)
    assert load_best_weights(fresh, tmp_path)["step"] in (0, 2)


MESSAGES = [{"role": "user", "content": "6+7?"}, {"role": "assistant", "content": "It is "}]
CALL = [{"role": "assistant", "tool_calls": ["add"]}, {"role": "tool", "content": "13"}]


@pytest.mark.parametrize(
    ("state", "texts"),
    [
        ("6+7=", ("6+7=", "13")),
        ({"prompt": "6+7=", "answer": "13"}, ("6+7=", "13")),
        (MESSAGES[:1], ("user: 6+7?", "13")),
        ({"prompt": MESSAGES}, ("user: 6+7?", "It is 13")),
        (CALL, ("assistant: ['add']\ntool: 13", "13")),
    ],
)
def test_a_completion_is_described(state: Any, texts: tuple[str, str]) -> None:
    assert describe_completion(state, Completion((3, 5, 0), "13")) == texts


def test_what_is_no_completion_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a Completion"):
        describe_completion("6+7=", "13")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a string"):
        describe_completion(13, Completion((3, 5, 0), "13"))
