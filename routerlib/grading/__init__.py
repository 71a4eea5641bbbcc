r"""Is a reply right? Finding its final answer, and comparing that with the gold answer.

Invariants: no reply raises, whatever its text; grading one reply takes bounded time, from any
thread; a missing or ambiguous answer is wrong. Only a gold answer that cannot be read is an error.
"""

from __future__ import annotations

import re
from typing import Literal

from routerlib.benchmarks import GENERATED_BENCHMARKS
from routerlib.errors import GradingError
from routerlib.grading.math_answer import is_same_math, normalise_math
from routerlib.grading.number import MAX_ANSWER_CHARS, parse_number
from routerlib.latex import find_last_boxed

__all__ = ["BENCHMARK_STYLE", "Style", "extract_answer", "grade", "parse_number"]

Style = Literal["number", "math"]

BENCHMARK_STYLE: dict[str, Style] = {
    "gsm8k": "number",
    "math": "math",
    "math500": "math",
    "omni_math_rule": "math",
    **dict.fromkeys(GENERATED_BENCHMARKS, "number"),
}

_ANSWER_MARK = re.compile(
    r"^[ \t*_>#`-]*(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:(?:final|correct) )?"
    r"answer(?: is)?[ \t*_`]*:",
    re.IGNORECASE | re.MULTILINE,
)
_HASH_ANSWER = re.compile(r"^####[ \t]*([-+−$€£\d.\\(\[].*)\Z", re.MULTILINE)


def extract_answer(text: str) -> str | None:
    r"""Return the final answer of a reply: what the last "Answer:" line says, else what the last
    ``\boxed{}`` holds, else what follows ``####`` in the last line; None where there is none.

    An "Answer:" with nothing behind it takes the next line; the last one with something counts.

    >>> extract_answer("3 * 4 = 12\nAnswer: 12 apples."), extract_answer("It is 12.")
    ('12 apples', None)
    """
    for mark in reversed(list(_ANSWER_MARK.finditer(text))):
        line, _, below = text[mark.end() :].partition("\n")
        if not line.strip(" \t\r*_`$\\[("):  # nothing, or only the opening of a displayed formula
            answer = find_last_boxed(below) or _clean_answer(below.strip().partition("\n")[0])
        else:
            answer = find_last_boxed(line) or _clean_answer(line)
        if answer:
            return answer
    boxed = find_last_boxed(text)
    if boxed:
        return boxed
    hashed = _HASH_ANSWER.search(text.rstrip())
    return (_clean_answer(hashed[1]) or None) if hashed else None


def grade(gold: str, extracted: str | None, *, style: Style) -> bool:
    r"""Say whether an extracted answer equals the gold answer. None is wrong.

    ``number``: both are read as one exact fraction. ``math``: the same text, or the same number, or
    the same in the eyes of math-verify. Raises GradingError for a gold answer that is empty or, in
    style ``number``, is not one number.

    >>> grade("1,080", "$1080.00", style="number"), grade("0.5", "1/2", style="number")
    (True, True)
    """
    gold = find_last_boxed(gold) or gold  # some golds of Omni-MATH come boxed
    gold_number = parse_number(gold)
    if not gold.strip() or (style == "number" and gold_number is None):
        raise GradingError(
            f"the gold answer {gold!r} cannot be read (style {style!r}): correct the benchmark "
            "file, or leave the problem out"
        )
    if extracted is None or len(extracted) > MAX_ANSWER_CHARS:
        return False
    number = parse_number(extracted)
    if number is not None and number == gold_number:
        return True
    if style == "number":
        return False
    return normalise_math(gold) == normalise_math(extracted) or is_same_math(gold, extracted)


def _clean_answer(line: str) -> str:
    """Strip markdown, the delimiters of one formula, and the sentence's period."""
    answer = line.strip().strip("*_`").strip().removesuffix(".").rstrip("*_` ")
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$")):
        inner = answer[len(opening) : -len(closing)]
        is_wrapped = answer.startswith(opening) and answer.endswith(closing)
        if is_wrapped and len(answer) > len(opening + closing) and opening not in inner:
            return inner.strip()
    return answer
