"""Losses and gradients of this library beside those of the installed TRL, on the same log-probs and advantages.

TRL's numbers come out of its own code: its GRPOTrainer is built with the config of each loss around a tiny Llama made
in memory, and its ``compute_loss`` is called on a batch made by hand. Only the forward pass is replaced, by log-probs
that are themselves the parameters, so that gradients can be compared entry by entry. Ours come out of
``GRPOTrainer.update`` with a policy of the same kind. One more case runs both with the model's forward pass.

The losses on preferences are compared in the same way, TRL's DPOTrainer beside ours, with what each reports of the
rewards; all of them with the model's forward pass too.

The last line holds the largest relative differences as JSON. ``--constants`` prints what
``tests/core/test_trl_constants.py`` holds instead.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import tyro
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grpo import (
    ActionBatch,
    ClippedImportanceSurrogate,
    ClippedSurrogate,
    DPOConfig,
    DPOObjective,
    DPOTrainer,
    Evaluation,
    Experience,
    GRPOConfig,
    GRPOObjective,
    GRPOTrainer,
    HingePreferenceLoss,
    IdentityPreferenceLoss,
    Preference,
    PreferenceLoss,
    RobustPreferenceLoss,
    SampleClippedSurrogate,
    Segments,
    SigmoidPreferenceLoss,
    SoftAdaptiveSurrogate,
    TensorBatch,
)
from grpo.config.rollout import LossAveraging
from grpo_adapters.huggingface import CausalLMPolicy, Completion, SamplingConfig

GROUP_SIZE, MAX_LENGTH, VOCABULARY = 4, 40, 50
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Options:
    """Options of the comparison."""

    constants: bool = False
    """Print what TRL says of a few numbers, for the test-suite."""
    num_groups: int = 16
    """Groups of four completions."""
    seed: int = 0
    """Of the numbers."""


@dataclass(frozen=True)
class Data:
    """Completions of several prompts, in groups, flat over their tokens."""

    lengths: Tensor
    log_probs: Tensor
    old_log_probs: Tensor
    reference_log_probs: Tensor
    advantages: Tensor
    truncated: Tensor

    @property
    def mask(self) -> Tensor:
        """Which entries of a rectangle are tokens, [N, longest]."""
        return torch.arange(int(self.lengths.max())) < self.lengths.unsqueeze(1)

    def padded(self, values: Tensor, padding: float = -1.5) -> Tensor:
        """[D] -> [N, longest]; what is padded is far from harmless, so that it would be seen if it counted."""
        return torch.full(self.mask.shape, padding, dtype=values.dtype).masked_scatter(self.mask, values)


@dataclass(frozen=True)
class Case:
    """A loss, as each of the two calls it.

    Attributes:
        name: in the table.
        objective: ours.
        averaging: ours.
        theirs: settings of TRL's GRPOConfig.
        beta: TRL's KL coefficient, set after construction: with one, TRL would load a reference model by name, which
            a model made in memory does not have, though its loss needs no more than the reference log-probs.
        num_micro_batches: parts that both split the optimiser step into.
        masks_truncated: whether both leave out what was cut short.
    """

    name: str
    objective: GRPOObjective
    averaging: LossAveraging
    theirs: Mapping[str, Any]
    beta: float = 0.0
    num_micro_batches: int = 1
    masks_truncated: bool = False


CLIPS: dict[str, Any] = {"epsilon": 0.2, "epsilon_high": 0.28}
GSPO_CLIPS: dict[str, Any] = {"importance_sampling_level": "sequence", "epsilon": 0.1, "epsilon_high": 0.12}
OUR_CLIPS: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.28}


def cases() -> list[Case]:
    """Every loss that both have.

    Names and settings that differ:

    - TRL's ``bnpo`` averages over the tokens of a micro-batch, ours over those of the optimiser step: they agree where
      the step is one micro-batch. TRL's ``dapo`` is the one that agrees with our ``"per_decision"`` under any split.
    - TRL's ``dr_grpo`` divides by N times ``max_completion_length``, which is our integer ``loss_averaging``.
    - ``epsilon_high`` of TRL's ``cispo`` is the bound on the ratio itself, not on its distance from 1.
    - TRL's ``sapo`` averages as its ``grpo`` does, its ``cispo`` as its ``dapo``. It keeps the temperatures in float32
      whatever the precision: in float64 this is all that differs.
    - ``delta`` is our ``dual_clip``; with it TRL bounds positive advantages too, which the clip range, being narrower,
      has done already.
    - ``importance_sampling_level="sequence"`` is our SampleClippedSurrogate; ``luspo`` is that with the integer 1 as
      ``loss_averaging``.
    - ``use_bias_correction_kl`` is on by default in TRL, ``kl_importance_correction`` is off in ours.
    - ``mask_truncated_completions`` is our ``mask_truncated="decisions"``: a masked completion has no tokens, but is
      one of the completions that ``grpo``, ``dr_grpo`` and ``importance_sampling_level="sequence"`` divide by.
    """
    clipped = ClippedSurrogate(**OUR_CLIPS)
    gspo = SampleClippedSurrogate(clip_low=0.1, clip_high=0.12)
    kl = {"kl_coefficient": 0.3}
    return [
        Case("grpo", GRPOObjective(surrogate=clipped), "per_sample", {"loss_type": "grpo", **CLIPS}),
        Case(
            "grpo, 2 micro-batches",
            GRPOObjective(surrogate=clipped),
            "per_sample",
            {"loss_type": "grpo", **CLIPS},
            num_micro_batches=2,
        ),
        Case("bnpo", GRPOObjective(surrogate=clipped), "per_decision", {"loss_type": "bnpo", **CLIPS}),
        Case("dr_grpo", GRPOObjective(surrogate=clipped), MAX_LENGTH, {"loss_type": "dr_grpo", **CLIPS}),
        Case("dapo", GRPOObjective(surrogate=clipped), "per_decision", {"loss_type": "dapo", **CLIPS}),
        Case(
            "dapo, 4 micro-batches",
            GRPOObjective(surrogate=clipped),
            "per_decision",
            {"loss_type": "dapo", **CLIPS},
            num_micro_batches=4,
        ),
        Case(
            "cispo",
            GRPOObjective(surrogate=ClippedImportanceSurrogate(max_ratio=1.5)),
            "per_decision",
            {"loss_type": "cispo", "epsilon_high": 1.5},
        ),
        Case("sapo", GRPOObjective(surrogate=SoftAdaptiveSurrogate()), "per_sample", {"loss_type": "sapo"}),
        Case(
            "gspo",
            GRPOObjective(surrogate=gspo),
            "per_sample",
            {"loss_type": "grpo", **GSPO_CLIPS},
        ),
        Case(
            "luspo",
            GRPOObjective(surrogate=gspo),
            1,
            {"loss_type": "luspo", **GSPO_CLIPS},
        ),
        Case(
            "two-sided clipping",
            GRPOObjective(surrogate=ClippedSurrogate(**OUR_CLIPS, dual_clip=1.6)),
            "per_sample",
            {"loss_type": "grpo", "delta": 1.6, **CLIPS},
        ),
        Case(
            "k3",
            GRPOObjective(surrogate=clipped, **kl),
            "per_sample",
            {"loss_type": "grpo", "use_bias_correction_kl": False, **CLIPS},
            beta=0.3,
        ),
        Case(
            "k3, corrected",
            GRPOObjective(surrogate=clipped, kl_importance_correction=True, **kl),
            "per_decision",
            {"loss_type": "dapo", "use_bias_correction_kl": True, **CLIPS},
            beta=0.3,
        ),
        Case(
            "gspo, k3, corrected",
            GRPOObjective(surrogate=gspo, kl_importance_correction=True, **kl),
            "per_sample",
            {"loss_type": "grpo", "use_bias_correction_kl": True, **GSPO_CLIPS},
            beta=0.3,
        ),
        Case(
            "grpo, masked",
            GRPOObjective(surrogate=clipped),
            "per_sample",
            {"loss_type": "grpo", **CLIPS},
            masks_truncated=True,
        ),
        Case(
            "dr_grpo, masked",
            GRPOObjective(surrogate=clipped),
            MAX_LENGTH,
            {"loss_type": "dr_grpo", **CLIPS},
            masks_truncated=True,
        ),
        Case(
            "dapo, masked",
            GRPOObjective(surrogate=clipped),
            "per_decision",
            {"loss_type": "dapo", **CLIPS},
            masks_truncated=True,
        ),
        Case(
            "gspo, k3, masked",
            GRPOObjective(surrogate=gspo, kl_importance_correction=True, **kl),
            "per_sample",
            {"loss_type": "grpo", "use_bias_correction_kl": True, **GSPO_CLIPS},
            beta=0.3,
            masks_truncated=True,
        ),
    ]


def random_data(options: Options, dtype: torch.dtype) -> Data:
    """Completions of one to MAX_LENGTH tokens, ratios on both sides of every bound, a group without advantages."""
    generator = torch.Generator().manual_seed(options.seed)
    num_samples = options.num_groups * GROUP_SIZE
    lengths = torch.randint(1, MAX_LENGTH + 1, (num_samples,), generator=generator)
    lengths[0], lengths[1] = MAX_LENGTH, 1
    old = -3 * torch.rand(int(lengths.sum()), generator=generator, dtype=torch.float64)
    shift = 0.05 * torch.randn(num_samples, generator=generator, dtype=torch.float64).repeat_interleave(lengths)
    log_probs = old + shift + 0.4 * torch.randn(len(old), generator=generator, dtype=torch.float64)
    reference = old + 0.5 * torch.randn(len(old), generator=generator, dtype=torch.float64)
    advantages = torch.randn(num_samples, generator=generator, dtype=torch.float64)
    advantages[-GROUP_SIZE:] = 0.0
    truncated = torch.arange(num_samples) % 3 == 0
    log_probs, old, reference, advantages = (values.to(dtype) for values in (log_probs, old, reference, advantages))
    return Data(lengths, log_probs, old, reference, advantages, truncated)


def fixed_data(dtype: torch.dtype = torch.float64) -> Data:
    """The numbers of ``tests/core/test_trl_constants.py``."""
    return Data(
        torch.tensor([3, 1, 2, 3]),
        torch.tensor([-0.5, -1.2, -0.3, -2.0, -0.7, -1.1, -0.2, -0.9, -1.6], dtype=dtype),
        torch.tensor([-0.6, -0.8, -0.9, -1.7, -1.3, -1.0, -0.2, -1.5, -1.1], dtype=dtype),
        torch.tensor([-0.9, -1.0, -0.4, -1.5, -0.8, -1.4, -0.1, -1.2, -1.3], dtype=dtype),
        torch.tensor([1.5, -0.5, -1.0, 0.8], dtype=dtype),
        torch.tensor([False, False, True, False]),
    )


class GivenLogProbs(nn.Module):
    """A policy whose parameters are the log-probs of the actions it has taken. It samples nothing."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.log_probs = nn.Parameter(data.log_probs.clone())

    def evaluate_actions(self, batch: TensorBatch) -> Evaluation:
        return Evaluation(self.log_probs[batch.observations])

    def get_parameters(self) -> dict[str, Tensor]:
        return dict(self.named_parameters())

    def generate_actions(self, states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        raise NotImplementedError

    def get_log_probabilities(self, states: Any, actions: Any) -> Tensor:
        raise NotImplementedError

    def encode_actions(self, states: Any, actions: Any) -> TensorBatch:
        raise NotImplementedError


class TruncatedBatch(TensorBatch):
    """Decisions of samples that may have been cut short."""

    truncated: Tensor


class NoReward(nn.Module):
    """Advantages are given, so nothing is scored."""

    def compute_rewards(self, states: Any, actions: Any) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Result:
    """A loss, its gradient with respect to all parameters, one after another, and what is reported of rewards."""

    loss: float
    gradient: Tensor
    rewards: Mapping[str, float] = field(default_factory=dict)


def kept_gradients(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients by name, once there are any: our trainer drops them when it has made its step."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None
        kept[name] = parameter.grad.clone()

    for name, parameter in parameters.items():
        parameter.register_post_accumulate_grad_hook(partial(keep, name))
    return kept


def our_result(case: Case, data: Data) -> Result:
    """What our trainer says, and sends backward."""
    policy = GivenLogProbs(data)
    samples = Segments.of_lengths(data.lengths)
    numbers = torch.arange(samples.total)
    # A row of this policy is a decision: what is split is not the same as in TRL, and must not matter.
    batch: Any = TruncatedBatch(numbers, numbers, samples)
    batch.truncated = data.truncated
    return update(case, data, policy, batch, rows_per_part=samples.total)


def update(case: Case, data: Data, policy: Any, batch: ActionBatch, rows_per_part: int) -> Result:
    """An update of our trainer on the data, with a policy that knows the batch."""
    config = GRPOConfig(
        group_size=GROUP_SIZE,
        micro_batch_size=-(-rows_per_part // case.num_micro_batches),
        loss_averaging=case.averaging,
        mask_truncated="decisions" if case.masks_truncated else False,
        max_grad_norm=None,
    )
    trainer = GRPOTrainer(
        config,
        policy,
        NoReward(),
        objective=case.objective,
        reference_policy=GivenLogProbs(data) if case.objective.needs.reference else None,
        advantage_estimator=lambda experience: data.advantages,
    )
    gradients = kept_gradients(policy.get_parameters())
    num_samples = len(data.lengths)
    metrics = trainer.update(
        Experience(
            states=range(num_samples),
            actions=range(num_samples),
            batch=batch,
            groups=Segments.of_lengths([GROUP_SIZE] * (num_samples // GROUP_SIZE)),
            rewards=data.advantages,
            old_log_probs=data.old_log_probs,
            reference_log_probs=data.reference_log_probs if case.objective.needs.reference else None,
        )
    )
    return Result(metrics["loss"], torch.cat([gradients[name].flatten() for name in policy.get_parameters()]))


def trl_trainer(case: Case, num_samples: int, model: LlamaForCausalLM) -> Any:
    """TRL's own trainer."""
    # Here, since pytest imports this module in search of doctests, and need not have the libraries.
    from datasets import Dataset  # type: ignore[import-untyped, unused-ignore]
    from trl import GRPOConfig as TRLConfig  # type: ignore[import-not-found, unused-ignore]
    from trl import GRPOTrainer as TRLTrainer

    warnings.simplefilter("ignore", FutureWarning)  # of what TRL itself calls
    with tempfile.TemporaryDirectory() as output_dir:
        config = TRLConfig(
            output_dir=output_dir,
            per_device_train_batch_size=num_samples // case.num_micro_batches,
            gradient_accumulation_steps=case.num_micro_batches,
            num_generations=GROUP_SIZE,
            max_completion_length=MAX_LENGTH,
            gradient_checkpointing=False,
            report_to="none",
            use_cpu=True,
            bf16=False,
            **case.theirs,
        )
        trainer = TRLTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "w2"}] * num_samples),
            processing_class=tiny_tokenizer(),
        )
    trainer.beta = case.beta
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = case.num_micro_batches  # its training loop sets this
    return trainer


def trl_result(case: Case, data: Data) -> Result:
    """What TRL says, and sends backward."""
    trainer = trl_trainer(case, len(data.lengths), tiny_model())
    log_probs = data.padded(data.log_probs).requires_grad_()
    total = 0.0
    for rows in torch.arange(len(data.lengths)).chunk(case.num_micro_batches):
        given = log_probs[rows]

        def forward(
            *_: Any, compute_entropy: bool = False, given: Tensor = given, **__: Any
        ) -> tuple[Tensor, Tensor | None, None]:
            return given, torch.zeros_like(given) if compute_entropy else None, None

        trainer._get_per_token_logps_and_entropies = forward
        tokens = torch.full(data.mask.shape, 2)
        inputs = trl_inputs(data, rows, [[2]] * len(tokens), tokens, masks_truncated=case.masks_truncated)
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        total += loss.item()
    assert log_probs.grad is not None
    return Result(total, log_probs.grad[data.mask])


def trl_inputs(
    data: Data, rows: Tensor, prompts: list[list[int]], completions: Tensor, *, masks_truncated: bool = False
) -> dict[str, Tensor]:
    """The rows of a batch as TRL makes it of what it has sampled: prompts are padded on the left."""
    longest = max(len(prompt) for prompt in prompts)
    mask = data.mask.long()
    if masks_truncated:
        mask = mask * ~data.truncated.unsqueeze(1)
    whole = {
        "prompt_ids": torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts]),
        "prompt_mask": torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": data.advantages,
        "old_per_token_logps": data.padded(data.old_log_probs),
        "ref_per_token_logps": data.padded(data.reference_log_probs),
    }
    return {name: values[rows] for name, values in whole.items()} | {"num_items_in_batch": mask.sum()}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words are w2, w3, ..., each a token."""
    tokens = {"<pad>": 0, "<end>": 1} | {f"w{number}": number for number in range(2, VOCABULARY)}
    words = Tokenizer(models.WordLevel(tokens, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def tiny_model() -> LlamaForCausalLM:
    """A Llama of two layers, the same at every call."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def whole_model_results(options: Options) -> tuple[Result, Result]:
    """Ours and TRL's with the forward passes of a real model, prompts of several lengths, at a temperature.

    The model knows only how far apart two tokens are. With one that has learnt absolute positions, such as GPT-2, TRL's
    log-probs are others where it pads a prompt: it pads on the left and tells the model nothing of positions.
    """
    case = Case(
        "", GRPOObjective(surrogate=ClippedSurrogate(**OUR_CLIPS)), "per_decision", {**CLIPS, "temperature": 0.7}
    )
    draw = random.Random(options.seed)
    data = random_data(options, torch.float32)
    prompts = [[draw.randrange(2, VOCABULARY) for _ in range(draw.randint(1, 9))] for _ in range(options.num_groups)]
    prompts = [prompt for prompt in prompts for _ in range(GROUP_SIZE)]
    completions = [[draw.randrange(2, VOCABULARY) for _ in range(length)] for length in data.lengths.tolist()]
    tokens = data.padded(torch.tensor([token for completion in completions for token in completion]))

    policy = CausalLMPolicy(tiny_model(), tiny_tokenizer(), sampling=SamplingConfig(temperature=0.7))
    states = [" ".join(f"w{token}" for token in prompt) for prompt in prompts]
    batch = policy.encode_actions(states, [Completion(tuple(completion), "") for completion in completions])
    data = replace(data, old_log_probs=policy.evaluate_actions(batch).log_probs.detach() + data.old_log_probs.sin() / 2)
    ours = update(case, data, policy, batch, rows_per_part=len(completions))

    trainer = trl_trainer(case, len(completions), tiny_model())
    rows = torch.arange(len(completions))
    loss = trainer.compute_loss(trainer.model, trl_inputs(data, rows, prompts, tokens.clamp(min=0)))
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in trainer.model.parameters()]
    return ours, Result(loss.item(), torch.cat(gradients))


REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


@dataclass(frozen=True)
class PreferenceCase:
    """A loss on preferences, as each of the two calls it.

    Attributes:
        name: in the table.
        loss: ours.
        theirs: settings of TRL's DPOConfig besides its beta, which is ours.
        sft_coefficient: ours.
        is_equally_long: whether all chosen completions must have the same length for both to agree.
    """

    name: str
    loss: PreferenceLoss
    theirs: Mapping[str, Any]
    sft_coefficient: float = 0.0
    is_equally_long: bool = False

    @property
    def objective(self) -> DPOObjective:
        return DPOObjective(loss=self.loss, sft_coefficient=self.sft_coefficient)


def preference_cases() -> list[PreferenceCase]:
    """Every loss on preferences that both have, at two strengths.

    Names and settings that differ:

    - TRL's ``label_smoothing`` is the ``label_noise`` of its ``robust`` loss, and nothing to its ``sigmoid`` loss: our
      ``label_smoothing`` has no counterpart.
    - TRL's ``sft`` is the mean over the tokens of all chosen completions of a micro-batch, ours the mean over pairs of
      the mean over tokens, which no split changes: they agree where all chosen completions are equally long.
    - TRL's ``loss_weights`` weigh both; ours is the weight of the second.
    """
    cases = []
    for beta in (0.1, 0.5):
        cases += [
            PreferenceCase(f"sigmoid, {beta}", SigmoidPreferenceLoss(beta=beta), {"loss_type": ["sigmoid"]}),
            PreferenceCase(f"hinge, {beta}", HingePreferenceLoss(beta=beta), {"loss_type": ["hinge"]}),
            PreferenceCase(f"ipo, {beta}", IdentityPreferenceLoss(beta=beta), {"loss_type": ["ipo"]}),
            PreferenceCase(
                f"robust, {beta}",
                RobustPreferenceLoss(beta=beta, label_noise=0.1),
                {"loss_type": ["robust"], "label_smoothing": 0.1},
            ),
            PreferenceCase(
                f"sigmoid and sft, {beta}",
                SigmoidPreferenceLoss(beta=beta),
                {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]},
                sft_coefficient=0.3,
                is_equally_long=True,
            ),
        ]
    return cases


