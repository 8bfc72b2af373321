"""The optimizer over the parameters that are trained."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grpo.config.schedules import LinearSchedule, at_step
from grpo.config.update import UpdateConfig
from grpo.data._protocols import type_name
from grpo.data.errors import NonFiniteError
from grpo.data.state import copied, load_state
from grpo.distributed.parts import is_sharded, local_part, whole
from grpo.distributed.world import World
from grpo.models._checks import check_parameters
from grpo.training._gradient_sum import GradientSum


class Optimization:
    """A policy's trainable parameters and the optimizer over them.

    Attributes:
        optimizer: the optimizer; None where there is nothing to train.
        parameters: the trainable parameters by name.
        rates: the learning rate of each of the optimizer's groups, which a schedule scales.

    Args:
        policy: tells its parameters.
        optimizer: over them; None for AdamW.
        config: how parameters are changed.
    """

    def __init__(self, policy: Any, optimizer: torch.optim.Optimizer | None, config: UpdateConfig) -> None:
        self._policy = policy
        self._config = config
        everything = check_parameters(policy.get_parameters(), "policy")
        self._everything = {name: (tensor, _kind(tensor)) for name, tensor in everything.items()}
        self.parameters = trainable(everything)
        self.optimizer = optimizer_over(self.parameters, optimizer, config)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups] if self.optimizer else []
        self._gradient_sum: GradientSum | None = None

    @property
    def held(self) -> list[Tensor]:
        """The tensors that the optimizer changes."""
        return [tensor for group in self.optimizer.param_groups for tensor in group["params"]] if self.optimizer else []

    @property
    def differentiated(self) -> list[Tensor]:
        """The tensors that get gradients: those, and what else is trainable."""
        held = self.held
        known = set(map(id, held))
        return [*held, *(tensor for tensor in self.parameters.values() if id(tensor) not in known)]

    @property
    def learning_rate(self) -> float:
        """That of the optimizer's first group; 0 where there is nothing to train."""
        return float(self.optimizer.param_groups[0]["lr"]) if self.optimizer is not None else 0.0

    def refresh(self) -> None:
        """Look again at what the policy says are its parameters.

        Raises:
            ValueError: if there is a trainable one which the optimizer does not hold, and which was not there when the
                trainer was made: it would never be trained.
        """
        everything = self._policy.get_parameters()
        if self._are_as_before(everything):
            return
        current = trainable(check_parameters(everything, "policy"))
        self._refuse_lost(everything, current)
        known = {id(tensor) for tensor in (*self.parameters.values(), *self.held)}
        new = [name for name, tensor in current.items() if id(tensor) not in known]
        if new:
            otherwise = ", or call trainer.optimizer.add_param_group with them" if self.optimizer is not None else ""
            raise ValueError(
                f"policy.get_parameters now holds {', '.join(new[:3])}{', ...' if len(new) > 3 else ''}, replaced or "
                f"unfrozen since this trainer was made, which would never be trained: make the trainer anew{otherwise}"
            )
        self._everything = {name: (tensor, _kind(tensor)) for name, tensor in everything.items()}
        self.parameters = current

    def _refuse_lost(self, everything: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
        """Parameters that are trained must stay there, of the shape that the optimizer's state has."""
        lost = [name for name in self.parameters if name not in everything]
        if lost or (self.parameters and not current):
            what = (
                f"no longer holds {', '.join(lost[:3])}" if lost else "holds nothing any more that requires a gradient"
            )
            raise ValueError(
                f"policy.get_parameters {what}, which this trainer's optimizer trains: make the trainer anew"
            )
        for name, tensor in everything.items():
            before, kind = self._everything.get(name, (tensor, _kind(tensor)))
            if tensor is before and _kind(tensor) != kind:
                raise ValueError(
                    f"policy.get_parameters now holds {name!r} as {_kind(tensor)}, it was {kind} when this trainer was "
                    f"made, and the optimizer's state is for that: make the trainer anew"
                )

    def _are_as_before(self, everything: Any) -> bool:
        """Whether these are the very tensors that were checked already, and as many of them are trained."""
        if not isinstance(everything, Mapping) or len(everything) != len(self._everything):
            return False
        for (name, tensor), (known_name, (known, (shape, dtype))) in zip(
            everything.items(), self._everything.items(), strict=True
        ):
            if (
                tensor is not known
                or name != known_name
                or tensor.requires_grad != (name in self.parameters)
                or tensor.dtype is not dtype
                or tensor.shape != shape
            ):
                return False
        return True

    def follow_schedule(self, step: int) -> None:
        """Set the rates of a step: the first group's to what the schedule says, the others' in proportion."""
        if isinstance(self._config.learning_rate, LinearSchedule):
            self._set_rates(float(at_step(self._config.learning_rate, step)))

    def apply_learning_rate(self) -> None:
        """Set the rates to the config's, where that is no schedule."""
        if not isinstance(self._config.learning_rate, LinearSchedule):
            self._set_rates(self._config.learning_rate)
            self.rates = [float(group["lr"]) for group in self.optimizer.param_groups] if self.optimizer else []

    def _set_rates(self, rate: float) -> None:
        if self.optimizer is None:
            return
        self.rates += [float(group["lr"]) for group in self.optimizer.param_groups[len(self.rates) :]]
        for group, first_rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group_rate = rate * (first_rate / self.rates[0] if self.rates[0] > 0 else 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(group_rate)
            else:
                group["lr"] = group_rate

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, None without one, and the rates that a schedule scales, copied."""
        return {
            "optimizer": None if self.optimizer is None else copied(self.optimizer.state_dict()),
            "learning_rates": list(self.rates),
            "optimized": [str(_kind(tensor)) for tensor in self.held],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned."""
        if self.optimizer is not None:
            load_state(self.optimizer, state_dict["optimizer"], "optimizer")
            _keep_dtypes(self.optimizer, state_dict["optimizer"]["state"])
        self.rates = list(state_dict["learning_rates"])

    def check_state(self, state_dict: Mapping[str, Any]) -> None:
        """Raise a ValueError if a state is plainly that of another optimizer, or of one over other tensors."""
        came = _groups_in(state_dict["optimizer"])
        own = _groups_in(None if self.optimizer is None else self.optimizer.state_dict())
        sizes, own_sizes = ([size for size, _ in groups] for groups in (came, own))
        settings = zip(came, own, strict=False)
        if sizes != own_sizes or not all(needed <= told for (_, told), (_, needed) in settings):
            raise ValueError(
                f"state_dict holds the state of {_described(came)}, expected {_described(own)}, as optimizer "
                f"{type_name(self.optimizer)} has: construct it in the same way"
            )
        self._check_tensors(state_dict["optimized"])
        self._check_rates(state_dict["learning_rates"])

    def _check_tensors(self, came: Sequence[str]) -> None:
        names = {id(tensor): name for name, tensor in self.parameters.items()}
        pairs = list(zip(came, self.held, strict=True))
        differing = [(kind, tensor) for kind, tensor in pairs if kind != str(_kind(tensor))]
        if differing:
            (kind, tensor), *others = differing
            more = f", and {len(others)} more differ" if others else ""
            raise ValueError(
                f"state_dict holds the state of an optimizer over other tensors: {names.get(id(tensor), 'the first')} "
                f"is {kind} in the state, expected {_kind(tensor)}{more}: construct policy and optimizer in the same "
                f"way, with parameters in this order"
            )

    def _check_rates(self, rates: Any) -> None:
        if (
            not isinstance(rates, list)
            or len(rates) > len(self.optimizer.param_groups if self.optimizer is not None else [])
            or not all(isinstance(rate, float | int) and math.isfinite(rate) for rate in rates)
        ):
            raise ValueError(
                f"state_dict holds learning_rates {rates!r}, expected a finite number for each group of the optimizer"
            )

    def gradient_sum(self, world: World) -> GradientSum:
        """What sums the gradients of the tensors that the optimizer changes."""
        if self._gradient_sum is None or not self._gradient_sum.is_for(self.held):
            self._gradient_sum = GradientSum(self.held, world)
        return self._gradient_sum

    def drop_gradients(self) -> None:
        """Forget the gradients of all parameters, held by the optimizer or not."""
        for tensor in self.differentiated:
            tensor.grad = None

    def make_step(self, source: str) -> float:
        """Make the optimiser step, scaling the gradient down to ``max_grad_norm``; its norm before that.

        Raises:
            NonFiniteError: if the gradient is not finite; nothing has changed then.
            ValueError: if there is no gradient; ``source`` names what should have made it.
        """
        assert self.optimizer is not None
        gradients = [tensor.grad for tensor in self.held if tensor.grad is not None]
        if not gradients:
            raise ValueError(
                f"no gradient reached a parameter that the optimizer holds: {source} must compute "
                f"log-probs from the very tensors in get_parameters"
            )
        parts = by_sharding(_as_one(gradients))
        grad_norm = total_norm(parts)
        if not math.isfinite(grad_norm):
            raise NonFiniteError("the gradient is not finite")
        bound = self._config.max_grad_norm
        if bound is not None and grad_norm > bound:
            for part in parts:
                torch._foreach_mul_(part, bound / grad_norm)
        self.optimizer.step()
        return grad_norm


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    """What an optimizer's state of a tensor depends on."""
    return tensor.shape, tensor.dtype


def _groups_in(state: Any) -> list[tuple[int, set[str]]]:
    """Of each group in an optimizer's state, the number of tensors and the names of its settings."""
    groups = state["param_groups"] if isinstance(state, Mapping) else []
    return [(len(group["params"]), group.keys() - {"params"}) for group in groups]


def _described(groups: list[tuple[int, set[str]]]) -> str:
    described = [f"a group of {size} tensors with {', '.join(sorted(settings))}" for size, settings in groups]
    return " and ".join(described) or "no optimizer"


def _keep_dtypes(optimizer: torch.optim.Optimizer, stored: Mapping[int, Mapping[str, Any]]) -> None:
    """PyTorch rounds what an optimizer stored to the parameter's precision: put back what was wider or narrower."""
    for index, parameter in enumerate(tensor for group in optimizer.param_groups for tensor in group["params"]):
        current = optimizer.state.get(parameter, {})
        for name, value in stored.get(index, {}).items():
            own = current.get(name)
            if isinstance(value, Tensor) and isinstance(own, Tensor) and own.dtype == parameter.dtype != value.dtype:
                current[name] = value.to(own.device, copy=True)


def _as_one(gradients: list[Tensor]) -> list[Tensor]:
    """The vector that the gradients are all the parts of, where there is one."""
    vector = gradients[0]._base
    if vector is None or any(gradient._base is not vector for gradient in gradients):
        return gradients
    return [vector] if sum(gradient.numel() for gradient in gradients) == vector.numel() else gradients


def total_norm(parts: list[list[Tensor]]) -> float:
    """Norm of all gradients together, in float32 or better; of those that are whole here, and those that are not."""
    return math.hypot(*map(_norm, parts))


def by_sharding(gradients: list[Tensor]) -> list[list[Tensor]]:
    """Those that are here as a whole, and those that lie in parts on several processes, where there are any."""
    sharded = [tensor for tensor in gradients if is_sharded(tensor)]
    if not sharded:
        return [gradients]
    known = set(map(id, sharded))
    here = [tensor for tensor in gradients if id(tensor) not in known]
    return [here, sharded] if here else [sharded]


def _norm(gradients: list[Tensor]) -> float:
    doubles = any(gradient.dtype == torch.float64 for gradient in gradients)
    norms = torch._foreach_norm(gradients, dtype=torch.float64 if doubles else torch.float32)
    if len({gradient.device for gradient in gradients}) > 1:
        norms = tuple(norm.to(norms[0].device) for norm in norms)
    return whole(torch.linalg.vector_norm(torch.stack(norms))).item()


def trainable(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that require a gradient."""
    return {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}


def optimizer_over(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None, config: UpdateConfig
) -> torch.optim.Optimizer | None:
    """The given optimizer, checked, or AdamW over the parameters; None, with a warning, where there are none."""
    if not parameters:
        warnings.warn(
            "the policy has no trainable parameters: step() only reports, and changes nothing",
            stacklevel=level_of_caller(),
        )
        return None
    if optimizer is not None:
        check_optimizer(optimizer, parameters)
        warn_of_other_settings(optimizer, config)
        return optimizer
    by_parts = by_sharding(list(parameters.values()))
    fused = len(by_parts) == 1 and all(tensor.device.type in ("cpu", "cuda") for tensor in parameters.values())
    return torch.optim.AdamW(
        list({id(parameter): parameter for parameter in parameters.values()}.values()),
        lr=float(at_step(config.learning_rate, 0)),
        eps=config.adam_epsilon,
        weight_decay=0.0,
        fused=fused,
        foreach=None if len(by_parts) == 1 else False,  # neither takes whole tensors and parts of others together
    )


def level_of_caller() -> int:
    """How many frames up from the function that asks the first one outside this package is, as warnings count."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "grpo":
        frame, level = frame.f_back, level + 1
    return level


def check_optimizer(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> None:
    """An optimizer must hold at least one of the trainable parameters, and step without a closure."""
    if not isinstance(optimizer, torch.optim.Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            f"optimizer is {optimizer!r}, expected an instance of a torch.optim.Optimizer that needs no closure, "
            f"such as torch.optim.AdamW(policy.get_parameters().values())"
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in parameters.values()):
        raise ValueError(
            f"optimizer {type_name(optimizer)} holds none of the policy's {len(parameters)} trainable parameters: "
            f"build it from policy.get_parameters().values(), the very tensors that the policy computes with"
        )


def warn_of_other_settings(optimizer: torch.optim.Optimizer, config: UpdateConfig) -> None:
    """Tell that what the config says of AdamW holds for the trainer's own only, where it says something else."""
    group, said = optimizer.param_groups[0], config.model_fields_set
    for name, key in (("learning_rate", "lr"), ("adam_epsilon", "eps")):
        value = getattr(config, name)
        if name in said and key in group and isinstance(value, float | int) and value != group[key]:
            warnings.warn(
                f"config.{name}={value:g} is not used, since the trainer was given an optimizer, a "
                f"{type_name(optimizer)} with {key}={float(group[key]):g}: set it there, and leave {name} out",
                stacklevel=level_of_caller(),
            )


def check_reference(parameters: Mapping[str, Tensor], reference_parameters: Mapping[str, Tensor]) -> None:
    """A reference policy must not change when the policy is trained."""
    taken = [_memory_of(tensor) for tensor in reference_parameters.values()]
    shared = []
    for name, parameter in parameters.items():
        device, begin, end = _memory_of(parameter)
        if any(
            begin < its_end and its_begin < end and its_device == device for its_device, its_begin, its_end in taken
        ):
            shared.append(name)
    if shared:
        raise ValueError(
            f"reference_policy shares trainable parameters with the policy ({', '.join(shared[:3])}"
            f"{', ...' if len(shared) > 3 else ''}) and would change with it: pass copy.deepcopy(policy)"
        )


def _memory_of(tensor: Tensor) -> tuple[torch.device, int, int]:
    """The device that a tensor is on, and from which to which byte there; no bytes where it has none of its own."""
    tensor = local_part(tensor)
    begin = tensor.data_ptr()
    if begin == 0 or tensor.numel() == 0:
        return tensor.device, 0, 0
    extent = sum(int((size - 1) * stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.device, begin, begin + (extent + 1) * tensor.element_size()


def move_all(models: Iterable[Any], device: str) -> None:
    """Move models to a device that there is.

    Raises:
        ValueError: if this PyTorch cannot use it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"config.device is {device!r}, which cannot be used here ({str(error).splitlines()[0]}): set it to 'cpu', "
            f"or to None to leave the models where they are"
        ) from error
    for model in models:
        model.to(device)
