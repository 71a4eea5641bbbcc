"""What the replies of several protocols hold: texts, counts of tokens and log-probabilities, each
checked as it is read (pure).

Invariants: a count is the server's own, never guessed; log-probabilities have one entry per
reported token, or there are none at all; a value of another kind than it should be is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from routerlib.errors import ModelError
from routerlib.records import Completion, EndedBy

PLACEHOLDER_LOGPROB = -9999.0
"""Servers write this where they have no log-probability (OpenAI, vLLM)."""

MOST_TOKENS = 2**31 - 1
"""The largest count of tokens that the store's columns hold."""

UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading a reply raises where a value is missing or of another kind."""


@contextmanager
def billing(read: Callable[[], Completion]) -> Iterator[None]:
    """A ModelError that rises in it carries the answer that ``read`` makes of the same reply, for
    what it took: a refusal is billed too. Where that cannot be read either, it carries none."""
    try:
        yield
    except ModelError as error:
        with suppress(ModelError, *UNREADABLE):
            error.billed = read()
        raise


def make_completion(
    reply: Mapping[str, Any],
    *,
    counts: tuple[str, str],
    text: str,
    entries: Sequence[Any],
    finish_reason: Any,
    ended_by: EndedBy,
    request_id: str | None,
    latency_s: float,
    retries: int,
) -> Completion:
    """Return the completion of a reply of OpenAI's protocols, whose usage counts the tokens read
    and written by the names in ``counts``. ``entries`` are the tokens that it lists, thought
    perhaps among them. Raises ModelError for no usage or an impossible one."""
    read, written = counts
    usage = get_usage(reply, *counts)
    prompt_tokens = read_count(usage[read])
    completion_tokens, reasoning_tokens = count_written(
        prompt_tokens,
        read_count(usage[written]),
        read_reasoning(usage, f"{written}_details"),
        usage.get("total_tokens"),
    )
    cached_tokens = read_count((usage.get(f"{read}_details") or {}).get("cached_tokens") or 0)
    check_counts(
        text,
        prompt_tokens,
        completion_tokens,
        cached_tokens=cached_tokens,
        # Some servers list the tokens of the thought too, so the two are not added up.
        tokens_seen=max(len(entries), reasoning_tokens or 0),
    )
    return Completion(
        text=text,
        ended_by=ended_by,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        reasoning_tokens=reasoning_tokens,
        cached_prompt_tokens=cached_tokens,
        token_logprobs=read_token_logprobs(entries),
        first_token_top=read_first_token_top(entries),
        finish_reason=clean_text(finish_reason),
        returned_model=clean_text(reply.get("model")),
        request_id=request_id or clean_text(reply.get("id")),
        latency_s=latency_s,
        retries=retries,
        token_texts=tuple(clean_text(entry.get("token")) for entry in entries),
    )


def make_unreadable_error(failure: Exception, reply: Any) -> ModelError:
    """Return the error of a reply whose reading raised one of ``UNREADABLE``."""
    return ModelError(
        f"a reply with a value that cannot be read ({type(failure).__name__}: {failure}): "
        f"{str(reply)[:300]!r}"
    )


def get_usage(reply: Mapping[str, Any], *needed: str) -> dict[str, Any]:
    """Return a reply's usage. Raises ModelError when it lacks one of the ``needed`` counts."""
    usage = reply.get("usage")
    if not isinstance(usage, dict) or not usage.keys() >= set(needed):
        raise ModelError(
            f"a reply without token counts (usage is {usage!r}): its cost would be unknown. Use a "
            f"server that reports usage"
        )
    return usage


