r"""Reading the one number that an answer names, as an exact fraction.

Invariants: no text raises; a text that names no number, several numbers or an expression still to
be worked out is None, never a guess. Currency, percent, degree signs and units are dropped and
nothing is converted: "20 cents" is 20, "50%" is 50. Of a chain of equations the last side counts.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_ANSWER_CHARS = 500  # longer texts are not read (Python refuses huge digit strings)

_MULTIPLIERS = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]+)?|\.[0-9]+)(?![0-9])"
_QUANTITY = re.compile(
    rf"(?P<sign>(?<![\w)])[-+])?(?<![\w.])"
    rf"(?:(?P<whole>{_DIGITS})\s+(?:and\s+)?(?=[0-9]+\s*/\s*[0-9]))?"
    rf"(?P<numerator>{_DECIMAL})"
    rf"(?:\s*/\s*(?P<denominator>{_DECIMAL})|\s*(?P<multiplier>thousand|million|billion)\b)?",
    re.IGNORECASE,
)
_MARK = "\0"  # stands for the quantity when the rest of the text is checked

# In this order: LaTeX and signs that do not change which number is meant.
_SIMPLIFICATIONS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[−–﹣－]", "-"),
        (r"\\([$%])", r"\1"),
        (r"\{,\}|,\\!", ","),
        (r"(?<=[0-9])\\[,;:! ](?=[0-9]{3})", ""),
        (r"\^\s*\{?\s*\\circ\s*\}?|°", " "),
        (r"\\(?:[()\[\],;:! ]|left|right|displaystyle)", " "),
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r" \1 "),
        (r"\b(?:[mck]?m|in|ft|yd|inches|feet|meters?)\s*(?:\^\s*\{?[23]\}?|[²³])", " "),
        (r"(?<=[0-9])\s*(?=\\[dtc]?frac)", " "),
        (r"\\[dtc]?frac\s*\{\s*(-?[0-9.,]+)\s*\}\s*\{\s*([0-9.,]+)\s*\}", r"\1/\2 "),
        (r"\\[dtc]?frac\s*([0-9])\s*([0-9])", r"\1/\2 "),
        (r"\\approx", "≈"),
        (r"\*\*|%|~", " "),
        (r"(-)?\s?[$€£¥₹]\s*(-)?", r" \1\2"),
        (r"^\s*-\s+", "-"),
        (r"(?i)\b(?:negative|minus)\s+(?=[0-9.])", "-"),
        (r"\b([0-9]{1,2}):00\b", r"\1"),
        (r"(?i)\b[ap]\.\s?m\b\.?", " "),
    )
)
_UNFINISHED = re.compile(
    r"[*^+\\<>{}|!_×÷·√∞≠≤≥\[\]]"  # operators and LaTeX that was not understood
    rf"|-\s*[{_MARK}(]|(?:^|\s)-(?:\s|$)"  # a difference
    r"|/(?!\s*[A-Za-z]{2,}|[hs]\b)"  # a ratio, unless of units
    r"|(?<![A-Za-z'’°])[b-zB-HJ-Z](?<![ghlmsL])(?![A-Za-z'’])"  # a variable, not a unit
)


def parse_number(text: str) -> Fraction | None:
    r"""Return the number that a text names, or None.

    >>> parse_number("18 - 6 = 12 minutes."), parse_number(r"-1\frac{1}{2}"), parse_number("2x")
    (Fraction(12, 1), Fraction(-3, 2), None)
    """
    if len(text) > MAX_ANSWER_CHARS:
        return None
    for pattern, replacement in _SIMPLIFICATIONS:
        text = pattern.sub(replacement, text)
    *others, last = re.split("[=≈]", text)
    # "x = 5, y = 6" is two equations, not a chain.
    if any(re.search(r"[,;]\s|\b(?:and|or)\b", side) for side in others[1:]):
        return None
    quantities = list(_QUANTITY.finditer(last))
    rest = _QUANTITY.sub(_MARK, last)
    if len(quantities) != 1 or _UNFINISHED.search(rest) or any(c.isnumeric() for c in rest):
        return None
    return _read_quantity(quantities[0])


def _read_quantity(match: re.Match[str]) -> Fraction | None:
    numerator = _read_decimal(match["numerator"])
    denominator = _read_decimal(match["denominator"] or "1")
    if denominator == 0:
        return None
    value = numerator / denominator * _MULTIPLIERS.get((match["multiplier"] or "").lower(), 1)
    if match["whole"]:
        if not value < 1:  # "2 7/3" is no mixed number
            return None
        value += _read_decimal(match["whole"])
    return -value if match["sign"] == "-" else value


def _read_decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))