def random_pairs(options: Options, dtype: torch.dtype, *, is_equally_long: bool) -> Data:
    """Chosen and rejected completions in turn, of one to MAX_LENGTH tokens."""
    data = random_data(options, dtype)
    if not is_equally_long:
        return data
    lengths = data.lengths.clone()
    lengths[::2] = 7
    total = int(lengths.sum())
    return replace(
        data,
        lengths=lengths,
        log_probs=data.log_probs.repeat(2)[:total],
        reference_log_probs=data.reference_log_probs.repeat(2)[:total],
    )


class GivenPairs(GivenLogProbs):
    """The same where an action is the positions of its log-probs."""

    def __init__(self, log_probs: Tensor) -> None:
        nn.Module.__init__(self)
        self.log_probs = nn.Parameter(log_probs.clone())

    def encode_actions(self, states: Any, actions: Any) -> TensorBatch:
        positions = torch.tensor([position for action in actions for position in action])
        return TensorBatch(positions, positions, Segments.of_lengths([len(action) for action in actions]))


def our_preference_result(
    case: PreferenceCase, policy: Any, reference_policy: Any, preferences: list[Preference[Any, Any]]
) -> Result:
    """What our trainer says, and sends backward."""
    gradients = kept_gradients(policy.get_parameters())
    config = DPOConfig(max_grad_norm=None)
    metrics = DPOTrainer(config, policy, reference_policy, objective=case.objective).step(preferences)
    gradient = torch.cat([gradients[name].flatten() for name in policy.get_parameters()])
    return Result(metrics["loss"], gradient, {name: metrics[name] for name in REWARDS})


