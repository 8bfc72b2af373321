r"""Ready reward functions for :class:`FunctionReward`: answers of mathematical problems, format, length.

None of them takes longer than in proportion to the text, whatever a model may write; patterns of one's own may.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
IN_TEXT = re.compile(
    rf"(?:(?<![\w)])[-−])?\\?\$?(?:\\[dt]?frac\{{[-−]?\d+\}}\{{\d+\}}|(?<![A-Za-z_\d])(?:{NUMBER})(?:/\d+)?)(?:\\?%)?"
)
PLAIN = re.compile(rf"([-+−]?)({NUMBER})(?:e([-+]?\d{{1,3}}))?(?:/([-+−]?)({NUMBER}))?")
FRACTION = re.compile(r"([-+−]?)\\frac(?:\{([^{}]*)\}\{([^{}]*)\}|(\d)(\d))")
MIXED = re.compile(r"([-+−]?)(\d+)(?: +(\d+/\d+)| *(\\frac.*))")
BRACES = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")
UNWORDED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
INVISIBLE = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;: ]|\\?\$|\s")
ASSIGNED = re.compile(r"\s*[A-Za-z]\s*=")
LONGEST_NUMBER = 200
"""Characters; longer numbers are compared as text, since arithmetic with them gets slow."""


def math_reward(
    completions: Sequence[Any],
    answer: Sequence[Any] | None = None,
    solution: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float | None]:
    r"""1 where a completion's final answer is the right one, else 0; None where the row has no answer.

    The final answer of a text is, if there is one, what stands in its last ``\boxed{...}``; else what follows its last
    ``####`` on that line, if it is a number; else what stands in its last ``<answer>...</answer>``; else its last
    number. Of a row's column it is the same, but the whole text in place of the last number.

    Two numbers are the same answer if they are equal: 0.5, .50, 1/2, \frac{1}{2} and 5e-1; 1 1/2 and 1.5; 1,000
    and \$1000; 50% is both 50 and 0.5. Nothing is rounded: 0.33 is not 1/3. Anything else is compared as text, without
    case, spaces, ``$``, ``\text{}``, a leading ``x =``, and a full stop at the end.

    Args:
        completions: strings, or lists of messages, N.
        answer: the right answers, texts or numbers, N.
        solution: the same, where there is no column ``answer``.
        columns: not looked at.

    Returns:
        N of 1.0, 0.0 or None.

    Raises:
        ValueError: if there is neither a column ``answer`` nor ``solution``.

    Example:
        >>> math_reward(["So it is \\boxed{\\frac{1}{2}}.", "I say 41"], answer=["0.5", "6 * 7 = 42\n#### 42"])
        [1.0, 0.0]
    """
    right = answer if answer is not None else solution
    if right is None:
        raise ValueError("math_reward found neither a column 'answer' nor 'solution': name one of them so in the rows")
    return [
        None if _is_missing(own) else float(is_same_answer(final_answer(text_of(completion)), marked_answer(str(own))))
        for completion, own in zip(completions, right, strict=True)
    ]


class FormatReward:
    r"""1 where the whole completion has the format, else 0. A reward function.

    Args:
        pattern: a regular expression that all of the text must match, spaces around it aside, with ``.`` for line ends
            too; the default is ``<think>...</think>`` and then ``<answer>...</answer>``, each closed once.

    Example:
        >>> FormatReward()(["<think>6 * 7</think> <answer>42</answer>", "42"])
        [1.0, 0.0]
        >>> FormatReward(r"\d+")(["<answer>42</answer>", "42"])
        [0.0, 1.0]
    """

    def __init__(self, pattern: str = r"<think>(?>.*?</think>)\s*+<answer>(?>.*?</answer>)") -> None:
        self.pattern = re.compile(pattern, re.DOTALL)
        self.__name__ = "format_reward"

    def get_settings(self) -> dict[str, Any]:
        """The pattern."""
        return {"pattern": self.pattern.pattern}

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        """Rewards of completions, strings or lists of messages."""
        return [float(bool(self.pattern.fullmatch(text_of(completion).strip()))) for completion in completions]


class OverlongPenalty:
    """0 for completions that leave a buffer below the longest length, from there down to -1 at it. A reward function.

    Args:
        max_length: tokens of a completion at which, and beyond which, the reward is -1.
        buffer: tokens before that over which it falls from 0, at least 1.

    Raises:
        ValueError: if the buffer is not within 1 and ``max_length``.

    Example:
        >>> OverlongPenalty(max_length=10, buffer=4)([[0] * length for length in (6, 7, 10, 11)])
        [0.0, -0.25, -1.0, -1.0]

    References:
        Yu et al. 2025, arXiv:2503.14476, eq. 13.
    """

    def __init__(self, max_length: int, buffer: int) -> None:
        if not 1 <= buffer <= max_length:
            raise ValueError(
                f"buffer is {buffer} and max_length {max_length}, expected 1 <= buffer <= max_length: tokens over "
                f"which the penalty grows, and tokens at which it is full"
            )
        self.max_length = max_length
        self.buffer = buffer
        self.__name__ = "overlong_penalty"

    def get_settings(self) -> dict[str, Any]:
        """Where the penalty begins and ends."""
        return {"max_length": self.max_length, "buffer": self.buffer}

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
        """Rewards of completions as lists of token ids."""
        free = self.max_length - self.buffer
        return [max(-1.0, min(0.0, (free - len(token_ids)) / self.buffer)) for token_ids in completion_ids]


def text_of(completion: Any) -> str:
    """The text of a completion: a string, or what its last message says."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def final_answer(text: str) -> str | None:
    r"""The final answer of a text, as :func:`math_reward` reads it; None where there is none.

    Example:
        >>> final_answer(r"First 3, then \boxed{\sqrt{2}}, so 5."), final_answer("First 3, then 5."), final_answer("?")
        ('\\sqrt{2}', '5', None)
    """
    marked = _marked(text)
    if marked is not None:
        return marked
    numbers = [number[0] for number in IN_TEXT.finditer(text)]
    return numbers[-1] if numbers else None


