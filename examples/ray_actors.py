"""Rollouts from Ray actors, rewards too: on any CPU of a cluster, and started anew where they die."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError
from ray.util import ActorPool
from torch import Tensor


class Actors:
    """Actors of one class, which share calls: each takes the next one as soon as it is done with the last.

    Ray starts an actor that dies anew and makes its call again, so an answer must depend on the call alone: whoever
    draws seeds its generator by an argument.

    Args:
        kind: the class.
        arguments: of its constructor.
        count: of actors, each on a CPU of its own, wherever the cluster has one.
        timeout: seconds that all calls made at once may take, the start of the actors included.
        restarts: how often an actor is started anew, and a call made again.
    """

    def __init__(self, kind: type, *arguments: Any, count: int, timeout: float, restarts: int = 3) -> None:
        options = {"num_cpus": 1, "max_restarts": restarts, "max_task_retries": restarts}
        self.actors = [ray.remote(kind).options(**options).remote(*arguments) for _ in range(count)]
        self.name = kind.__name__
        self.timeout = timeout
        self.restarts = restarts

    def ask(self, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to calls of a method, in the order of the calls.

        Raises:
            TimeoutError: if some have not come in time.
            RuntimeError: if an actor has died too often.
            Exception: whatever the method raises.
        """
        pool = ActorPool(self.actors)
        for call in calls:
            pool.submit(lambda actor, own: getattr(actor, method).remote(*own), call)
        deadline = time.monotonic() + self.timeout
        answers: list[Any] = []
        try:
            while len(answers) < len(calls):
                answers.append(pool.get_next(timeout=max(0.0, deadline - time.monotonic())))
        except TimeoutError as error:
            raise TimeoutError(
                f"{self.name}.{method} has answered {len(answers)} of {len(calls)} calls within {self.timeout:g} s: "
                f"one hangs, or takes longer, or the cluster has no CPU for each of {len(self.actors)} actors "
                f"(`ray status` tells)"
            ) from error
        except RayActorError as error:
            raise RuntimeError(
                f"an actor of {self.name} is gone for good, at {method}; Ray starts it anew {self.restarts} times at "
                f"the most: {error}"
            ) from error
        return answers


class ActorSampler:
    """Asks actors for the group of each state: ``play(weights, state, num_actions)``.

    Weights go out once a step, by the object store of each machine. An actor that has them plays with the policy of
    this very step, so that no correction is needed.
    """

    def __init__(self, actors: Actors) -> None:
        self.actors = actors

    def sample(self, policy: Any, states: Sequence[Any], num_actions_per_state: int, **kwargs: Any) -> list[Any]:
        """A group for each state."""
        weights = ray.put({name: value.detach().cpu() for name, value in policy.state_dict().items()})
        return self.actors.ask("play", [(weights, state, num_actions_per_state) for state in states])


class ActorReward:
    """Asks actors for rewards, each for a part of the samples: ``score(states, actions)``, a tensor."""

    def __init__(self, actors: Actors) -> None:
        self.actors = actors
        self.device = torch.device("cpu")

    def compute_rewards(self, states: Sequence[Any], actions: Sequence[Any]) -> Tensor:
        """The rewards of all samples, in their order."""
        size = -(-len(actions) // len(self.actors.actors))
        calls = [(states[i : i + size], actions[i : i + size]) for i in range(0, len(actions), size)]
        return torch.cat(self.actors.ask("score", calls)).to(self.device)

    def train(self) -> None:
        """Nothing to switch."""

    def eval(self) -> None:
        """Nothing to switch."""

    def to(self, device: torch.device | str) -> None:
        """Give the rewards on this device."""
        self.device = torch.device(device)
