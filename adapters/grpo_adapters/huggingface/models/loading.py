"""Models or tokenizers from the hub or from a folder, by safe defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

ADAPTER_CONFIG = "adapter_config.json"
PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}


class ModelNotFoundError(OSError):
    """A model or a tokenizer is neither here nor to be had; the message says what to download and where to put it."""


class UnsafeModelError(OSError):
    """A model or a tokenizer could be loaded only by running what comes with it; the message says what that is."""


def load_pretrained(
    auto_class: Any,
    name: str | Path,
    *,
    trust_remote_code: bool = False,
    allow_new_weights: bool = False,
    **kwargs: Any,
) -> Any:
    """What ``auto_class.from_pretrained`` loads, from safetensors only, without running code that comes with it.

    Args:
        auto_class: such as :class:`transformers.AutoModelForCausalLM` or :class:`transformers.AutoTokenizer`.
        name: a name on the hub, or a folder.
        trust_remote_code: run code that comes with the model.
        allow_new_weights: begin weights that the checkpoint lacks at random, as for a new head.
        kwargs: handed on: ``dtype``, ``revision``, ``device_map``, ...

    Raises:
        ModelNotFoundError: if it is neither here nor to be had.
        UnsafeModelError: if it needs code of its own that is not trusted, or its weights are pickled.
        ValueError: if the checkpoint lacks weights of the model.
    """
    name = expanded(name)
    has_weights = hasattr(auto_class, "from_config")
    if has_weights:
        refuse_pickles(Path(name))
        kwargs |= {"use_safetensors": True, "output_loading_info": True}
    elif Path(name).is_dir() and not _holds_tokenizer(Path(name)):
        raise _no_tokenizer(Path(name))
    try:
        loaded = auto_class.from_pretrained(name, trust_remote_code=trust_remote_code, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        explained = _explained(error, name, is_tokenizer="Tokenizer" in auto_class.__name__)
        if explained is None:
            raise
        raise explained from error
    if not has_weights:
        return loaded
    model, loading = loaded
    missing = sorted(loading["missing_keys"])
    if missing and not allow_new_weights:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{name!r} has no weights for {', '.join(missing[:3])}{more} of {type(model).__name__}, so they would be "
            f"random: it is no checkpoint of such a model; load one that is"
        )
    return model


def require_tokenizer(tokenizer: object) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"tokenizer is a {type(tokenizer).__name__}, expected a transformers tokenizer: a model that was not "
            f"loaded here needs its own, AutoTokenizer.from_pretrained(...)"
        )
    return tokenizer


def expanded(name: str | Path) -> str:
    """A name on the hub as it is, a folder with its ``~`` resolved."""
    return str(Path(name).expanduser()) if isinstance(name, Path) or name.startswith("~") else name


def refuse_pickles(folder: Path) -> None:
    """Raise UnsafeModelError if a folder holds weights, and these are pickled."""
    suffixes = {file.suffix for file in folder.iterdir()} if folder.is_dir() else set()
    if suffixes & PICKLES and ".safetensors" not in suffixes:
        raise _pickled(f"folder '{folder}'", "are pickled")


def _explained(error: Exception, name: str, *, is_tokenizer: bool) -> Exception | None:
    """The error that a user can act on; None where the one that came is as good."""
    if "trust_remote_code" in str(error):
        return UnsafeModelError(
            f"{name!r} needs Python code that comes with it, which is not run unless you say so: read that code, then "
            f"pass trust_remote_code=True"
        )
    folder = Path(name)
    if folder.is_dir():
        return _explained_folder(error, folder, is_tokenizer)
    if isinstance(error, SafetensorError):
        return _damaged(name, error)
    if not isinstance(error, OSError):
        return None
    if "safetensors" in str(error):
        return _pickled(repr(name), "are not there as safetensors")
    if name.startswith((".", "/", "\\")) or name.count("/") > 1:
        return ModelNotFoundError(f"there is no folder {name!r}: pass the folder that holds config.json, or a hub name")
    return ModelNotFoundError(
        f"{name!r} is no folder here, is not in the cache {HF_HUB_CACHE}, and could not be downloaded "
        f"({str(error).splitlines()[0]}). Where there is a network, run: hf download {name} --local-dir FOLDER; bring "
        f"FOLDER here and pass it in place of the name, or set HF_HOME to where a cache with it is. "
        f"HF_HUB_OFFLINE=1 saves waiting for the network"
    )


def _explained_folder(error: Exception, folder: Path, is_tokenizer: bool) -> Exception | None:
    suffixes = {file.suffix for file in folder.iterdir()}
    if isinstance(error, SafetensorError):
        return _damaged(str(folder), error)
    if is_tokenizer:
        return None if _holds_tokenizer(folder) else _no_tokenizer(folder)
    if not any((folder / config).exists() for config in ("config.json", ADAPTER_CONFIG)):
        return ModelNotFoundError(
            f"folder '{folder}' holds no config.json, so no model: pass the folder that model.save_pretrained or "
            f"hf download wrote"
        )
    if isinstance(error, OSError) and ".safetensors" not in suffixes:
        return ModelNotFoundError(
            f"folder '{folder}' holds no weights: put model.safetensors beside config.json, or download it anew"
        )
    return None


def _holds_tokenizer(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("*token*", "vocab*", "*.model"))


def _no_tokenizer(folder: Path) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"folder '{folder}' holds no tokenizer: write one there by tokenizer.save_pretrained({str(folder)!r}), or "
        f"pass tokenizer="
    )


def _damaged(name: str, error: Exception) -> ModelNotFoundError:
    return ModelNotFoundError(f"weights of {name!r} cannot be read ({error}): download them anew")


def _pickled(where: str, what: str) -> UnsafeModelError:
    return UnsafeModelError(
        f"the weights of {where} {what}, and to load a pickle is to run what is in it: take a revision or another copy "
        f"that has model.safetensors, or, if you trust it, convert it once by from_pretrained and save_pretrained of "
        f"transformers"
    )
