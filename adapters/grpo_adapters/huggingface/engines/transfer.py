"""How a policy's weights get to a server."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from transformers.utils import logging as transformers_logging
from typing_extensions import Protocol

from grpo_adapters.huggingface.engines.dialect import Dialect
from grpo_adapters.huggingface.engines.server import Server
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy


class WeightTransfer(Protocol):
    """Brings the weights of a policy to a server."""

    async def send(self, server: Server, dialect: Dialect, policy: CausalLMPolicy, version: str) -> None:
        """Have the server answer by the policy's weights from now on.

        Args:
            server: where to; ``is_new`` where nothing was sent to it before.
            dialect: its routes.
            policy: whose weights.
            version: their name, which the server is to give when it is asked which weights it has.
        """
        ...


class FolderTransfer:
    """By files in safetensors format: of the adapter alone where the policy has one, else of all weights.

    Args:
        folder: that the server can read by the same path, such as one in ``/dev/shm`` on the same machine, or a
            shared disk; None for a temporary one on this machine.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        if folder is None:
            folder = tempfile.mkdtemp(prefix="weights-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = Path(folder).expanduser().absolute()
        self._written: Path | None = None

    async def send(self, server: Server, dialect: Dialect, policy: CausalLMPolicy, version: str) -> None:
        """Write the weights, unless they are there, and tell the server where."""
        folder = self._write(policy, version)
        load = dialect.load_adapter if isinstance(policy.model, PeftModel) else dialect.load_folder
        await load(server, folder, version)

    def _write(self, policy: CausalLMPolicy, version: str) -> Path:
        """The folder of these weights, which is there as a whole or not at all; that of the weights before goes."""
        target = self.folder / version
        if target.exists():
            return target
        unfinished = self.folder / f"{version}.{secrets.token_hex(4)}.unfinished"
        with _no_progress_bar():
            policy.model.save_pretrained(unfinished)
        try:
            unfinished.rename(target)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            if not target.exists():  # else another process has written the same
                raise
            return target
        if self._written is not None:
            shutil.rmtree(self._written, ignore_errors=True)
        self._written = target
        return target


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
