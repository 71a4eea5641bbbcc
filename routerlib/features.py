"""What a policy may see: named fields, each shown from one decision protocol on.

Invariants: every field has a unit and a meaning; the observations of a protocol do not hold the
columns that the protocol hides, so no policy can read them; a later protocol shows all that an
earlier one does. NaN says "not recorded" (a server without log-probabilities, a missing step);
``Standardiser`` reads it as the training mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from routerlib.errors import HiddenFieldError

DecisionProtocol = Literal["before", "probe", "draft"]
FieldGroup = Literal["problem", "position", "text", "confidence"]

PROTOCOLS: tuple[DecisionProtocol, ...] = ("before", "probe", "draft")
FEATURE_SETS = ("all", "no_logprobs", "position_only", "confidence_only")
PROBLEM_COLUMN = "feature_"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Field:
    """One observable number: its unit, the first protocol that shows it, what kind of knowledge
    it is, and what it means."""

    name: str
    unit: str
    protocol: DecisionProtocol
    group: FieldGroup
    meaning: str


_FIELDS = (
    Field("problem_n_chars", "characters", "before", "problem", "length of the problem"),
    Field("problem_n_words", "words", "before", "problem", "words of the problem"),
    Field("problem_n_sentences", "sentences", "before", "problem", "sentences of the problem"),
    Field("problem_n_numbers", "count", "before", "problem", "numbers in the problem"),
    Field("problem_max_log10_number", "log10", "before", "problem", "its largest number"),
    Field("problem_n_fraction_words", "count", "before", "problem", "fractions, in words too"),
    Field("problem_n_percent", "count", "before", "problem", "percentages"),
    Field("problem_n_money", "count", "before", "problem", "amounts of money"),
    Field("problem_n_times_words", "count", "before", "problem", "times, twice, half, each ..."),
    Field("problem_question_words", "words", "before", "problem", "words of the question itself"),
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
    Field("share_large", "fraction", "before", "position", "steps so far by the large model"),
    Field("last_tokens", "tokens", "before", "position", "tokens of the last step"),
    Field("n_digits_last", "characters", "before", "text", "digits in the last step"),
    Field("n_operators_last", "characters", "before", "text", "+ - * / = ^ and the like in it"),
    Field("repeats_last", "flag", "before", "text", "1 when a line of it occurred before"),
    Field(
        "last_mean_logprob",
        "nats",
        "before",
        "confidence",
        "mean token log-probability of the last step; 0 before the first step",
    ),
    Field("last_min_logprob", "nats", "before", "confidence", "its least sure token"),
    Field("mean_logprob", "nats", "before", "confidence", "mean over all tokens written so far"),
    Field("min_logprob", "nats", "before", "confidence", "least sure token written so far"),
    Field(
        "probe_entropy",
        "nats",
        "probe",
        "confidence",
        "entropy of the small model's first token: recorded top tokens, the rest as one bucket",
    ),
    Field("probe_margin", "probability", "probe", "confidence", "its best token over the next"),
    Field("probe_top_logprob", "nats", "probe", "confidence", "its best token"),
    Field("draft_mean_logprob", "nats", "draft", "confidence", "the small model's next step"),
    Field("draft_min_logprob", "nats", "draft", "confidence", "the draft's least sure token"),
    Field("draft_tokens", "tokens", "draft", "text", "length of the draft"),
    Field("draft_n_digits", "characters", "draft", "text", "digits in the draft"),
    Field("draft_is_answer", "flag", "draft", "text", "1 when the draft ends the solution"),
    Field("draft_repeats", "flag", "draft", "text", "1 when a line of it occurred before"),
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

    ``all``; ``no_logprobs``: all but log-probabilities and what is computed from them;
    ``position_only``: where on the path and who wrote it; ``confidence_only``: only
    log-probabilities. Raises ``ValueError`` for another name.

    >>> get_feature_names("confidence_only", "before")[:2]
    ('last_mean_logprob', 'last_min_logprob')
    """
    chosen: dict[str, Callable[[Field], bool]] = {
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
    return tuple(f.name for f in _FIELDS if is_chosen(f) and is_visible(f, protocol))


def _is_of_logprobs(field: Field) -> bool:
    return field.group == "confidence" or field.unit == "nats"


@dataclass(frozen=True, eq=False, slots=True)
class Observations:
    """What a policy sees at N nodes: ``values`` (N, F), one column for each of ``names``.

    Columns that ``protocol`` hides are not there.
    """

    names: tuple[str, ...]
    values: FloatArray
    protocol: DecisionProtocol

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(
                f"values have shape {self.values.shape} for {len(self.names)} names: give (N, F)"
            )
        for name in self.names:
            if name in FIELDS and not is_visible(FIELDS[name], self.protocol):
                raise _make_hidden_error(name, self.protocol)

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def column(self, name: str) -> FloatArray:
        """Return one field (N,).

        Raises ``HiddenFieldError`` for a field that the protocol hides and ``KeyError`` for a
        name that is no field, or that was left out of these observations.
        """
        if name in self.names:
            return self.values[:, self.names.index(name)]
        if name in FIELDS and not is_visible(FIELDS[name], self.protocol):
            raise _make_hidden_error(name, self.protocol)
        raise KeyError(f"no field {name!r} here: there are {', '.join(self.names)}")

    def list_recorded(self) -> tuple[str, ...]:
        """Return the names of the fields that at least one node has recorded, in order."""
        known = np.flatnonzero(np.isfinite(self.values).any(axis=0))
        return tuple(self.names[column] for column in known)

    def take(self, names: tuple[str, ...]) -> Observations:
        """Return the same nodes with only these fields, in this order. Raises like ``column``."""
        columns = [self.column(name) for name in names]
        values = np.stack(columns, axis=1) if columns else np.empty((len(self), 0))
        return replace(self, names=names, values=values)

    def rows(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Observations:
        """Return the observations of some nodes, by index or mask over N."""
        return replace(self, values=self.values[index])


@dataclass(frozen=True, eq=False, slots=True)
class Standardiser:
    """Mean and standard deviation of each field on the *training* lattice.

    ``mean`` and ``scale`` (F,) belong to ``names``. A field that is constant in training has scale
    1, so it becomes 0 there.
    """

    names: tuple[str, ...]
    mean: FloatArray
    scale: FloatArray

    @classmethod
    def fit(cls, observations: Observations) -> Standardiser:
        """Return the standardiser of these nodes, every node counting once and NaN not at all.

        A field that no node has recorded gets mean 0 and scale 1. ``ValueError`` for no node.
        """
        from sklearn.preprocessing import StandardScaler

        known = np.isfinite(observations.values)
        values = np.where(known, observations.values, np.nan)
        values[:, ~known.any(axis=0)] = 0.0
        scaler = StandardScaler().fit(values)
        mean = np.asarray(scaler.mean_, dtype=np.float64)
        scale = np.sqrt(np.asarray(scaler.var_, dtype=np.float64))
        # Wider than scikit-learn's own rule: rounding must not become a feature.
        constant = scale <= 1e-12 * np.maximum(1.0, np.abs(mean))
        return cls(observations.names, mean, np.where(constant, 1.0, scale))

    def transform(self, observations: Observations) -> FloatArray:
        """Return (N, F) standardised values of this standardiser's fields, in its order.

        NaN becomes 0, the training mean. Raises ``HiddenFieldError`` when the observations'
        protocol hides a field that was trained on.
        """
        values = (observations.take(self.names).values - self.mean) / self.scale
        return np.where(np.isfinite(values), values, 0.0)


def _make_hidden_error(name: str, protocol: DecisionProtocol) -> HiddenFieldError:
    return HiddenFieldError(
        f"protocol {protocol!r} hides field {name!r}: decide under protocol "
        f"{FIELDS[name].protocol!r}, which shows it and bills it"
    )
