"""The command that checks a policy of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tyro
from pydantic import BaseModel, NonNegativeInt, PositiveInt
from rich.console import Console
from rich.text import Text

from grpo import ConformanceError, PolicyTrainer, Run, check_policy_model
from grpo_adapters.cli.arguments import parse
from grpo_adapters.cli.errors import UsageError
from grpo_adapters.cli.module_training import attribute
from grpo_adapters.cli.options import explained

FAILED = 1


@explained
class CheckOptions(BaseModel, frozen=True, extra="forbid"):
    """Call a policy as a trainer would, and tell everything that is wrong with it.

    Attributes:
        target: file.py:function or package.module:function. The function returns a policy and some states, or a trainer
            and its states, as for anygrpo train.
        discrete: whether log-probs are those of a discrete distribution, so that they cannot exceed 0.
        num_actions_per_state: how many actions are always asked for at once; None where any number can be.
        num_samples: actions to draw, to see whether they are sampled as their log-probs say; 0 leaves it out.
    """

    target: tyro.conf.Positional[str]
    discrete: bool = True
    num_actions_per_state: PositiveInt | None = None
    num_samples: NonNegativeInt = 2000


def check(words: Sequence[str]) -> int:
    """Check a policy; 0 if nothing is wrong with it, 1 otherwise."""
    asked = parse(CheckOptions, words, command="check", required=("target",))
    policy, states = _policy_and_states(asked.target)
    try:
        check_policy_model(
            policy,
            states,
            discrete=asked.discrete,
            num_actions_per_state=asked.num_actions_per_state,
            num_samples=asked.num_samples,
        )
    except ConformanceError as error:
        found = str(error).replace("check_policy_model(..., discrete=False)", "anygrpo check --no-discrete")
        Console(stderr=True).print(Text(found), soft_wrap=True)
        return FAILED
    Console().print(Text(f"{type(policy).__name__}: nothing is wrong"), soft_wrap=True)
    return 0


def _policy_and_states(target: str) -> tuple[Any, Any]:
    made = attribute(target)
    made = made() if callable(made) else made
    if not isinstance(made, tuple) or len(made) < 2 or isinstance(made[0], Run):
        raise UsageError(
            f"{target} gives a {type(made).__name__}, expected (policy, states) or (trainer, states): states "
            f"of the kind that the policy is made for"
        )
    owner, states = made[:2]
    policy = owner.policy if isinstance(owner, PolicyTrainer) else owner
    if hasattr(states, "next_states"):
        return policy, states.next_states(0)
    return policy, states(0) if callable(states) else states
