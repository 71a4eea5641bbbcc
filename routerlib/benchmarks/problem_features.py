"""What a policy may know of a problem before any step: counts over its text. Pure."""

from __future__ import annotations

import math
import re

PROBLEM_FEATURES = (
    "n_chars",
    "n_words",
    "n_sentences",
    "n_numbers",
    "n_operators",
    "max_log10_number",
    "n_fraction_words",
    "n_percent",
    "n_money",
    "n_times_words",
    "question_words",
)

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
# Beside two letters "-" is a hyphen, beside one or none a minus.
_OPERATOR = re.compile(
    r"[+*/=^<>×÷−·]|(?<![^\W\d_]{2})-(?![^\W\d_]{2})|\\(?:times|cdot|div|[dt]?frac|sqrt)\b"
)
_FRACTION_WORDS = re.compile(
    r"\b(?:half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?)\b"
    r"|\d\s*/\s*\d|\\[dt]?frac",
    re.IGNORECASE,
)
_TIMES_WORDS = re.compile(
    r"\b(?:times|twice|thrice|doubled?|doubles|tripled?|triples|each|every|per)\b", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?<=[.?!])\s+")


def compute_problem_features(text: str) -> dict[str, float]:
    """Return what a policy may know of a problem before any step is written: counts over its text,
    in the order of ``PROBLEM_FEATURES``. ``n_operators`` counts ``+ - * / = ^ <`` and the like,
    LaTeX's (``\\times``, ``\\frac``) too, but no hyphens; ``max_log10_number`` is log10(1 + largest
    number); ``question_words`` counts the words of the sentences that end in a question mark.

    >>> features = compute_problem_features("Ana has 3 apples. Half are red. How many are green?")
    >>> features["n_numbers"], features["n_fraction_words"], features["question_words"]
    (1.0, 1.0, 4.0)
    """
    numbers = [float(match.replace(",", "")) for match in _NUMBER.findall(text)]
    sentences = [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]
    questions = [sentence for sentence in sentences if sentence.endswith("?")]
    # A digit string of more than 308 digits is an infinite float; its feature stays finite.
    largest = min(max(numbers, default=0.0), 1e300)
    values = (
        len(text),
        len(text.split()),
        len(sentences),
        len(numbers),
        len(_OPERATOR.findall(text)),
        math.log10(1.0 + largest),
        len(_FRACTION_WORDS.findall(text)),
        len(re.findall(r"%|\bpercent\b", text, re.IGNORECASE)),
        len(re.findall(r"[$€£]\s*\d|\b(?:dollars?|cents?|euros?)\b", text, re.IGNORECASE)),
        len(_TIMES_WORDS.findall(text)),
        sum(len(question.split()) for question in questions),
    )
    return {name: float(value) for name, value in zip(PROBLEM_FEATURES, values, strict=True)}
