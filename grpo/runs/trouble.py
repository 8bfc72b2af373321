"""Signs that a training goes wrong, in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

from grpo.runs.callback import Callback
from grpo.runs.run import Run

LARGE_FIRST_KL = 0.01  # nats; rounding in half precision is far below
LITTLE_ENTROPY = 0.01  # of that of the first step
STEPS_WITHOUT_SPREAD = 5
STEPS_AT_CLIP = 100
FAR_ABOVE_CLIP = 10  # times max_grad_norm; a training with Adam may be a little above at every step and do well


class WatchForTrouble(Callback):
    """Warns, once each, of what usually means that a training goes wrong, with what to do about it.

    That is a policy which gives its own samples another probability in the first update than when they were noted; an
    entropy that is gone; groups whose rewards are all equal, and gradients that are scaled down, step after step.

    Args:
        warn: is given the text; None for :func:`warnings.warn`.

    Example:
        >>> from grpo import GRPOConfig, GRPOTrainer, Until
        >>> from grpo_adapters.bandit import SoftmaxPolicy, StationaryBandit
        >>> trainer = GRPOTrainer(GRPOConfig(), SoftmaxPolicy(2), StationaryBandit([1.0, 1.0]))
        >>> watch = WatchForTrouble(warn=lambda text: print(text.partition(",")[0]))
        >>> Run(trainer, ["the only state"], callbacks=[watch])(Until(steps=6))
        for 5 steps all rewards of each group were equal
    """

    def __init__(self, warn: Callable[[str], object] | None = None) -> None:
        self.warn = warn if warn is not None else _warn
        self._warned: set[str] = set()
        self._first_entropy: float | None = None
        self._without_spread = 0
        self._at_clip = 0

    def after_step(self, run: Run, metrics: Mapping[str, float]) -> None:
        """Look at the metrics of a step."""
        if run.world.rank > 0:
            return
        self._look_at_first_update(metrics)
        self._look_at_entropy(metrics)
        self._look_at_groups(run, metrics)
        self._look_at_gradient(run, metrics)

    def _look_at_first_update(self, metrics: Mapping[str, float]) -> None:
        kl = metrics.get("first_approx_kl", 0.0)
        if kl > LARGE_FIRST_KL:
            self._once(
                f"the policy is {kl:.2g} nats away from the one that sampled before anything was updated: it evaluates "
                f"its samples otherwise than it did a moment before. Look for dropout, for sampling at another "
                f"temperature, or for a mask that is not the one it sampled with"
            )

    def _look_at_entropy(self, metrics: Mapping[str, float]) -> None:
        entropy = metrics.get("entropy")
        if entropy is None:
            return
        if self._first_entropy is None:
            self._first_entropy = entropy
        if entropy < LITTLE_ENTROPY * self._first_entropy:
            self._once(
                f"the policy's entropy is gone ({entropy:.2g} nats, {self._first_entropy:.2g} at first): it tries "
                f"nothing new any more. If it is not good enough, raise entropy_coefficient, lower the learning rate, "
                f"or stay near a reference policy"
            )

    def _look_at_groups(self, run: Run, metrics: Mapping[str, float]) -> None:
        has_groups = getattr(run.trainer.config, "group_size", 1) > 1
        no_spread = has_groups and metrics.get("frac_reward_zero_std") == 1
        self._without_spread = self._without_spread + 1 if no_spread else 0
        if self._without_spread == STEPS_WITHOUT_SPREAD:
            self._once(
                f"for {STEPS_WITHOUT_SPREAD} steps all rewards of each group were equal, so that there was nothing to "
                f"learn: raise group_size, choose easier or harder states, let the reward tell more, or set "
                f"dynamic_sampling"
            )

    def _look_at_gradient(self, run: Run, metrics: Mapping[str, float]) -> None:
        bound = run.trainer.config.max_grad_norm
        is_clipped = bound is not None and metrics.get("grad_norm", 0.0) > FAR_ABOVE_CLIP * bound
        self._at_clip = self._at_clip + 1 if is_clipped else 0
        if self._at_clip == STEPS_AT_CLIP:
            self._once(
                f"for {STEPS_AT_CLIP} steps the gradient was more than {FAR_ABOVE_CLIP} times max_grad_norm={bound:g}, "
                f"and scaled down: its length no longer says anything. Normalise rewards or observations, or raise "
                f"max_grad_norm"
            )

    def _once(self, text: str) -> None:
        kind = text[:30]
        if kind not in self._warned:
            self._warned.add(kind)
            self.warn(text)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