def our_given_pairs_result(case: PreferenceCase, data: Data) -> Result:
    """Ours on log-probs that are given."""
    positions = [tuple(part.tolist()) for part in torch.arange(len(data.log_probs)).split(data.lengths.tolist())]
    pairs = zip(positions[::2], positions[1::2], strict=True)
    preferences = [Preference(index, *pair) for index, pair in enumerate(pairs)]
    policies = [GivenPairs(log_probs) for log_probs in (data.log_probs, data.reference_log_probs)]
    return our_preference_result(case, policies[0], policies[1], preferences)


def trl_preference_trainer(case: PreferenceCase, model: LlamaForCausalLM, reference: LlamaForCausalLM) -> Any:
    """TRL's own trainer."""
    from datasets import Dataset, disable_progress_bars
    from trl import DPOConfig as TRLConfig  # type: ignore[import-not-found, unused-ignore]
    from trl import DPOTrainer as TRLTrainer

    warnings.simplefilter("ignore", FutureWarning)  # of what TRL itself calls
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as output_dir:
        config = TRLConfig(
            output_dir=output_dir,
            beta=case.loss.beta,
            gradient_checkpointing=False,
            report_to="none",
            use_cpu=True,
            bf16=False,
            **case.theirs,
        )
        trainer = TRLTrainer(
            model=model,
            ref_model=reference,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "w2", "chosen": " w3", "rejected": " w4"}]),
            processing_class=tiny_tokenizer(),
        )
    trainer.model.train()
    return trainer


