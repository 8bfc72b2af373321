"""What holds no other objects, as plain data: arrays, random generators, small values of the standard library."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ATOMS = (type(None), bool, int, float, str, bytes)
LARGEST_INTEGER_BITS = 1024
TENSOR_DTYPES = {
    np.dtype(name) for name in ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
} | {np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128")}
BIT_GENERATORS: dict[str, Any] = {
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
}


def is_atom(value: Any) -> bool:
    """Whether a value is plain data by itself."""
    return type(value) in ATOMS and not (type(value) is int and value.bit_length() > LARGEST_INTEGER_BITS)


def array_data(array: NDArray[Any]) -> dict[str, Any]:
    """An array of numbers, strings or times, copied: a tensor where there is one of its kind, else its bytes."""
    array = np.array(array, copy=True, order="C", subok=False)
    if array.dtype in TENSOR_DTYPES and array.dtype.isnative:
        return {"data": torch.from_numpy(array)}
    raw = torch.from_numpy(np.frombuffer(array.tobytes(), dtype=np.uint8).copy())
    return {"bytes": raw, "dtype": array.dtype.str, "shape": list(array.shape)}


def new_array(data: Any) -> NDArray[Any]:
    """A new array from a tensor or an array."""
    return np.array(data.numpy(force=True) if isinstance(data, torch.Tensor) else data)


def array_from(node: dict[str, Any]) -> NDArray[Any]:
    """A new array from what :func:`array_data` returned."""
    if "data" in node:
        return new_array(node["data"])
    raw = new_array(node["bytes"]).tobytes()
    return np.frombuffer(raw, dtype=np.dtype(node["dtype"])).reshape(node["shape"]).copy()


def generator_data(generator: Any) -> dict[str, Any] | None:
    """Where a random generator is, as something that is nearly plain data; None for what is no generator."""
    if type(generator) is np.random.Generator and type(generator.bit_generator).__name__ in BIT_GENERATORS:
        return {"of": "numpy", "state": generator.bit_generator.state, "seed_sequence": _seed_sequence_data(generator)}
    if type(generator) is np.random.RandomState:
        return {"of": "numpy, legacy", "state": generator.get_state(legacy=False)}
    if type(generator) is random.Random:
        return {"of": "random", "state": generator.getstate()}
    if type(generator) is torch.Generator:
        return {"of": "torch", "state": generator.get_state(), "device": str(generator.device)}
    return None


def put_generator(node: dict[str, Any], target: Any) -> tuple[Any, Callable[[], Any]]:
    """The generator that is to go on from ``node``, the target where that is possible, and what lets it."""
    state, kind = node["state"], node["of"]
    if kind == "numpy":
        if type(target) is np.random.Generator and _seed_sequence_data(target) == node["seed_sequence"]:
            generator: Any = target
        else:
            sequence = node["seed_sequence"]
            seed = None if sequence is None else np.random.SeedSequence(**sequence)
            generator = np.random.Generator(BIT_GENERATORS[state["bit_generator"]](seed))
        return generator, lambda: setattr(generator.bit_generator, "state", state)
    if kind == "numpy, legacy":
        generator = target if type(target) is np.random.RandomState else np.random.RandomState()
        return generator, lambda: generator.set_state(state)
    if kind == "random":
        generator = target if type(target) is random.Random else random.Random()  # noqa: S311
        return generator, lambda: generator.setstate(state)
    is_same = type(target) is torch.Generator and str(target.device) == node["device"]
    generator = target if is_same else torch.Generator(node["device"])
    return generator, lambda: generator.set_state(state)


def _seed_sequence_data(generator: np.random.Generator) -> dict[str, Any] | None:
    """What generators that are spawned depend on."""
    sequence: Any = generator.bit_generator.seed_seq
    if type(sequence) is not np.random.SeedSequence:
        return None
    entropy = sequence.entropy
    return {
        "entropy": [int(part) for part in entropy] if isinstance(entropy, list | tuple | np.ndarray) else entropy,
        "spawn_key": tuple(int(part) for part in sequence.spawn_key),
        "pool_size": sequence.pool_size,
        "n_children_spawned": sequence.n_children_spawned,
    }


def emulator_data(emulator: Any) -> dict[str, Any]:
    """A game of ale-py where it is, with its random generator."""
    return {"game": _game_of(emulator), "state": emulator.cloneState(include_rng=True).serialize()}


def repeats_actions(emulator: Any) -> bool:
    """Whether a game of ale-py goes on with its last action now and then, which is not in the state that it tells."""
    return bool(emulator.getFloat("repeat_action_probability") > 0)


def put_emulator(node: dict[str, Any], emulator: Any) -> Callable[[], Any]:
    """What lets a game go on from what :func:`emulator_data` returned.

    Raises:
        ValueError: if it is a state of another game, or none.
    """
    if node["game"] != _game_of(emulator):
        raise ValueError(f"the state is one of the game {node['game']}, and loaded into {_game_of(emulator)}")
    if repeats_actions(emulator):
        raise ValueError(
            f"the state is one of the game {node['game']} without sticky actions, and loaded into one with them"
        )
    try:
        state = type(emulator.cloneState())(node["state"])
    except (SystemError, RuntimeError) as error:
        raise ValueError(f"the state of the game {node['game']} cannot be read") from error
    return lambda: emulator.restoreState(state)


def _game_of(emulator: Any) -> str:
    return PurePath(emulator.getString("rom_file")).stem


VALUES: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    int: (hex, lambda text: int(text, 16)),
    complex: (lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    range: (lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    slice: (lambda value: [value.start, value.stop, value.step], lambda parts: slice(*parts)),
    bytearray: (bytes, bytearray),
    Fraction: (str, Fraction),
    torch.dtype: (lambda value: str(value).removeprefix("torch."), lambda name: _torch_dtype(name)),
    torch.device: (str, torch.device),
    torch.Size: (list, torch.Size),
    **{path: (str, path) for path in (PurePosixPath, PureWindowsPath, PosixPath, WindowsPath)},
}
"""By type: to nearly plain data, and back."""


def _torch_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is no dtype of torch")
    return dtype
