"""The rows of the store and the requests to a model, as frozen dataclasses.

Invariants: a record never holds what it can derive; ids are content hashes, so the same
content has the same id on every machine; token counts are in the model's own tokens;
log-probabilities are natural logarithms.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

SCHEMA_VERSION = 1

EndedBy = Literal["delimiter", "eos", "length"]
StepKind = Literal["step", "tail"]


def compute_id(*parts: object) -> str:
    """Return the first 20 hex digits of the SHA-256 of the parts, in order.

    >>> compute_id("a", 1) == compute_id("a", 1), compute_id("a", 1) == compute_id("a1", "")
    (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        data = str(part).encode()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:20]


def compute_text_sha256(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """One benchmark problem. The text and the gold answer stay in memory, unless the problem
    was generated: only the other fields and the text's hash are stored."""

    id: str
    benchmark: str
    split: str
    text: str
    answer: str
    subject: str | None = None
    level: str | None = None

    @property
    def text_sha256(self) -> str:
        return compute_text_sha256(self.text)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How text is drawn. ``top_logprobs`` alternatives are asked for at each token."""

    temperature: float = 0.0
    max_tokens: int = 100
    top_logprobs: int = 10
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a model. When the last message is the assistant's, it is a prefill that the
    model continues. ``stop`` ends the text and is not part of it."""

    messages: tuple[Message, ...]
    sampling: Sampling
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered.

    ``text`` excludes the stop string. ``token_logprobs`` has one entry per generated token,
    the one that held the stop string included where the server reports it, and is empty when the
    server gives none; ``token_texts`` are the same tokens as texts. ``first_token_top`` holds
    (token, log-probability) pairs of the first generated token, most probable first. Of the
    ``retries`` that came before, ``doubtful_tries`` may have been billed although nothing came.
    ``reasoning_tokens`` are those of the ``completion_tokens`` that the model wrote in thought and
    billed, None when the server does not tell.
    """

    text: str
    ended_by: EndedBy
    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    token_logprobs: tuple[float, ...]
    first_token_top: tuple[tuple[str, float], ...]
    finish_reason: str
    returned_model: str
    request_id: str
    latency_s: float
    retries: int = 0
    doubtful_tries: int = 0
    token_texts: tuple[str, ...] = ()
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class TextScore:
    """How well a model predicts a text that stands alone: the sum of the log-probabilities of its
    ``tokens`` tokens but the first, which follows nothing."""

    tokens: int
    logprob: float
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model. Prices are USD per million tokens, None when the model has no
    published price; ``parameters`` counts weights, embeddings included."""

    id: str
    provider: str
    family: str
    parameters: int
    quantisation: str
    weights_sha256: str | None
    licence: str
    context_length: int
    input_usd_per_mtok: float | None = None
    cached_input_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None
    price_date: str | None = None
    price_source: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """One recorded state: a problem and the steps so far. ``depth`` counts the steps on the path
    by which it was first recorded."""

    id: str
    problem_id: str
    depth: int
    text: str
    is_terminal: bool
    extracted_answer: str | None
    is_correct: bool | None


@dataclass(frozen=True, slots=True)
class Step:
    """One expansion: ``model_id`` continued ``state_id`` and reached ``next_state_id``.

    ``id`` is the hash of everything that determines the request, so an expansion is asked for
    once; ``attempt`` counts failed calls before this row. A failed call has ``error`` set, no text
    and no next state; it has tokens if its answer was refused, for those are billed.
    ``prompt_version`` names prompt and protocol (``continuations.name_prompt_version``).
    ``prompt_tokens`` includes ``shared_prompt_tokens``, the part of the prompt that all problems
    share (system message and worked examples). ``completion_tokens`` includes
    ``reasoning_tokens``, written in thought, which are None when the server does not tell.
    ``doubtful_tries`` counts the tries of the call that may have been billed although no count of
    tokens came (a timeout, a lost connection, a 5xx), None where there was none; what they took is
    not among the row's tokens.
    """

    id: str
    attempt: int
    run_id: str
    problem_id: str
    state_id: str
    model_id: str
    kind: StepKind
    sample_index: int
    prompt_version: str
    temperature: float
    max_tokens: int
    next_state_id: str | None
    text: str | None
    ended_by: EndedBy | None
    completion_tokens: int
    prompt_tokens: int
    cached_prompt_tokens: int
    shared_prompt_tokens: int
    finish_reason: str | None
    token_logprobs: tuple[float, ...] = ()
    first_token_top: tuple[tuple[str, float], ...] = ()
    latency_s: float = 0.0
    retries: int = 0
    requested_model: str = ""
    returned_model: str | None = None
    request_id: str | None = None
    error: str | None = None
    reasoning_tokens: int | None = None
    doubtful_tries: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One collection run: its configuration (JSON), where, when, with what."""

    id: str
    started_at: str
    ended_at: str | None
    configuration: str
    code_version: str
    machine: str
    library_versions: str
    plan: str
    spent_usd: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A behaviour policy's decision in a rollout: it chose the model of this step with this
    probability, in (0, 1]. ``behaviour`` names the policy with its parameters."""

    step_id: str
    behaviour: str
    probability: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's score in [0, 1] of a recorded step, and the tokens that scoring took.

    ``question`` names what was asked and how, with its version. ``prompt_tokens`` includes
    ``shared_prompt_tokens``, the part of the prompt that all problems share.
    """

    step_id: str
    judge_model_id: str
    question: str
    score: float
    prompt_tokens: int
    shared_prompt_tokens: int
    completion_tokens: int
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PromptScore:
    """How well a model predicts the text of a problem: the sum of the log-probabilities of its
    ``tokens`` tokens but the first, the text standing alone, without a chat template."""

    problem_id: str
    model_id: str
    tokens: int
    logprob: float


@dataclass(frozen=True, slots=True)
class ProblemText:
    """Text and gold answer of a generated problem, which no licence keeps from being stored."""

    problem_id: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """A problem as it is stored: no text, but the features of the text that a policy may use."""

    id: str
    benchmark: str
    split: str
    text_sha256: str
    subject: str | None
    level: str | None
    features: dict[str, float] = field(default_factory=dict)


def compute_state_id(problem_id: str, text: str, is_terminal: bool) -> str:
    """Return a state's id: one id for one text of one problem, and another one for the same text
    when its model stopped there."""
    return compute_id("state", problem_id, text, is_terminal)


def compute_step_id(
    *,
    problem_id: str,
    prefix: str,
    model_id: str,
    kind: StepKind,
    temperature: float,
    max_tokens: int,
    delimiter: str,
    prompt_version: str,
    sample_index: int,
) -> str:
    """Return the id of an expansion: the hash of all that determines the request."""
    return compute_id(
        "step",
        problem_id,
        prefix,
        model_id,
        kind,
        float(temperature),
        max_tokens,
        delimiter,
        prompt_version,
        sample_index,
    )
