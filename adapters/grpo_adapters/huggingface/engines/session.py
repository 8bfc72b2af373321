"""An engine in use, with the weights of a policy."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_adapters.huggingface.engines.dialect import Answer, Question
from grpo_adapters.huggingface.engines.errors import EngineAnswerError
from grpo_adapters.huggingface.engines.server import NoAnswerError, StatusError
from grpo_adapters.huggingface.engines.servers import Servers
from grpo_adapters.huggingface.engines.synchronised import WeightsLostError
from grpo_adapters.huggingface.models.model_setup import end_tokens
from grpo_adapters.huggingface.text.completions import Completion

CONCURRENT = 256  # requests under way
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds before an attempt is repeated


class EngineSession:
    """Continues prompts with the weights that a policy had when the session began.

    Args:
        servers: of the engine.
        weights_version: the number that completions carry.
        retries: attempts after the first that fails.
        options: put into every request.
        seed: of the session; None to leave random numbers to the engine.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        weights_version: int,
        retries: int,
        options: Mapping[str, Any],
        seed: int | None,
    ) -> None:
        self._servers = servers
        self._policy = servers.weights.policy
        self._sampling = servers.weights.sampling
        self._end_tokens = tuple(sorted(end_tokens(self._policy.causal_model, self._policy.tokenizer)))
        self._weights_version = weights_version
        self._most_retries = retries
        self._options = options
        self._seed = seed
        self._asked: Counter[tuple[int, ...]] = Counter()
        self._room = asyncio.Semaphore(CONCURRENT)
        self.num_tokens = 0

    async def complete(self, token_ids: Sequence[int], max_new_tokens: int) -> Completion:
        """Continue a prompt, or a conversation so far.

        Args:
            token_ids: what was said.
            max_new_tokens: where the completion is cut.
        """
        [completion] = await self.complete_group(token_ids, 1, max_new_tokens)
        return completion

    async def complete_group(self, token_ids: Sequence[int], count: int, max_new_tokens: int) -> list[Completion]:
        """Continue a prompt ``count`` times."""
        prompt = tuple(token_ids)
        self._asked[prompt] += 1
        question = Question(
            prompt,
            count,
            self._sampling.model_copy(update={"max_new_tokens": max_new_tokens}),
            self._end_tokens,
            seed=self._seed_of(prompt),
            options=self._options,
        )
        async with self._room:
            answers = await self._answers(question)
        self.num_tokens += sum(len(answer.token_ids) for answer in answers)
        texts = self._policy.tokenizer.batch_decode(
            [list(answer.token_ids) for answer in answers], skip_special_tokens=True
        )
        return [self._completion(answer, text) for answer, text in zip(answers, texts, strict=True)]

    def _seed_of(self, prompt: tuple[int, ...]) -> int | None:
        """A number from 0 to 2^62, from the session's seed, the prompt, and how often it was asked for.

        It does not depend on the order of different prompts. vLLM adds the number of the completion to it.
        """
        if self._seed is None:
            return None
        origin = repr((self._seed, prompt, self._asked[prompt]))
        return int.from_bytes(hashlib.blake2b(origin.encode(), digest_size=8).digest()) >> 2

    def _completion(self, answer: Answer, text: str) -> Completion:
        return Completion(answer.token_ids, text, answer.ended, answer.log_probs, self._weights_version)

    async def _answers(self, question: Question) -> list[Answer]:
        """Answers of one server; where that fails, of another, or of the same one when it is there again."""
        attempts = self._most_retries + 1
        failure: Exception | None = None
        for attempt in range(attempts):
            if attempt:
                await asyncio.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)))
            server = await self._servers.next()
            server.requests += 1
            try:
                await self._servers.weights.prepare(server)
                return await self._servers.weights.ask(server, question)
            except StatusError as error:
                if error.status < 500:
                    raise EngineAnswerError(f"the engine refused a request: {error}") from error
                failure = error
            except (NoAnswerError, WeightsLostError) as error:
                failure = error
            finally:
                server.requests -= 1
            self._servers.rest(server)
        raise EngineAnswerError(f"no answer in {attempts} attempts; in the last, {failure}") from failure
