"""Does a model do what its protocol asks for? Everything that is wrong is told in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from grpo.conformance._checks import ConformanceError, RewardModelChecks
from grpo.conformance._policy_checks import PolicyChecks
from grpo.data._checks import check_states
from grpo.models.policy import PolicyModel
from grpo.models.reward_model import RewardModel
from grpo.rollout.sampler import Sampler

__all__ = ["ConformanceError", "check_policy_model", "check_reward_model"]


def check_policy_model(
    policy: PolicyModel[Any, Any],
    states: Any,
    *,
    sampler: Sampler[Any, Any] | None = None,
    num_actions_per_state: int | None = None,
    discrete: bool = True,
    given_part: Callable[[Any], Any] | None = None,
    num_samples: int = 2000,
    **generation_kwargs: Any,
) -> None:
    """Call a policy as a trainer would, and raise one error that lists everything it does wrong.

    Besides shapes, counts and gradients it is checked that evaluating changes nothing and does not depend on the
    batch, that ``train``, ``eval`` and ``to`` work in place, that a :class:`grpo.SequentialPolicy` agrees with
    itself, that a critic, ``encode_groups`` and ``sampling_log_probs`` do too where there are any, and that actions are
    sampled as their log-probs say (false alarms: less than one in 100,000).

    The last is tested by how often each action comes, where most come again and again; where they hardly do, as long
    sequences and densities, by whether other parameters, fitted to some of the samples, explain others so much better
    that chance would do it less than once in a million times. A policy that is new acts nearly alike in all states, so
    that it is tested again, by a quarter of the samples, with parameters that make one action of each state likely.

    Args:
        policy: the policy. Its parameters and buffers and the random generators are left as they were, and so is its
            mode, where it tells it by an attribute ``training``; otherwise it is left in training mode.
        states: a few states of the kind that it is made for; two or more different ones find more.
        sampler: makes the actions; None for the policy itself, or the sampler that it was built for.
        num_actions_per_state: actions of a state that are asked for at once, always for all the states, as a trainer
            with this ``group_size`` does: 1 for running environments, which go on from call to call. None where any
            number can be asked for, of any states.
        discrete: whether log-probs are those of a discrete distribution, so that they cannot exceed 0.
        given_part: what of an action was given to the policy and not decided by it, such as a set of candidates that
            came with the action: frequencies are then those among actions with the same given part. None for nothing.
        num_samples: actions to draw for the check of sampling, for each of up to three states, or for all together
            with ``num_actions_per_state``; 0 leaves it out.
        generation_kwargs: handed on to ``generate_actions``.

    Raises:
        ConformanceError: if anything is wrong.

    Warns:
        UserWarning: if sampling cannot be checked, since hardly any action came twice and there are no parameters.

    Example:
        >>> from grpo_adapters.bandit import SoftmaxPolicy
        >>> check_policy_model(SoftmaxPolicy(num_arms=4), ["first state", "second state"])
    """
    check_states(states)
    if num_actions_per_state is not None and (not isinstance(num_actions_per_state, int) or num_actions_per_state < 1):
        raise ValueError(f"num_actions_per_state is {num_actions_per_state!r}, expected at least 1, or None")
    checks = PolicyChecks(
        policy,
        states,
        generation_kwargs,
        sampler=sampler,
        num_actions_per_state=num_actions_per_state,
        discrete=discrete,
    )
    checks.run(num_samples, given_part)
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
