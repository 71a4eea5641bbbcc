"""Reading one reply of ``/v1/chat/completions`` (pure: decoded JSON in, ``Completion`` out), and
the log-probabilities of a prompt in one of ``/v1/completions``.

Invariants: token counts are the server's own, never guessed; ``token_logprobs`` has one entry per
reported token or none at all; a reply that cannot be used is a ``ModelError``, never a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from routerlib.errors import ModelError
from routerlib.models.reply_values import (
    UNREADABLE,
    billing,
    check_text,
    is_missing,
    make_completion,
    make_refusal_error,
    make_unreadable_error,
)
from routerlib.records import Completion, EndedBy, Request, TextScore

# Besides "stop", which OpenAI, vLLM and llama.cpp write for the end mark and stop strings alike:
# Together writes "eos", TGI "eos_token" and "stop_sequence".
_ENDED_BY: dict[str, EndedBy] = {
    "length": "length",
    "eos": "eos",
    "eos_token": "eos",
    "stop_sequence": "delimiter",
}


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
        ModelError: no choice, a refusal, no usage or an impossible one, a finish reason other
            than "stop" and those of ``_ENDED_BY``, or a value of another kind than it should be.
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
    except UNREADABLE as failure:
        raise make_unreadable_error(failure, reply) from failure


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
        message = choice["message"]
        text = check_text(message.get("content") or "")
        finish_reason = choice["finish_reason"]
    except (KeyError, IndexError, TypeError, AttributeError) as failure:
        raise ModelError(f"a reply without a choice: {str(reply)[:300]!r}") from failure
    entries = (choice.get("logprobs") or {}).get("content") or []
    make = partial(
        make_completion,
        reply,
        counts=("prompt_tokens", "completion_tokens"),
        entries=entries,
        finish_reason=finish_reason,
        request_id=request_id,
        latency_s=latency_s,
        retries=retries,
    )
    with billing(lambda: make(text=text, ended_by="eos")):
        if message.get("refusal") and not text:
            raise make_refusal_error(message["refusal"])
        if finish_reason != "stop" and str(finish_reason) not in _ENDED_BY:
            raise ModelError(
                f"a reply that ended by {finish_reason!r}, where one of stop, "
                f"{', '.join(_ENDED_BY)} was expected"
            )
    completion = make(text=text.removeprefix(echoed), ended_by=_ENDED_BY.get(finish_reason, "eos"))
    if finish_reason != "stop":
        return completion
    ended_by = _read_stop(choice, entries, completion.completion_tokens, request.stop)
    return replace(completion, ended_by=ended_by)


def read_text_score(reply: Any, retries: int) -> TextScore:
    """Return the score of the prompt of a decoded ``/v1/completions`` reply.

    vLLM gives one entry for each prompt token: null for the first, then a mapping with the token
    that stands there as its one key. Raises ModelError for any other reply.
    """
    try:
        entries = reply["choices"][0].get("prompt_logprobs")
    except (LookupError, TypeError, AttributeError) as failure:
        raise ModelError(f"a reply without a choice: {str(reply)[:300]!r}") from failure
    if not isinstance(entries, list) or not entries:
        raise ModelError(
            f"a reply without log-probabilities of the prompt (prompt_logprobs is {entries!r}): "
            "this engine does not give them; ask one that does (--engine vllm)"
        )
    try:
        values = [_read_only_logprob(entry) for entry in entries[1:]]
    except UNREADABLE as failure:
        raise ModelError(
            f"a prompt token's log-probability cannot be read ({type(failure).__name__}: "
            f"{failure}): {str(entries)[:300]!r}"
        ) from failure
    return TextScore(tokens=len(entries), logprob=min(0.0, sum(values)), retries=retries)


def _read_only_logprob(entry: Any) -> float:
    (given,) = entry.values()
    if is_missing(given["logprob"]):
        raise ValueError(f"it is {given['logprob']!r}")
    return float(given["logprob"])


def _read_stop(
    choice: dict[str, Any], entries: Sequence[Any], completion_tokens: int, stop: tuple[str, ...]
) -> EndedBy:
    """Say what ended a text whose finish reason is "stop".

    vLLM names the stop string in ``stop_reason`` (None at the end mark). llama.cpp reports the end
    mark's token, but not the tokens that held a stop string: fewer tokens are reported than were
    generated. So a server that reports no token at all is taken to have met the stop string: a
    solution is rather continued once too often than cut off.
    """
    if "stop_reason" in choice:
        return "delimiter" if choice["stop_reason"] in stop else "eos"
    if not stop:
        return "eos"
    last_token = str(entries[-1].get("token", "")) if entries else ""
    if any(string in last_token for string in stop) or len(entries) < completion_tokens:
        return "delimiter"
    return "eos"
