"""Answers by a policy's weights only."""

from __future__ import annotations

import time
from dataclasses import replace

from peft import PeftModel

from grpo_adapters.huggingface.decoding.sampling import SamplingConfig
from grpo_adapters.huggingface.engines.dialect import Answer, Dialect, InterruptedAnswerError, Question, Served
from grpo_adapters.huggingface.engines.errors import EngineAnswerError, EngineModelError, EngineWeightsError
from grpo_adapters.huggingface.engines.probe import PROBE, PROBE_COUNT, check_agreement, check_answer, probe_prompt
from grpo_adapters.huggingface.engines.server import NoAnswerError, Server, StatusError
from grpo_adapters.huggingface.engines.transfer import WeightTransfer
from grpo_adapters.huggingface.engines.weights import run_of
from grpo_adapters.huggingface.models.model_setup import num_embeddings
from grpo_adapters.huggingface.policies.causal_lm_policy import CausalLMPolicy


class WeightsLostError(Exception):
    """A server answered with other weights than those it was sent, as it does after it was started again."""


class Synchronised:
    """A policy whose weights servers answer by.

    Args:
        policy: whose weights.
        version: the name of these weights.
        sampling: what is sampled.
        dialect: the servers' routes.
        transfer: how weights get there.
        model: the name of the model that is asked for; None for the one that a server was started with.
        largest_gap: between log-probs of a server that is new and the policy's, nats.
    """

    def __init__(
        self,
        policy: CausalLMPolicy,
        version: str,
        sampling: SamplingConfig,
        *,
        dialect: Dialect,
        transfer: WeightTransfer,
        model: str | None,
        largest_gap: float,
    ) -> None:
        self.policy = policy
        self.version = version
        self.sampling = sampling
        self.dialect = dialect
        self.transfer = transfer
        self.model = model
        self.largest_gap = largest_gap
        self.seconds = 0.0  # that weights took
        self._has_adapter = isinstance(policy.model, PeftModel)
        self._num_tokens = num_embeddings(policy.causal_model)
        self._served: dict[str, Served] = {}

    async def prepare(self, server: Server) -> None:
        """See to it that a server has the policy's weights, and computes what the policy does.

        Raises:
            EngineModelError: if it serves another model than is asked for.
            EngineWeightsError: if it does not take the weights, or does not compute what the policy does.
            NoAnswerError, StatusError: if it does not answer.
        """
        async with server.lock:
            if server.is_ready:
                return
            await server.check_health()
            await self.dialect.begin(server)
            self._served[server.url] = await self._checked_models(server)
            present = await self.dialect.versions(server)
            server.is_new = run_of(self.version) not in {run_of(version) for version in present}
            if self.version not in present:
                await self._send(server)
            if server.is_new:
                await self._probe(server)
            server.is_ready = True

    async def _checked_models(self, server: Server) -> Served:
        served = await self.dialect.served(server)
        if self.model is not None and self.model not in served.models:
            raise EngineModelError(
                f"{server.url} serves {', '.join(served.models)}, expected {self.model}: give the name that it was "
                f"started with (--served-model-name), or leave model out"
            )
        return served

    async def _send(self, server: Server) -> None:
        start = time.monotonic()
        try:
            present = await self._versions_after_sending(server)
        except StatusError as error:
            raise EngineWeightsError(
                f"the weights could not be handed over ({error}): the server must have been started with the policy's "
                f"model, and be able to read the folder that the weights are in; vLLM may end after such a failure"
            ) from error
        finally:
            self.seconds += time.monotonic() - start
        if self.version not in present:
            raise WeightsLostError(f"{server.url} has the weights {', '.join(present)}, expected {self.version}")

    async def _versions_after_sending(self, server: Server) -> set[str]:
        try:
            await self.transfer.send(server, self.dialect, self.policy, self.version)
        except StatusError:
            present = await self.dialect.versions(server)
            if self.version not in present:  # else another process has sent the same just before
                raise
            return present
        return await self.dialect.versions(server)

    async def _probe(self, server: Server) -> None:
        prompt = probe_prompt(self.policy)
        answers = await self.ask(server, Question(prompt, PROBE_COUNT, PROBE))
        check_agreement(
            self.policy, prompt, answers, sampling=self.sampling, largest_gap=self.largest_gap, url=server.url
        )

    async def ask(self, server: Server, question: Question) -> list[Answer]:
        """What a server that has the weights answers.

        Raises:
            EngineAnswerError, EngineModelError: if the answer is not as it must be.
            WeightsLostError: if it was not made with the policy's weights.
            NoAnswerError, StatusError: if there is none.
        """
        path, request = self.dialect.request(self._addressed(server, question))
        try:
            body = await server.post(path, request)
        except StatusError as error:
            if error.status == 404 and self._has_adapter:
                raise WeightsLostError(str(error)) from error
            raise
        try:
            answers = self.dialect.answers(body)
            made_by = await self.dialect.made_by(server, body)
        except InterruptedAnswerError as error:
            raise NoAnswerError(f"{server.url}: {error}") from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise EngineAnswerError(
                f"{server.url}{path} answered {str(body)[:200]}, which is no answer of {type(self.dialect).__name__}: "
                f"is it another engine, or another version? ({type(error).__name__}: {error})"
            ) from error
        if made_by != self.version:
            raise WeightsLostError(
                f"{server.url} answered with the weights {made_by}, expected {self.version}: it was started again, or "
                f"another training sends it weights"
            )
        self._check(answers, question, server.url)
        return answers

    def _addressed(self, server: Server, question: Question) -> Question:
        """The question with the model's name on that server, which is the adapter's where there is one."""
        served = self._served[server.url]
        wanted = len(question.prompt) + question.sampling.max_new_tokens
        if served.max_length is not None and wanted > served.max_length:
            raise EngineModelError(
                f"{server.url} has a context of {served.max_length} tokens, expected at least {wanted}, a prompt of "
                f"{len(question.prompt)} and {question.sampling.max_new_tokens} new ones: start it with "
                f"--max-model-len {wanted}, or lower max_new_tokens"
            )
        name = self.version if self._has_adapter else self.model or served.models[0]
        return replace(question, model=name)

    def _check(self, answers: list[Answer], question: Question, url: str) -> None:
        if len(answers) != question.count:
            raise EngineAnswerError(f"{url} answered with {len(answers)} completions, expected {question.count}")
        for answer in answers:
            check_answer(answer, self._num_tokens, question.sampling.max_new_tokens, url)
