"""A tokenizer that needs no file: each character a token."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END, UNKNOWN = "<end>", "<unknown>"


def character_tokenizer(characters: str, *, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the end, 0, an unknown character, 1, and the given ones from 2 on; for small models.

    Args:
        characters: those that texts are made of.
        chat_template: a Jinja template for chat messages; None for a tokenizer without one.

    Returns:
        A fast tokenizer of transformers.

    Example:
        >>> tokenizer = character_tokenizer("0123456789+=")
        >>> tokenizer("1+2=")["input_ids"]
        [3, 12, 4, 13]
        >>> tokenizer.decode([3, 12, 4, 13, 0], skip_special_tokens=True)
        '1+2='
    """
    vocabulary = {token: index for index, token in enumerate([END, UNKNOWN, *dict.fromkeys(characters)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, unk_token=UNKNOWN, chat_template=chat_template
    )
