"""Trainings that a function of the user's makes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from grpo import Callback, Evaluate, Run, World
from grpo_adapters.cli.arguments import config_file, parse, require_fields
from grpo_adapters.cli.errors import UsageError, as_usage_errors
from grpo_adapters.cli.kinds import EvaluationOptions, Kind
from grpo_adapters.cli.options import RunOptions, explained

CHECKPOINTS_OF_A_RUN = 20
STEPS_WITHOUT_END = 200


@explained
class ModuleOptions(RunOptions):
    """Train what a function of yours makes.

    Attributes:
        target: file.py:function or package.module:function. The function returns a trainer; a trainer and its states; a
            trainer, its states and callbacks; or a grpo.Run. If it takes an argument seed, it is given that; world, the
            processes that torchrun has started.
        seed: handed on to the function, if it takes a seed.
    """

    target: tyro.conf.Positional[str]


def parse_options(words: Sequence[str]) -> ModuleOptions:
    """Options from the words behind ``train``."""
    settings, rest = config_file(words)
    settings.pop("kind", None)
    require_fields(settings, ModuleOptions, "the file of --config")
    return parse(ModuleOptions, rest, command="train", given=settings, required=("target",))


def load_options(settings: Mapping[str, Any]) -> ModuleOptions:
    """Options from what was stored."""
    require_fields(settings, ModuleOptions, "the settings of the run")
    with as_usage_errors():
        return ModuleOptions.model_validate(settings)


def resolve(options: ModuleOptions) -> ModuleOptions:
    """With how often to save, and the file of the function from wherever it is called."""
    num_steps = options.until_steps or STEPS_WITHOUT_END
    every = options.checkpoint_every or max(1, num_steps // CHECKPOINTS_OF_A_RUN)
    file, separator, name = options.target.rpartition(":")
    target = f"{Path(file).resolve()}{separator}{name}" if file.endswith(".py") else options.target
    return options.model_copy(update={"checkpoint_every": every, "target": target})


def build(options: ModuleOptions, more: Sequence[Callback], world: World) -> Run:
    """The run of what the function returns."""
    run = _run_of(options, _made(options, world), more)
    if run.world.size != world.size:
        raise UsageError(
            f"{options.target} makes a trainer of {run.world.size} process, but there are {world.size}: let the "
            f"function take an argument world, and give it to the trainer, world=world"
        )
    return run


def _run_of(options: ModuleOptions, made: Any, more: Sequence[Callback]) -> Run:
    if isinstance(made, Run):
        if made.folder is None:
            raise UsageError(
                f"{options.target} returned a Run without a folder: construct it with folder=, or return "
                f"(trainer, states) and give --folder"
            )
        made.callbacks.extend(more)
        return made
    trainer, states, callbacks = _parts(options.target, made)
    with as_usage_errors():
        return options.run_of(trainer, states, [*callbacks, *more])


def evaluate_run(options: ModuleOptions, asked: EvaluationOptions, load: Callable[[Any], None]) -> str:
    """Evaluate a trained policy by the evaluations that its run has."""
    run = build(options, (), World())
    evaluations = [callback for callback in run.callbacks if isinstance(callback, Evaluate)]
    if not evaluations:
        raise UsageError(
            f"{options.target} has no evaluation: return (trainer, states, [grpo.Evaluate(...)]), or a Run "
            f"with such a callback"
        )
    load(run.trainer.policy)
    metrics = {
        f"{each.name}/{name}": value
        for each in evaluations
        for name, value in each.evaluator(run.trainer.policy).items()
    }
    return "\n".join(f"{name}: {value:.6g}" for name, value in metrics.items())


def attribute(target: str) -> Any:
    """What ``file.py:name`` or ``package.module:name`` names.

    Raises:
        UsageError: if there is no such file, module or name. An error in the module goes on its way.
    """
    place, _, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise UsageError(f"{target!r} names no function: expected file.py:function or package.module:function")
    module = _module_of_file(Path(place)) if place.endswith(".py") else _module_called(place)
    if not hasattr(module, name):
        raise UsageError(
            f"{place} has no {name!r}: expected one of {', '.join(_functions(module)) or 'none, it is empty'}"
        )
    return getattr(module, name)


def _module_of_file(path: Path) -> Any:
    path = path.resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _module_called(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise UsageError(
            f"there is no module {name}: expected one of {Path.cwd()}, or one that is installed"
        ) from error


def _functions(module: Any) -> list[str]:
    functions = {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
    return [
        name for name, value in functions.items() if value.__module__ == module.__name__ and not name.startswith("_")
    ]


def _made(options: ModuleOptions, world: World) -> Any:
    function = attribute(options.target)
    if not callable(function):
        raise UsageError(f"{options.target} is a {type(function).__name__}, expected a function")
    parameters = inspect.signature(function).parameters
    given = {name: value for name, value in {"seed": options.seed, "world": world}.items() if name in parameters}
    unknown = [
        name
        for name, each in parameters.items()
        if name not in given and each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if unknown:
        raise UsageError(
            f"{options.target} takes {', '.join(unknown)}, expected no argument but seed and world: give the others a "
            f"default"
        )
    return function(**given)


def _parts(target: str, made: Any) -> tuple[Any, Any, Sequence[Callback]]:
    if isinstance(made, tuple) and len(made) in (2, 3):
        trainer, states, *callbacks = made
        if callbacks and not isinstance(callbacks[0], Sequence):
            raise UsageError(
                f"{target} returned a {type(callbacks[0]).__name__} as its callbacks, expected a list of them: "
                f"return (trainer, states, [callback])"
            )
        return trainer, states, callbacks[0] if callbacks else ()
    states = getattr(getattr(made, "sampler", None), "states", None)
    if states is None:
        raise UsageError(
            f"{target} returned a {type(made).__name__} and no states: return (trainer, states), with what "
            f"trainer.step is to be given"
        )
    return made, states, ()


def _name(options: ModuleOptions) -> str:
    return Path(options.target).name


KIND = Kind(parse_options, load_options, resolve, build, evaluate_run, _name)
