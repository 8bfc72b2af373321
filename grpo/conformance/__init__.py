"""Does a model do what its protocol asks for? Everything that is wrong is told in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo.conformance._checks import ConformanceError, RewardModelChecks
from grpo.conformance._policy_checks import PolicyChecks
from grpo.data._checks import check_states
from grpo.models.policy import PolicyModel
from grpo.models.reward_model import RewardModel

__all__ = ["ConformanceError", "check_policy_model", "check_reward_model"]


def check_policy_model(
    policy: PolicyModel[Any, Any],
    states: Any,
    *,
    discrete: bool = True,
    num_samples: int = 2000,
    **generation_kwargs: Any,
) -> None:
    """Call a policy as a trainer would, and raise one error that lists everything it does wrong.

    Besides shapes, counts and gradients it is checked that evaluating changes nothing and does not depend on the
    batch, that ``train``, ``eval`` and ``to`` work in place, that a :class:`grpo.SequentialPolicy` agrees with
    itself, that a critic does too, and that actions are sampled as often as their log-probs say (false alarms: less
    than one in 100,000).

    Args:
        policy: the policy. Its parameters and buffers and the random generators are left as they were, and so is its
            mode, where it tells it by an attribute ``training``; otherwise it is left in training mode.
        states: a few states of the kind that it is made for; two or more different ones find more.
        discrete: whether log-probs are those of a discrete distribution, so that they cannot exceed 0; otherwise
            sampling is checked by the mean of the score function, which must vanish.
        num_samples: actions to draw for the check of frequencies, for each of up to three states; 0 leaves it out.
        generation_kwargs: handed on to ``generate_actions``.

    Raises:
        ConformanceError: if anything is wrong.

    Warns:
        UserWarning: if frequencies cannot be compared, since hardly any action came twice.

    Example:
        >>> from grpo_adapters.bandit import SoftmaxPolicy
        >>> check_policy_model(SoftmaxPolicy(num_arms=4), ["first state", "second state"])
    """
    check_states(states)
    checks = PolicyChecks(policy, states, discrete, generation_kwargs)
    checks.run(num_samples)
    checks.raise_problems()


def check_reward_model(
    reward_model: RewardModel[Any, Any], states: Any, actions: Any, *, decisions_per_sample: Sequence[int] | None = None
) -> None:
    """Call a reward model as a trainer would, and raise one error that lists everything it does wrong.

    Args:
        reward_model: the reward model.
        states: N states, one for each action.
        actions: N actions of the kind that it is made for.
        decisions_per_sample: decisions in each action, N numbers, for rewards that come per decision; None for one.

    Raises:
        ConformanceError: if anything is wrong.

    Example:
        >>> from grpo_adapters.bandit import StationaryBandit
        >>> check_reward_model(StationaryBandit([0.1, 0.9]), ["a state", "a state"], [0, 1])
    """
    check_states(states)
    check_states(actions, "actions")
    if len(states) != len(actions):
        raise ValueError(f"got {len(states)} states and {len(actions)} actions, expected one state for each action")
    checks = RewardModelChecks(reward_model, states, actions, decisions_per_sample)
    checks.run()
    checks.raise_problems()