def trl_preference_loss(trainer: Any, model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """What TRL makes of a batch, and what it reports of the rewards."""
    loss = trainer.compute_loss(model, inputs)
    return loss, {name: trainer._metrics["train"][name][-1] for name in REWARDS}


def trl_given_pairs(trainer: Any, data: Data, log_probs: Tensor, pairs: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The same of some pairs of log-probs that are given, [N, longest] with 0 where they are padded."""
    samples = torch.cat((2 * pairs, 2 * pairs + 1))  # TRL has the rejected completions after all chosen ones
    mask = torch.nn.functional.pad(data.mask[samples], (1, 0))  # a prompt of one token

    def forward(values: Tensor) -> Any:
        nothing = torch.zeros_like(values)
        return lambda **_: SimpleNamespace(
            log_probs=values, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )

    trainer.ref_model = forward(data.padded(data.reference_log_probs, 0.0)[samples])
    inputs = {"input_ids": torch.full(mask.shape, 2), "attention_mask": mask.long(), "completion_mask": mask.long()}
    return trl_preference_loss(trainer, forward(log_probs[samples]), inputs)


def trl_given_pairs_result(case: PreferenceCase, data: Data) -> Result:
    """What TRL says, and sends backward."""
    trainer = trl_preference_trainer(case, tiny_model(), tiny_model())
    log_probs = data.padded(data.log_probs, 0.0).requires_grad_()
    loss, rewards = trl_given_pairs(trainer, data, log_probs, torch.arange(len(data.lengths) // 2))
    loss.backward()
    assert log_probs.grad is not None
    return Result(loss.item(), log_probs.grad[data.mask], rewards)


def tiny_reference() -> LlamaForCausalLM:
    """The tiny model some way off."""
    model = tiny_model()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def whole_model_pairs(case: PreferenceCase, options: Options) -> tuple[Result, Result]:
    """Ours and TRL's with the forward passes of a real model and reference, on the same token ids."""
    from trl.trainer.dpo_trainer import (  # type: ignore[import-not-found, unused-ignore]
        DataCollatorForPreference,
    )

    draw = random.Random(options.seed)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(2, VOCABULARY) for _ in range(length)]

    rows = [
        {
            "prompt_ids": tokens(draw.randint(1, 9)),
            "chosen_ids": tokens(7 if case.is_equally_long else draw.randint(1, MAX_LENGTH)),
            "rejected_ids": tokens(draw.randint(1, MAX_LENGTH)),
        }
        for _ in range(options.num_groups)
    ]
    preferences = [
        Preference(
            " ".join(f"w{token}" for token in row["prompt_ids"]),
            Completion(tuple(row["chosen_ids"]), ""),
            Completion(tuple(row["rejected_ids"]), ""),
        )
        for row in rows
    ]
    policies = [CausalLMPolicy(model, tiny_tokenizer()) for model in (tiny_model(), tiny_reference())]
    ours = our_preference_result(case, policies[0], policies[1], preferences)

    trainer = trl_preference_trainer(case, tiny_model(), tiny_reference())
    loss, rewards = trl_preference_loss(trainer, trainer.model, DataCollatorForPreference(pad_token_id=0)(rows))
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in trainer.model.parameters()]
    return ours, Result(loss.item(), torch.cat(gradients), rewards)


