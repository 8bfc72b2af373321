"""How far whoever sampled is from the policy that is trained."""

from __future__ import annotations

import warnings

from torch import Tensor

from grpo.config.rollout import ImportanceCorrection
from grpo.data._protocols import type_name
from grpo.data.experience import Experience
from grpo.rollout.importance import corrected_fraction, importance_weights, sampling_metrics
from grpo.training._optimization import level_of_caller

WIDE_GAP = 0.1


class SamplingGap:
    """The gap between the sampler's log-probs and the policy's: reported, corrected for, warned of where it is wide.

    Args:
        sampler: who makes the actions.
        correction: how the loss is corrected for the gap; None for not at all.
    """

    def __init__(self, sampler: object, correction: ImportanceCorrection | None = None) -> None:
        self._sampler_name = type_name(sampler)
        self._correction = correction
        self._has_warned = False

    def metrics(self, experience: Experience) -> dict[str, float]:
        """Those of a step; nothing where its batch does not tell the log-probs that it was sampled with."""
        log_probs, sampling_log_probs = experience.old_log_probs, experience.sampling_log_probs
        if log_probs is None or sampling_log_probs is None:
            return {}
        metrics = sampling_metrics(log_probs, sampling_log_probs, experience.world)
        if self._correction is not None:
            metrics["sampling/corrected_fraction"] = corrected_fraction(
                log_probs, sampling_log_probs, experience.samples, self._correction, experience.world
            )
        self._warn_of(metrics["sampling/log_prob_gap"])
        return metrics

    def weights(self, experience: Experience) -> Tensor | None:
        """What each decision counts to correct the loss for the gap, [D]; None where it is not corrected.

        Raises:
            ValueError: if the batch does not tell the log-probs that it was sampled with.
        """
        if self._correction is None:
            return None
        if experience.sampling_log_probs is None or experience.old_log_probs is None:
            raise ValueError(
                f"importance_correction needs to know the log-probs that actions were drawn with, but "
                f"{type_name(experience.batch)} does not tell: give the batches of encode_actions an attribute "
                f"sampling_log_probs, as grpo.HasSamplingLogProbs documents, or set it to None in the config"
            )
        return importance_weights(
            experience.old_log_probs, experience.sampling_log_probs, experience.samples, self._correction
        )

    def _warn_of(self, gap: float) -> None:
        if gap <= WIDE_GAP or self._has_warned:
            return
        self._has_warned = True
        warnings.warn(
            f"the log-probs that {self._sampler_name} drew actions with are {gap:.2g} nats from the policy's, in the "
            f"mean over decisions (sampling/log_prob_gap), where about 0.015 is usual for an inference engine in "
            f"bfloat16. Look for weights of an earlier step in it, another temperature or filter, log-probs from "
            f"before those are applied, another dtype or chat template, and dropout. This is said once",
            stacklevel=level_of_caller(),
        )
