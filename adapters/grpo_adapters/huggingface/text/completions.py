"""What a language model answers to a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Completion:
    """What a language model answered to a prompt.

    The token ids are those that were sampled; nothing is ever tokenised again, so that log-probs belong to the very
    decisions that were made.

    Attributes:
        token_ids: the tokens that were sampled, at least one, with the token that ended it where one did.
        text: what they say, without special tokens.
        ended: whether it came to an end by itself, by an end token or a stop string; false where it was cut at the
            maximum number of new tokens.
        log_probs: log-prob of each token under the distribution that it was drawn from, nats; None where unknown.
        weights_version: which of the weights that an engine was given made it; None where the policy did itself.

    Example:
        >>> from grpo_adapters.huggingface import character_tokenizer
        >>> tokenizer = character_tokenizer("0123456789+=")
        >>> token_ids = (3, 5, tokenizer.eos_token_id)
        >>> completion = Completion(token_ids, tokenizer.decode(token_ids, skip_special_tokens=True))
        >>> len(completion), completion.text
        (3, '13')
    """

    token_ids: tuple[int, ...]
    text: str
    ended: bool = True
    log_probs: tuple[float, ...] | None = field(default=None, repr=False)
    weights_version: int | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.token_ids)


def check_completion(completion: object, name: str, num_tokens: int) -> Completion:
    """A completion must have tokens below ``num_tokens``, and a log-prob for each where it has any.

    Raises:
        TypeError: if it is none.
        ValueError: if it has no token, or one that the model does not know, or log-probs of other tokens.
    """
    if not isinstance(completion, Completion):
        raise TypeError(f"{name} is a {type(completion).__name__}, expected a Completion of a language model")
    if len(completion) == 0:
        raise ValueError(
            f"{name} has no token, expected at least one: a model that says nothing still samples the token that ends "
            f"its completion"
        )
    if not (min(completion.token_ids) >= 0 and max(completion.token_ids) < num_tokens):
        wrong = next(token for token in completion.token_ids if not 0 <= token < num_tokens)
        raise ValueError(
            f"{name} has the token {wrong}, expected tokens from 0 to {num_tokens - 1}, which the model knows: it was "
            f"sampled with another tokenizer"
        )
    if completion.log_probs is not None and len(completion.log_probs) != len(completion):
        raise ValueError(
            f"{name} has {len(completion)} tokens and {len(completion.log_probs)} log-probs, expected one for each "
            f"token: leave log_probs out where they are not known"
        )
    return completion