def relative_differences(ours: Result, theirs: Result) -> dict[str, float]:
    """Of the loss, of the gradient, by its largest entry, and of what is reported of rewards, if anything."""
    gradient = (ours.gradient - theirs.gradient).abs().max() / theirs.gradient.abs().max()
    differences = {"loss": abs(ours.loss - theirs.loss) / abs(theirs.loss), "gradient": gradient.item()}
    if theirs.rewards:
        differences["rewards"] = max(
            abs(ours.rewards[name] - theirs.rewards[name]) / abs(theirs.rewards[name]) for name in REWARDS
        )
    return differences


def compare(options: Options) -> bool:
    """Print how far apart they are; whether they agree."""
    worst: dict[str, float] = {}
    print(f"{'':28}{'precision':11}{'loss':>12}{'TRL':>12}{'difference':>12}{'of gradient':>13}{'of rewards':>12}")

    def add(name: str, precision: str, ours: Result, theirs: Result) -> None:
        differences = relative_differences(ours, theirs)
        columns = f"{differences['loss']:12.1e}{differences['gradient']:13.1e}"
        if "rewards" in differences:
            columns += f"{differences['rewards']:12.1e}"
        print(f"{name:28}{precision:11}{ours.loss:12.6f}{theirs.loss:12.6f}{columns}")
        for what, difference in differences.items():
            key = f"{what}, {precision}"
            worst[key] = max(worst.get(key, 0.0), math.inf if math.isnan(difference) else difference)

    for case in cases():
        for dtype in (torch.float64, torch.float32):
            data = random_data(options, dtype)
            add(case.name, str(dtype).removeprefix("torch."), our_result(case, data), trl_result(case, data))
    add("dapo, whole model", "float32", *whole_model_results(options))
    print("DPO")
    for pair_case in preference_cases():
        for dtype in (torch.float64, torch.float32):
            data = random_pairs(options, dtype, is_equally_long=pair_case.is_equally_long)
            results = our_given_pairs_result(pair_case, data), trl_given_pairs_result(pair_case, data)
            add(pair_case.name, str(dtype).removeprefix("torch."), *results)
        add(f"{pair_case.name}, model", "float32", *whole_model_pairs(pair_case, options))
    print(json.dumps({name: float(f"{difference:.1e}") for name, difference in worst.items()}))
    return all(difference <= TOLERANCE for difference in worst.values())


