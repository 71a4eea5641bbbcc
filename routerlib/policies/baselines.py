"""Routers without training: two constants, a coin, and rules on one number.

Each rule turns its number into a score in [0, 1] that is large where the rule would call the large
model, so that sweeping one threshold sweeps the rule. The scores are monotone maps and mean nothing
as probabilities. Each rule is billed by its protocol: what it looks at, it pays for. Where its
number was not recorded (NaN) the score is 0: small, unless everything is large.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from routerlib.features import Observations
from routerlib.policies.protocol import Floats, Policy, stack_probabilities


@dataclass(frozen=True, slots=True)
class AlwaysSmall:
    """The small model writes everything."""

    name: str = "always small"
    protocol: str = "before"

    def probabilities(self, observations: Observations) -> Floats:
        return stack_probabilities(np.zeros(len(observations.values)))


@dataclass(frozen=True, slots=True)
class AlwaysLarge:
    """The large model writes everything."""

    name: str = "always large"
    protocol: str = "before"

    def probabilities(self, observations: Observations) -> Floats:
        return stack_probabilities(np.ones(len(observations.values)))


@dataclass(frozen=True, slots=True)
class RandomPolicy:
    """A coin before each step: large with probability ``p``. Its p is swept, not a threshold."""

    p: float = 0.5
    name: str = "random"
    protocol: str = "before"

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(f"p is {self.p}; give the probability of the large model in [0, 1]")

    def probabilities(self, observations: Observations) -> Floats:
        return stack_probabilities(np.full(len(observations.values), self.p))

    @property
    def setting_name(self) -> str:
        return "probability of large"

    @property
    def settings(self) -> Floats:
        return np.linspace(0.0, 1.0, 41)[::-1]

    def with_setting(self, setting: float) -> RandomPolicy:
        return replace(self, p=setting)


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """Large for the first k steps, then small: the score 1 / (1 + depth) falls with depth, and the
    threshold 1 / k means k."""

    name: str = "first k steps large"
    protocol: str = "before"

    def probabilities(self, observations: Observations) -> Floats:
        return stack_probabilities(1.0 / (1.0 + observations.column("depth")))


@dataclass(frozen=True, slots=True)
class LastSteps:
    """Small for the first k steps, then large: the score depth / (1 + depth) rises with depth, and
    the threshold k / (1 + k) means k."""

    name: str = "last steps large"
    protocol: str = "before"

    def probabilities(self, observations: Observations) -> Floats:
        depth = observations.column("depth")
        return stack_probabilities(depth / (1.0 + depth))


@dataclass(frozen=True, slots=True)
class ProblemLength:
    """One model for the whole problem, by the words in its text (query-level routing).

    ``short_to_large`` calls the large model for short problems, which are within its reach (worth
    it where the small model solves little), otherwise for long ones, the usual notion of hard.
    """

    short_to_large: bool = True
    name: str = "problem length"
    protocol: str = "before"

    def probabilities(self, observations: Observations) -> Floats:
        short = 1.0 / (1.0 + _read_known(observations, "problem_n_words"))
        return _score(short if self.short_to_large else 1.0 - short)


@dataclass(frozen=True, slots=True)
class MeanLogprobThreshold:
    """Large rewrites the small model's draft where its mean token log-probability is low.

    Score 1 - exp(mean log p), the "Chow-Average" deferral of Gupta et al., Language Model Cascades
    (arXiv 2404.10136), applied to each step. The draft is paid for, also when thrown away.
    """

    name: str = "draft mean log-probability"
    protocol: str = "draft"

    def probabilities(self, observations: Observations) -> Floats:
        return _score(-np.expm1(_read_known(observations, "draft_mean_logprob")))


@dataclass(frozen=True, slots=True)
class MinLogprobThreshold:
    """Large rewrites the small model's draft where its least certain token is unlikely.

    Score 1 - exp(min log p), "Chow-Quantile-0" of Gupta et al. (arXiv 2404.10136) for each step.
    """

    name: str = "draft min log-probability"
    protocol: str = "draft"

    def probabilities(self, observations: Observations) -> Floats:
        return _score(-np.expm1(_read_known(observations, "draft_min_logprob")))


@dataclass(frozen=True, slots=True)
class FirstTokenEntropy:
    """Large where the small model's first token of the step is uncertain; one probe token is paid.

    Score 1 - exp(-entropy in nats): GlimpRouter (Zeng et al., arXiv 2601.05110).
    """

    name: str = "first-token entropy"
    protocol: str = "probe"

    def probabilities(self, observations: Observations) -> Floats:
        return _score(-np.expm1(-_read_known(observations, "probe_entropy")))


@dataclass(frozen=True, slots=True)
class JudgeScoreThreshold:
    """Large rewrites the small model's draft where it scores the draft low itself.

    Score 1 - usefulness / 9: SpecReason (Pan et al., arXiv 2504.07891) keeps a draft that the large
    model scores at least a threshold of 0 to 9. Here the score is the expected value over the
    digits, not the digit, so that a threshold can be set finely. Draft and judge are always paid.
    """

    name: str = "judge score"
    protocol: str = "judge"

    def probabilities(self, observations: Observations) -> Floats:
        return _score(1.0 - _read_known(observations, "judge_usefulness") / 9.0)


BASELINES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        AlwaysSmall(),
        AlwaysLarge(),
        RandomPolicy(),
        FirstSteps(),
        LastSteps(),
        ProblemLength(),
        MeanLogprobThreshold(),
        MinLogprobThreshold(),
        FirstTokenEntropy(),
    )
}
"""The routers that need no training, by name; those that any complete lattice can score."""

JUDGE_BASELINES: dict[str, Policy] = {policy.name: policy for policy in (JudgeScoreThreshold(),)}
"""Those that need judged drafts: for ``lattice.select(coverage(lattice, "judge").complete)``."""


def _read_known(observations: Observations, name: str) -> Floats:
    """Return a field (n,), or raise ``ValueError`` when no node has it recorded."""
    values = observations.column(name)
    if len(values) and not np.isfinite(values).any():
        raise ValueError(
            f"field {name!r} was recorded at none of {len(values)} nodes (a server without "
            "log-probabilities?): record it, or use a rule that does not need it"
        )
    return values


def _score(values: Floats) -> Floats:
    """Turn scores (n,) into probabilities (n, 2), unknown ones into 0."""
    return stack_probabilities(np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0))
