"""The seam of everything that makes actions."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, cast

from typing_extensions import Protocol, runtime_checkable

from grpo.config.rollout import ImportanceCorrection
from grpo.data._protocols import missing_methods, require_methods, type_name
from grpo.data.batches import Batch
from grpo.models.policy import PolicyModel

StatesT_contra = TypeVar("StatesT_contra", contravariant=True)
ActionsT_co = TypeVar("ActionsT_co", covariant=True)


@runtime_checkable
class Sampler(Protocol[StatesT_contra, ActionsT_co]):
    """Asks a policy, and whatever else it needs, for actions: environments, an inference engine, an agent.

    Trainers take one as ``sampler``; without one it is the policy's own ``generate_actions``. Where it knows the
    log-probs that it drew with, the policy's batches hand them on (:class:`grpo.HasSamplingLogProbs`).

    Example:
        >>> class OneByOne:  # holds the generation of one state in memory at a time
        ...     def sample(self, policy, states, num_actions_per_state, **kwargs):
        ...         return [policy.generate_actions([state], num_actions_per_state, **kwargs)[0] for state in states]
        >>> isinstance(OneByOne(), Sampler)
        True
    """

    def sample(
        self, policy: Any, states: StatesT_contra, num_actions_per_state: int, **kwargs: Any
    ) -> Batch[ActionsT_co]:
        """A group of actions for every state.

        Args:
            policy: the policy that is trained, in evaluation mode.
            states: S states.
            num_actions_per_state: actions for each, G.
            kwargs: whatever was given to ``trainer.step`` besides the states.

        Returns:
            S groups of G actions each, in the order of the states, as
            :meth:`generate_actions <grpo.PolicyModel.generate_actions>` returns them.
        """
        ...


@runtime_checkable
class Restarts(Protocol):
    """A sampler that goes on from call to call, as one with running environments does."""

    def restart(self) -> None:
        """Begin anew with the next call; called where a step failed, so that what was under way is not gone on with."""
        ...


@runtime_checkable
class CutsEpisodes(Protocol):
    """A sampler whose state does not hold the episodes under way, as where environments cannot be copied.

    Who saves a training at some of its steps calls :meth:`cut` right before each ``state_dict``, and so in every run,
    be it interrupted there or not: both then go on alike.
    """

    def cut(self, step: int) -> None:
        """Let the episodes under way end here, as truncated, and begin new ones with the next call.

        Args:
            step: how many steps were done. The new episodes' seeds depend on nothing but the sampler's seed and this.
        """
        ...


@runtime_checkable
class DiffersFromPolicy(Protocol):
    """A sampler whose log-probs are not the policy's, and which knows how the loss is best corrected for that.

    A trainer follows it where the ``importance_correction`` of its config is ``"sampler"``, as by default. Learning
    from preferences (:class:`grpo.OnlineDPOTrainer`) needs no correction: it does not matter there who made the pairs.

    Example:
        >>> class Engine:
        ...     def sample(self, policy, states, num_actions_per_state, **kwargs): ...
        ...     def get_importance_correction(self):
        ...         return ImportanceCorrection(kind="mask", per="sample", max_ratio=3.0)
        >>> isinstance(Engine(), DiffersFromPolicy)
        True
    """

    def get_importance_correction(self) -> ImportanceCorrection | None:
        """The correction that it recommends; None for none. Asked once, when a trainer is made."""
        ...


@runtime_checkable
class HasSampler(Protocol):
    """A policy that was built for a sampler, which a trainer then uses if it is given no other."""

    def get_sampler(self) -> Sampler[Any, Any] | None:
        """The sampler; None for the policy's own ``generate_actions``."""
        ...


class PolicySampler:
    """The policy as its own sampler, by its ``generate_actions``."""

    def sample(self, policy: PolicyModel[Any, Any], states: Any, num_actions_per_state: int, **kwargs: Any) -> Any:
        """What the policy generates."""
        return policy.generate_actions(states, num_actions_per_state, **kwargs)


def sampler_for(policy: Any, sampler: Any) -> Sampler[Any, Any]:
    """The sampler that is given, or the one that the policy was built for, or the policy itself.

    Raises:
        TypeError: if what is given has no method ``sample``.
    """
    if sampler is None and not missing_methods(policy, HasSampler):
        sampler = policy.get_sampler()
    if sampler is None:
        return PolicySampler()
    require_methods(sampler, Sampler, "sampler")
    return cast("Sampler[Any, Any]", sampler)


def correction_for(
    sampler: Sampler[Any, Any], setting: ImportanceCorrection | Literal["sampler"] | None
) -> ImportanceCorrection | None:
    """The correction that is set, or that the sampler recommends.

    Raises:
        TypeError: if what it recommends is none.
    """
    if setting != "sampler":
        return setting
    if missing_methods(sampler, DiffersFromPolicy):
        return None
    recommended = cast("DiffersFromPolicy", sampler).get_importance_correction()
    if recommended is not None and not isinstance(recommended, ImportanceCorrection):
        raise TypeError(
            f"{type_name(sampler)}.get_importance_correction returned {recommended!r}, expected a "
            f"grpo.ImportanceCorrection, or None for none"
        )
    return recommended
