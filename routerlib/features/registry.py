"""What there is to see: named fields, each shown from one decision protocol on, and sets of them.

Invariants: every field has a unit and a meaning; a later protocol shows all that an earlier one
does; the default set of a protocol never changes, because trained policies and their figures depend
on it. ``docs/features.md`` has the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

DecisionProtocol = Literal["before", "probe", "draft", "judge"]
FieldGroup = Literal["problem", "position", "text", "confidence", "spending"]

PROTOCOLS: tuple[DecisionProtocol, ...] = ("before", "probe", "draft", "judge")
FEATURE_SETS = ("default", "all", "no_logprobs", "position_only", "confidence_only")
PROBLEM_COLUMN = "feature_"


@dataclass(frozen=True, slots=True)
class Field:
    """One observable number: its unit, the first protocol that shows it, what kind of knowledge
    it is, what it means, and whether policies see it unless they ask for other fields."""

    name: str
    unit: str
    protocol: DecisionProtocol
    group: FieldGroup
    meaning: str
    in_default: bool = True


def _add(
    name: str, unit: str, protocol: DecisionProtocol, group: FieldGroup, meaning: str
) -> Field:
    """Return a field outside the default set, which stays as it is so that trained policies do."""
    return Field(name, unit, protocol, group, meaning, in_default=False)


_FIELDS = (
    Field("problem_n_chars", "characters", "before", "problem", "length of the problem"),
    Field("problem_n_words", "words", "before", "problem", "words of the problem"),
    Field("problem_n_sentences", "sentences", "before", "problem", "sentences of the problem"),
    Field("problem_n_numbers", "count", "before", "problem", "numbers in the problem"),
    Field(
        "problem_n_operators",
        "count",
        "before",
        "problem",
        "+ - * / = ^ and the like in the problem, LaTeX's too",
    ),
    Field(
        "problem_max_log10_number",
        "log10",
        "before",
        "problem",
        "log10(1 + x) of the largest number in the problem",
    ),
    Field(
        "problem_n_fraction_words",
        "count",
        "before",
        "problem",
        "fractions in the problem, in figures or in words",
    ),
    Field("problem_n_percent", "count", "before", "problem", "percentages in the problem"),
    Field("problem_n_money", "count", "before", "problem", "amounts of money in the problem"),
    Field(
        "problem_n_times_words",
        "count",
        "before",
        "problem",
        "words of multiplication in the problem: times, twice, each, per ...",
    ),
    Field(
        "problem_question_words",
        "words",
        "before",
        "problem",
        "words of the sentences that end in a question mark",
    ),
    Field(
        "problem_small_logprob",
        "nats",
        "probe",
        "problem",
        "mean token log-probability of the problem's text by the small model, in the same prefill "
        "that the probe is billed for",
    ),
    Field("depth", "decisions", "before", "position", "decisions taken before this one"),
    Field("steps_tokens", "tokens", "before", "position", "tokens written so far, by any model"),
    Field(
        "last_author_large",
        "flag",
        "before",
        "position",
        "author of the last step: 0 the small model, 1 the large, between them in proportion "
        "when there are more, -1 before the first step",
    ),
    Field(
        "share_large",
        "fraction",
        "before",
        "position",
        "share of the steps so far that the large model wrote",
    ),
    Field("last_tokens", "tokens", "before", "position", "tokens of the last step"),
    _add(
        "run_length",
        "steps",
        "before",
        "position",
        "latest steps in a row by the author of the last one",
    ),
    _add("n_switches", "count", "before", "position", "changes of author so far"),
    _add("last_chars", "characters", "before", "position", "characters of the last step"),
    Field("n_digits_last", "characters", "before", "text", "digits in the last step"),
    Field(
        "n_operators_last",
        "characters",
        "before",
        "text",
        "+ - * / = ^ and the like in the last step",
    ),
    Field(
        "repeats_last",
        "flag",
        "before",
        "text",
        "1 when a line of the last step occurred before it",
    ),
    _add("n_digits", "characters", "before", "text", "digits in all steps so far"),
    _add(
        "n_operators",
        "characters",
        "before",
        "text",
        "+ - * / = ^ and the like in all steps so far",
    ),
    _add("n_repeats", "count", "before", "text", "steps so far that repeated a line"),
    Field(
        "last_mean_logprob",
        "nats",
        "before",
        "confidence",
        "mean token log-probability of the last step; 0 before the first step",
    ),
    Field(
        "last_min_logprob",
        "nats",
        "before",
        "confidence",
        "log-probability of the last step's least sure token; 0 before the first step",
    ),
    Field(
        "mean_logprob",
        "nats",
        "before",
        "confidence",
        "mean log-probability of all tokens written so far; 0 before the first step",
    ),
    Field(
        "min_logprob",
        "nats",
        "before",
        "confidence",
        "log-probability of the least sure token written so far; 0 before the first step",
    ),
    _add(
        "last_std_logprob",
        "nats",
        "before",
        "confidence",
        "standard deviation of the last step's token log-probabilities; 0 before the first step",
    ),
    _add(
        "last_sum_logprob",
        "nats",
        "before",
        "confidence",
        "log-probability of the whole last step; 0 before the first step",
    ),
    _add(
        "min_mean_logprob",
        "nats",
        "before",
        "confidence",
        "mean token log-probability of the least sure step so far; 0 before the first step",
    ),
    _add(
        "last_first_entropy",
        "nats",
        "before",
        "confidence",
        "entropy of the last step's first token by its author; 0 before the first step",
    ),
    _add(
        "last_first_margin",
        "probability",
        "before",
        "confidence",
        "probability of the best first token of the last step over the next best, by its author; "
        "0 before the first step",
    ),
    Field(
        "probe_entropy",
        "nats",
        "probe",
        "confidence",
        "entropy of the small model's first token: recorded top tokens, the rest as one bucket",
    ),
    Field(
        "probe_margin",
        "probability",
        "probe",
        "confidence",
        "probability of the small model's best first token over the next best",
    ),
    Field(
        "probe_top_logprob",
        "nats",
        "probe",
        "confidence",
        "log-probability of the small model's best first token",
    ),
    _add(
        "probe_max_entropy",
        "nats",
        "probe",
        "confidence",
        "highest entropy of the probes so far, this one included",
    ),
    _add(
        "probe_disagrees_last",
        "flag",
        "probe",
        "text",
        "1 when the last step does not begin with the token that the small model, probed before "
        "it, was surest of; 0 for the small model's own steps and before the first",
    ),
    Field(
        "draft_mean_logprob",
        "nats",
        "draft",
        "confidence",
        "mean token log-probability of the draft, the small model's next step",
    ),
    Field(
        "draft_min_logprob",
        "nats",
        "draft",
        "confidence",
        "log-probability of the draft's least sure token",
    ),
    _add(
        "draft_std_logprob",
        "nats",
        "draft",
        "confidence",
        "standard deviation of the draft's token log-probabilities",
    ),
    Field("draft_tokens", "tokens", "draft", "text", "tokens of the draft"),
    Field("draft_n_digits", "characters", "draft", "text", "digits in the draft"),
    _add(
        "draft_n_operators",
        "characters",
        "draft",
        "text",
        "+ - * / = ^ and the like in the draft",
    ),
    Field("draft_is_answer", "flag", "draft", "text", "1 when the draft ends the solution"),
    Field(
        "draft_repeats", "flag", "draft", "text", "1 when a line of the draft occurred before it"
    ),
    _add(
        "draft_disagrees_last",
        "flag",
        "draft",
        "text",
        "1 when the last step is not the draft that was made before it, spaces at the ends apart; "
        "0 for the small model's own steps and before the first",
    ),
    _add("draft_n_disagreements", "count", "draft", "text", "steps so far that were not the draft"),
    Field(
        "judge_usefulness",
        "points, 0 to 9",
        "judge",
        "confidence",
        "the large model's score of the draft: expected value over the digits that it may answer",
    ),
    *(
        _add(
            f"spent_{protocol}",
            "the lens's",
            protocol,
            "spending",
            f"cost of the path so far, billed under protocol `{protocol}`",
        )
        for protocol in PROTOCOLS
    ),
    *(
        _add(
            f"budget_left_{protocol}",
            "the lens's",
            protocol,
            "spending",
            f"the problem's budget less `spent_{protocol}`; negative when overdrawn",
        )
        for protocol in PROTOCOLS
    ),
)
FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}


def is_visible(field: Field, protocol: DecisionProtocol) -> bool:
    """Say whether a protocol shows a field."""
    return PROTOCOLS.index(field.protocol) <= PROTOCOLS.index(protocol)


def check_protocol(protocol: str) -> DecisionProtocol:
    """Return ``protocol``, or raise ``ValueError`` that names the ones there are."""
    for known in PROTOCOLS:
        if protocol == known:
            return known
    raise ValueError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")


def get_feature_names(feature_set: str, protocol: DecisionProtocol) -> tuple[str, ...]:
    """Return the names of the fields of a feature set that a protocol shows, in registry order.

    ``default``: what policies see unless they ask for other fields; ``all``: those and the fields
    that were added later; ``no_logprobs``: all but log-probabilities and what is computed from
    them, for models whose servers give none; ``position_only``: where on the path and who wrote
    it; ``confidence_only``: only log-probabilities. What is spent and left of a budget needs a
    lens, so it is in no set: add it to a lattice with ``lattice.add_spending`` and ask for it by
    name. Raises ``ValueError`` for another set.

    >>> get_feature_names("confidence_only", "before")[:2]
    ('last_mean_logprob', 'last_min_logprob')
    """
    chosen: dict[str, Callable[[Field], bool]] = {
        "default": lambda field: field.in_default,
        "all": lambda field: True,
        "no_logprobs": lambda field: not _is_of_logprobs(field),
        "position_only": lambda field: field.group == "position",
        "confidence_only": _is_of_logprobs,
    }
    if feature_set not in chosen:
        raise ValueError(
            f"unknown feature set {feature_set!r}: choose one of {', '.join(FEATURE_SETS)}"
        )
    protocol = check_protocol(protocol)
    is_chosen = chosen[feature_set]
    of_any_lattice = [field for field in _FIELDS if field.group != "spending"]
    return tuple(f.name for f in of_any_lattice if is_chosen(f) and is_visible(f, protocol))


def _is_of_logprobs(field: Field) -> bool:
    return field.group == "confidence" or field.unit == "nats"
