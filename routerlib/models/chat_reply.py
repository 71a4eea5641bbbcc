"""Reading one reply of ``/v1/chat/completions`` (pure: decoded JSON in, ``Completion`` out), and
the log-probabilities of a prompt in one of ``/v1/completions``.

Invariants: token counts are the server's own, never guessed; ``token_logprobs`` has one entry per
reported token or none at all; a reply that cannot be used is a ``ModelError``, never a text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from routerlib.errors import ModelError
from routerlib.records import Completion, EndedBy, Request, TextScore

PLACEHOLDER_LOGPROB = -9999.0
"""Servers write this where they have no log-probability (OpenAI, vLLM)."""


def read_completion(
    reply: Any,
    request: Request,
    *,
    echoed: str,
    request_id: str | None,
    latency_s: float,
    retries: int,
) -> Completion:
    """Return the first choice of a decoded reply.

    ``echoed`` is the prefill where the server repeats it at the start of its text (llama.cpp
    does), else empty. ``request_id`` is the id in the reply's headers; the body's own id stands in
    for it.

    Raises:
        ModelError: no choice, no usage, a finish reason other than "stop" and "length", or a value
            of another kind than it should be.
    """
    try:
        return _read(
            reply,
            request,
            echoed=echoed,
            request_id=request_id,
            latency_s=latency_s,
            retries=retries,
        )
    except (LookupError, TypeError, ValueError, AttributeError) as failure:
        raise ModelError(
            f"a reply with a value that cannot be read ({type(failure).__name__}: {failure}): "
            f"{str(reply)[:300]!r}"
        ) from failure


def _read(
    reply: Any,
    request: Request,
    *,
    echoed: str,
    request_id: str | None,
    latency_s: float,
    retries: int,
) -> Completion:
    try:
        choice = reply["choices"][0]
        text = _check_text(choice["message"].get("content") or "")
        finish_reason = choice["finish_reason"]
    except (KeyError, IndexError, TypeError, AttributeError) as failure:
        raise ModelError(f"a reply without a choice: {str(reply)[:300]}") from failure
    usage = reply.get("usage")
    if not isinstance(usage, dict) or not {"prompt_tokens", "completion_tokens"} <= usage.keys():
        raise ModelError(
            f"a reply without token counts (usage is {usage!r}): its cost would be unknown. Use a "
            f"server that reports usage"
        )
    text = text.removeprefix(echoed)
    completion_tokens = _read_count(usage["completion_tokens"])
    prompt_tokens = _read_count(usage["prompt_tokens"])
    entries = (choice.get("logprobs") or {}).get("content") or []
    check_counts(text, prompt_tokens, completion_tokens, tokens_seen=len(entries))
    return Completion(
        text=text,
        ended_by=_read_ended_by(choice, entries, completion_tokens, request.stop),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_prompt_tokens=_read_count(
            (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        ),
        token_logprobs=_read_token_logprobs(entries),
        first_token_top=_read_first_token_top(entries),
        finish_reason=finish_reason,
        returned_model=str(reply.get("model") or ""),
        request_id=request_id or str(reply.get("id") or ""),
        latency_s=latency_s,
        retries=retries,
        token_texts=tuple(str(entry.get("token", "")) for entry in entries),
    )


def check_counts(
    text: str, prompt_tokens: int, completion_tokens: int, *, tokens_seen: int = 0
) -> None:
    """Raise ModelError for counts that cannot be those of the reply: no prompt, a text of no
    tokens, or fewer tokens than were listed. What such a call cost is unknown, never 0."""
    if prompt_tokens < 1 or completion_tokens < max(tokens_seen, 1 if text else 0):
        raise ModelError(
            f"a reply whose usage counts {prompt_tokens} prompt and {completion_tokens} completion "
            f"tokens, with {tokens_seen} tokens listed and the text {text[:80]!r}: its cost is "
            "unknown. Use a server that counts"
        )


def read_text_score(reply: Any, retries: int) -> TextScore:
    """Return the score of the prompt of a decoded ``/v1/completions`` reply.

    vLLM gives one entry for each prompt token: null for the first, then a mapping with the token
    that stands there as its one key. Raises ModelError for any other reply.
    """
    try:
        entries = reply["choices"][0].get("prompt_logprobs")
    except (LookupError, TypeError, AttributeError) as failure:
        raise ModelError(f"a reply without a choice: {str(reply)[:300]}") from failure
    if not isinstance(entries, list) or not entries:
        raise ModelError(
            f"a reply without log-probabilities of the prompt (prompt_logprobs is {entries!r}): "
            "this engine does not give them; ask one that does (--engine vllm)"
        )
    try:
        values = [_read_only_logprob(entry) for entry in entries[1:]]
    except (LookupError, TypeError, ValueError, AttributeError) as failure:
        raise ModelError(
            f"a prompt token's log-probability cannot be read ({type(failure).__name__}: "
            f"{failure}): {str(entries)[:300]!r}"
        ) from failure
    return TextScore(tokens=len(entries), logprob=min(0.0, sum(values)), retries=retries)


def _read_only_logprob(entry: Any) -> float:
    (given,) = entry.values()
    if _is_missing(given["logprob"]):
        raise ValueError(f"it is {given['logprob']!r}")
    return float(given["logprob"])


def _check_text(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"content is {type(text).__name__}, not text")
    text.encode()  # a lone surrogate could not be stored
    return text


def _read_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"a token count is {value!r}")
    return int(value)


def _read_ended_by(
    choice: dict[str, Any], entries: Sequence[Any], completion_tokens: int, stop: tuple[str, ...]
) -> EndedBy:
    """Say what ended the text.

    vLLM names the stop string in ``stop_reason`` (None at the end mark). llama.cpp reports the end
    mark's token, but not the tokens that held a stop string: fewer tokens are reported than were
    generated. So a server that reports no token at all is taken to have met the stop string: a
    solution is rather continued once too often than cut off.
    """
    finish_reason = choice["finish_reason"]
    if finish_reason == "length":
        return "length"
    if finish_reason != "stop":
        raise ModelError(
            f"a reply that ended by {finish_reason!r}, where 'stop' or 'length' was expected"
        )
    if "stop_reason" in choice:
        return "delimiter" if choice["stop_reason"] in stop else "eos"
    if not stop:
        return "eos"
    last_token = str(entries[-1].get("token", "")) if entries else ""
    if any(string in last_token for string in stop) or len(entries) < completion_tokens:
        return "delimiter"
    return "eos"


def _is_missing(logprob: Any) -> bool:
    if not isinstance(logprob, int | float) or not math.isfinite(logprob):
        return True
    return logprob <= PLACEHOLDER_LOGPROB


def _read_token_logprobs(entries: Sequence[Any]) -> tuple[float, ...]:
    values = [entry.get("logprob") for entry in entries]
    return () if any(map(_is_missing, values)) else tuple(float(value) for value in values)


def _read_first_token_top(entries: Sequence[Any]) -> tuple[tuple[str, float], ...]:
    """Return the first token's alternatives, most probable first, placeholders left out."""
    top = (entries[0].get("top_logprobs") or []) if entries else []
    pairs = [
        (str(entry["token"]), float(entry["logprob"]))
        for entry in top
        if not _is_missing(entry.get("logprob"))
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair[1]))