def print_constants() -> None:
    """Print losses and gradients that TRL gives for the fixed numbers, as they stand in the test."""
    data = fixed_data()
    for case in cases():
        if case.num_micro_batches == 1:
            result = trl_result(case, data)
            print_constant(case.name, round(result.loss, 7), rounded(result.gradient))
    print("preferences")
    for pair_case in preference_cases():
        trainer = trl_preference_trainer(pair_case, tiny_model(), tiny_model())
        log_probs = data.padded(data.log_probs, 0.0).requires_grad_()
        losses = [trl_given_pairs(trainer, data, log_probs, pair)[0] for pair in torch.arange(2).split(1)]
        [padded] = torch.autograd.grad(torch.stack(losses).sum(), log_probs)
        print_constant(pair_case.name, [round(own.item(), 7) for own in losses], rounded(padded[data.mask]))


def rounded(gradient: Tensor) -> list[float]:
    """Its entries as they stand in the test."""
    return [round(entry, 7) + 0.0 for entry in gradient.tolist()]


def print_constant(name: str, loss: float | list[float], gradient: list[float]) -> None:
    """Print a line of the test, or the lines that it takes."""
    line = f'    "{name}": ({loss}, {gradient}),'
    print(line if len(line) <= 120 else f'    "{name}": (\n        {loss},\n        {gradient},\n    ),')


def main(options: Options) -> None:
    """Compare, or print constants."""
    if options.constants:
        print_constants()
    elif not compare(options):
        sys.exit(f"a difference is above {TOLERANCE}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
