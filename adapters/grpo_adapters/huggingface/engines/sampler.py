"""An inference engine as the sampler of a policy that is trained elsewhere."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

import httpx

from grpo import ImportanceCorrection, World
from grpo_adapters.checksums import checksum
from grpo_adapters.huggingface.decoding.sampling import SamplingConfig
from grpo_adapters.huggingface.engines.dialect import Dialect, Question
from grpo_adapters.huggingface.engines.server import Server
from grpo_adapters.huggingface.engines.servers import Servers
from grpo_adapters.huggingface.engines.session import EngineSession
from grpo_adapters.huggingface.engines.synchronised import Synchronised
from grpo_adapters.huggingface.engines.transfer import FolderTransfer, WeightTransfer
from grpo_adapters.huggingface.engines.vllm_dialect import VLLM
from grpo_adapters.huggingface.engines.weights import version_name
from grpo_adapters.huggingface.event_loop import run_together, together
from grpo_adapters.huggingface.models.model_setup import longest_prompt
from grpo_adapters.huggingface.models.sharding import is_sharded
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy
from grpo_adapters.huggingface.policies.policy_state import changing_weights
from grpo_adapters.huggingface.text.completions import Completion
from grpo_adapters.huggingface.text.prompts import encode_prompts

STATE_NAMES = {"calls", "weights_version", "checksum"}


class EngineSampler:
    """Completions by servers of an inference engine, which are given the policy's weights whenever those have changed.

    Token ids go there, token ids and the log-probs that they were drawn with come back; text is never tokenised again.
    Requests are spread over all servers. Where one fails, its requests go to others, or wait until it is there again;
    then it gets the weights before anything else. A server whose log-probs are not the policy's is an error.

    Args:
        servers: the address of one, ``"http://127.0.0.1:8000"``, or of several.
        dialect: the routes of the engine; None for :class:`VLLM`.
        weights: how weights go over; None for :class:`FolderTransfer` by a temporary folder of this machine.
        model: the name of the model that must be served; None for whatever a server was started with.
        request_options: put into the JSON of every request, such as vLLM's ``structured_outputs``. Nothing that the
            sampler sets itself. What restricts the tokens further is no part of the policy's log-probs.
        timeout: seconds that an answer may take.
        patience: seconds to wait where no server answers, as while one is started again.
        retries: of a request, after the first attempt.
        largest_gap: mean difference of log-probs, nats, that a server may be from the policy when it is first asked.
        seed: of the completions; None leaves random numbers to the engine. With one, an engine that computes the same
            numbers again, which depends on how it puts requests together, draws the same tokens again.

    Raises:
        ValueError: if there is no address, or options replace what the sampler sets itself.

    Example:
        >>> sampler = EngineSampler(["http://127.0.0.1:8000", "http://127.0.0.1:8001"])
        >>> sampler.state_dict()
        {'calls': 0, 'weights_version': 0, 'checksum': None}
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        dialect: Dialect | None = None,
        weights: WeightTransfer | None = None,
        model: str | None = None,
        request_options: Mapping[str, Any] | None = None,
        timeout: float = 600.0,
        patience: float = 300.0,
        retries: int = 5,
        largest_gap: float = 0.2,
        seed: int | None = 0,
    ) -> None:
        urls = [servers] if isinstance(servers, str) else list(servers)
        self.urls = [_checked_url(url) for url in urls]
        if not urls or len(set(self.urls)) < len(urls):
            raise ValueError(f"servers is {servers!r}, expected addresses of one or more servers, each once")
        self.dialect = dialect or VLLM()
        self.weights = weights or FolderTransfer()
        self.model = model
        self.request_options = dict(request_options or {})
        _, request = self.dialect.request(Question((0,), 1, SamplingConfig()))
        if taken := sorted(request.keys() & self.request_options.keys()):
            raise ValueError(
                f"request_options has {', '.join(taken)}, which the sampler sets itself: sampling belongs into the "
                f"policy's SamplingConfig"
            )
        self.timeout = timeout
        self.patience = patience
        self.retries = retries
        self.largest_gap = largest_gap
        self.seed = seed
        self._run = secrets.token_hex(4)
        self._calls = 0
        self._weights_version = 0
        self._checksum: str | None = None
        self._metrics: dict[str, float] = {}

    def sample(
        self, policy: CausalLMPolicy, states: Sequence[Any], num_actions_per_state: int, **overrides: Any
    ) -> list[list[Completion]]:
        """A group of completions for each prompt, one request for each.

        Args:
            policy: whose weights are to answer.
            states: S prompts.
            num_actions_per_state: completions of each, G.
            overrides: as for :meth:`CausalLMPolicy.generate_actions`.

        Raises:
            EngineError: if they cannot be had; its subclasses tell why.
        """
        sampling = policy.training_sampling(overrides)
        longest = longest_prompt(policy.causal_model, sampling.max_new_tokens)
        prompts = encode_prompts(states, policy.tokenizer, longest)
        [groups] = run_together([self._sample(policy, prompts, num_actions_per_state, sampling)])
        return groups

    async def _sample(
        self, policy: CausalLMPolicy, prompts: Sequence[tuple[int, ...]], count: int, sampling: SamplingConfig
    ) -> list[list[Completion]]:
        async with self.turns(policy, sampling) as session:
            return await together(session.complete_group(prompt, count, sampling.max_new_tokens) for prompt in prompts)

    @asynccontextmanager
    async def turns(self, policy: CausalLMPolicy, sampling: SamplingConfig) -> AsyncIterator[EngineSession]:
        """The engine with the policy's weights as they are now, for many conversations at once.

        Args:
            policy: whose weights are to answer.
            sampling: how.

        Raises:
            ValueError: if the temperature is 0.
        """
        if sampling.temperature == 0:
            raise ValueError("temperature=0 draws nothing: for the likeliest tokens, sample with top_k=1")
        if is_sharded(policy.model):
            raise ValueError(
                "the policy's model lies in parts on several processes, whose weights an engine cannot be sent: let "
                "the policy sample by itself, or train it whole"
            )
        start = time.monotonic()
        version = version_name(self._run, self._note_weights(policy))
        self._calls += 1
        weights = Synchronised(
            policy,
            version,
            sampling,
            dialect=self.dialect,
            transfer=self.weights,
            model=self.model,
            largest_gap=self.largest_gap,
        )
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=self.timeout, limits=limits, trust_env=False) as http:
            servers = Servers([Server(http, url, self.timeout) for url in self.urls], weights, self.patience)
            session = EngineSession(
                servers,
                weights_version=self._weights_version,
                retries=self.retries,
                options=self.request_options,
                seed=None if self.seed is None else hash((self.seed, self._calls)),
            )
            await servers.begin()
            try:
                yield session
            finally:
                await servers.end()
                seconds = time.monotonic() - start
                self._metrics = {
                    "engine/seconds": seconds,
                    "engine/weight_seconds": weights.seconds,
                    "engine/tokens_per_second": session.num_tokens / seconds,
                    "engine/retries": float(servers.failures),
                }

    def _note_weights(self, policy: CausalLMPolicy) -> str:
        """The checksum of the policy's weights; how often they were found changed is counted."""
        current = checksum(changing_weights(policy.model))
        if current != self._checksum:
            self._checksum = current
            self._weights_version += 1
        return current

    def join_world(self, world: World) -> None:
        """Draw other completions than other processes do, where there is a seed, by weights of one name.

        Raises:
            ValueError: if processes share a server that one of them would let sleep while another still samples.
        """
        if self.seed is not None:
            self.seed = world.own_seed(self.seed)
        self._run = world.broadcast(self._run)
        shared = [url for url, count in Counter(chain(*world.gather(self.urls))).items() if count > 1]
        if shared and getattr(self.dialect, "sleep_level", None) is not None:
            raise ValueError(
                f"{shared[0]} is shared by several processes, one of which would let it sleep while another still "
                f"samples: leave sleep_level out, or give each process a server of its own"
            )

    def get_importance_correction(self) -> ImportanceCorrection:
        """Samples that the policy thinks more than three times as likely as the engine did are left out."""
        return ImportanceCorrection(kind="mask", per="sample", max_ratio=3.0)

    def get_metrics(self) -> dict[str, float]:
        """Of the last use: ``engine/{seconds,weight_seconds,tokens_per_second,retries}``."""
        return dict(self._metrics)

    def get_settings(self) -> dict[str, Any]:
        """What changes the completions, wherever the servers are."""
        return {"dialect": self.dialect, "model": self.model, "request_options": self.request_options}

    def state_dict(self) -> dict[str, Any]:
        """How often it was used, which seeds follow from, and which weights it saw last."""
        return {"calls": self._calls, "weights_version": self._weights_version, "checksum": self._checksum}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: if it is the state of something else.
        """
        if not isinstance(state_dict, Mapping) or state_dict.keys() != STATE_NAMES:
            came = sorted(map(str, state_dict)) if isinstance(state_dict, Mapping) else type(state_dict).__name__
            raise ValueError(
                f"EngineSampler.load_state_dict was given {came}, expected {sorted(STATE_NAMES)}: pass what "
                f"state_dict() returned"
            )
        self._calls = state_dict["calls"]
        self._weights_version = state_dict["weights_version"]
        self._checksum = state_dict["checksum"]


def _checked_url(url: str) -> str:
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise ValueError(f"a server is {url!r}, expected an address such as 'http://127.0.0.1:8000'")
    return url.rstrip("/").removesuffix("/v1")