def marked_answer(text: str) -> str:
    """The answer that a text marks as its final one; the text itself where it marks none."""
    marked = _marked(text)
    return text if marked is None else marked


def is_same_answer(answer: str | None, right: str) -> bool:
    r"""Whether two answers are equal numbers, or the same text.

    Example:
        >>> is_same_answer(r"\frac{3}{4}", "0.75"), is_same_answer("1,000", "$1000"), is_same_answer("x = 2", "3")
        (True, True, False)
    """
    if answer is None:
        return False
    numbers, right_numbers = numbers_of(answer), numbers_of(right)
    if numbers and right_numbers:
        return bool(numbers & right_numbers)
    return _normalized(answer) == _normalized(right)


def numbers_of(answer: str) -> set[Fraction]:
    """The numbers that an answer may mean: none, one, or two for a percentage, 50 and 1/2 for ``50%``."""
    text = answer.strip().rstrip(".")
    if len(text) > LONGEST_NUMBER:
        return set()
    text = re.sub(r"^([-+−]) +", r"\1", _unassigned(INVISIBLE.sub(" ", _plainer(text))).strip())
    percent = text.endswith("%")
    if percent:
        text = text.removesuffix("%").removesuffix("\\").strip()
    number = _number_of(text)
    if number is None:
        return set()
    return {number, number / 100} if percent else {number}


def _number_of(text: str) -> Fraction | None:
    mixed = MIXED.fullmatch(text)
    if mixed:
        part = _number_of(mixed[3] or mixed[4])
        return None if part is None or not 0 <= part < 1 else _signed(mixed[1], str(int(mixed[2]) + part))
    plain = PLAIN.fullmatch(text)
    if plain:
        sign, digits, exponent, sign_below, digits_below = plain.groups()
        above = _signed(sign, digits) * Fraction(10) ** int(exponent or 0)
        below = _signed(sign_below, digits_below) if digits_below else Fraction(1)
    else:
        fraction = FRACTION.fullmatch(text)
        if not fraction:
            return None
        parts = [PLAIN.fullmatch(part.strip()) for part in fraction.groups()[1:] if part is not None]
        if not all(part is not None and part[3] is None and part[5] is None for part in parts):
            return None
        above, below = (_signed(part[1], part[2]) for part in parts if part is not None)
        above = -above if fraction[1] in {"-", "−"} else above
    return above / below if below else None


def _signed(sign: str | None, digits: str) -> Fraction:
    value = Fraction(digits.replace(",", ""))
    return -value if sign in {"-", "−"} else value


def _marked(text: str) -> str | None:
    """What a text marks as its final answer; None where it marks nothing."""
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    _, mark, after = text.rpartition("####")
    line = after.partition("\n")[0].strip()
    if mark and numbers_of(line):
        return line
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end].strip() if start >= 0 else None


def _last_boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}`` whose braces are balanced; one walk over all braces."""
    opened: list[tuple[bool, int]] = []
    last: tuple[int, int] | None = None
    for brace in BRACES.finditer(text):
        if brace[0] in {"\\{", "\\}"}:
            continue
        if brace[0] != "}":
            opened.append((brace[0] != "{", brace.end()))
        elif opened:
            is_boxed, start = opened.pop()
            if is_boxed and (last is None or start > last[0]):
                last = (start, brace.start())
    return None if last is None else text[slice(*last)]


def _normalized(answer: str) -> str:
    return _unassigned(INVISIBLE.sub("", _plainer(answer)).rstrip(".")).casefold()


def _plainer(text: str) -> str:
    r"""Without ``\text{}``, and with one kind of fractions."""
    return UNWORDED.sub(r"\1", text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))


def _unassigned(text: str) -> str:
    """Without ``x =`` before it."""
    assigned = ASSIGNED.match(text)
    return text[assigned.end() :] if assigned else text


def _is_missing(answer: Any) -> bool:
    """None, a NaN as tables have it for None, or nothing but spaces."""
    return answer is None or answer != answer or not str(answer).strip()