def check_counts(
    text: str,
    prompt_tokens: int,
    completion_tokens: int,
    *,
    cached_tokens: int = 0,
    tokens_seen: int = 0,
) -> None:
    """Raise ModelError for counts that cannot be those of the reply: no prompt, or one smaller than
    its cached part, a text of no tokens, or fewer tokens than were listed. What such a call cost is
    unknown, never 0."""
    least = max(tokens_seen, 1 if text else 0)
    if prompt_tokens < max(1, cached_tokens) or completion_tokens < least:
        raise ModelError(
            f"a reply whose usage counts {prompt_tokens} prompt tokens ({cached_tokens} of them "
            f"cached) and {completion_tokens} completion tokens, with {tokens_seen} tokens listed "
            f"and the text {text[:80]!r}: its cost is unknown. Use a server that counts"
        )


def read_reasoning(
    usage: Mapping[str, Any], part: str, name: str = "reasoning_tokens"
) -> int | None:
    """Return the tokens written in thought of the usage's ``part``, None when it does not tell."""
    value = (usage.get(part) or {}).get(name)
    return None if value is None else read_count(value)


def count_written(
    prompt_tokens: int, completion_tokens: int, reasoning_tokens: int | None, total_tokens: Any
) -> tuple[int, int | None]:
    """Return the tokens that were written, thought included, and those of thought.

    OpenAI counts thought as a part of ``completion_tokens``; xAI counts it apart, and Google's
    compatible endpoint in the total alone. All of them bill it as output, and the total (None where
    there is none) tells which it is. Raises ModelError for a total that neither way adds up to.
    """
    if total_tokens is None:
        return completion_tokens, reasoning_tokens
    beyond = read_count(total_tokens) - prompt_tokens - completion_tokens
    if beyond == 0:
        return completion_tokens, reasoning_tokens
    if beyond > 0 and (reasoning_tokens or beyond) == beyond:
        return completion_tokens + beyond, beyond
    thought = "" if reasoning_tokens is None else f" ({reasoning_tokens} of thought)"
    raise ModelError(
        f"a reply whose usage counts {prompt_tokens} prompt tokens and {completion_tokens} "
        f"completion tokens{thought}, but {total_tokens} in total: its cost is unknown. Use a "
        "server that counts"
    )


def make_refusal_error(refusal: Any) -> ModelError:
    """Return the error of a reply in which the model says that it will not answer."""
    return ModelError(
        f"the model refused to answer: {str(refusal)[:300]!r}. Change the request, or the model"
    )


def check_text(text: Any) -> str:
    """Return a text as it is. Raises ValueError for what is none or could not be stored."""
    if not isinstance(text, str):
        raise ValueError(f"content is {type(text).__name__}, not text")
    text.encode()  # a lone surrogate could not be stored
    return text


def clean_text(text: Any) -> str:
    """Return a text that only accompanies an answer, such as a token or an id, in a form that can
    be stored: what is no character becomes a question mark; nothing at all is the empty text."""
    return str(text or "").encode(errors="replace").decode()


def read_count(value: Any) -> int:
    """Return a count of tokens. Raises ValueError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a token count is {value!r}")
    if not 0 <= value <= MOST_TOKENS:
        raise ValueError(f"a token count is {value!r:.40}")
    return int(value)


def is_missing(logprob: Any) -> bool:
    """Say whether this stands where a server has no log-probability. Raises OverflowError for a
    whole number too large for one."""
    if not isinstance(logprob, int | float) or not math.isfinite(logprob):
        return True
    return logprob <= PLACEHOLDER_LOGPROB


def read_token_logprobs(entries: Sequence[Any]) -> tuple[float, ...]:
    """Return the tokens' log-probabilities, or none where one of them is missing."""
    values = [entry.get("logprob") for entry in entries]
    return () if any(map(is_missing, values)) else tuple(float(value) for value in values)


def read_first_token_top(entries: Sequence[Any]) -> tuple[tuple[str, float], ...]:
    """Return the first token's alternatives, most probable first, placeholders left out."""
    top = (entries[0].get("top_logprobs") or []) if entries else []
    pairs = [
        (clean_text(entry["token"]), float(entry["logprob"]))
        for entry in top
        if not is_missing(entry.get("logprob"))
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))
