"""Client of servers that speak ``/v1/responses``: OpenAI has models that no other API reaches.

Invariants: as of the OpenAI-compatible client; besides, this API has no stop sequences and no seed.
So a model writes on past a stop string, the text is cut here, and every token that was written is
billed. Nothing is kept at the provider (``store``).

It continues no begun answer either: it takes the assistant's words at the end of a request for an
earlier turn and begins a new one. Such a request is a ``ModelError`` and is not sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from routerlib.errors import ModelError, TransientModelError
from routerlib.models.openai_compatible import list_messages
from routerlib.models.reply_values import (
    UNREADABLE,
    billing,
    check_text,
    make_completion,
    make_refusal_error,
    make_unreadable_error,
)
from routerlib.models.served import ServedModel
from routerlib.models.transport import Sdk
from routerlib.records import Completion, EndedBy, Request
from routerlib.steps import cut_at_stops

LEAST_TOKENS = 16
"""The API refuses a lower limit, so a request for fewer tokens may be answered with so many."""

INCLUDE_LOGPROBS = "message.output_text.logprobs"

_ENDED_BY: dict[str, EndedBy] = {"completed": "eos", "max_output_tokens": "length"}
_PASSING = ("server_error", "rate_limit_exceeded")


@dataclass(slots=True)
class OpenAIResponsesModel(ServedModel):
    """One model behind a server that speaks OpenAI's Responses API. Besides the
    arguments of ``ServedModel``, whose ``base_url`` is the address up to and with ``/v1``:

    Args:
        takes_temperature: whether a request's temperature is sent; reasoning models refuse it.
        most_logprobs: alternatives of a token that may be asked for; 0 asks for no
            log-probabilities at all, which reasoning models refuse.
        thinking_tokens: what a reasoning model may write in thought, on top of a request's limit.
    """

    sdk: ClassVar[Sdk] = "openai"

    takes_temperature: bool = True
    most_logprobs: int = 20
    thinking_tokens: int = 0

    async def complete(self, request: Request) -> Completion:
        """Return the model's answer; see ``Model.complete`` for the errors."""
        answer = await self._transport.send("/responses", self.build_body(request))
        with answer.reading():
            completion = read_response(
                answer.reply,
                request,
                request_id=answer.header_id,
                latency_s=answer.latency_s,
                retries=answer.retries,
            )
            self._check_returned(completion.returned_model)
        return replace(completion, doubtful_tries=answer.doubtful_tries)

    def build_body(self, request: Request) -> dict[str, Any]:
        """Return the JSON body of one request, with what this model takes. Raises ModelError for a
        begun answer."""
        messages = list_messages(request)
        if messages and messages[-1]["role"] == "assistant":
            raise ModelError(
                f"a request that ends with the assistant's {messages[-1]['content'][-80:]!r}: the "
                "Responses API continues no begun answer. Ask for the next step by dialogue, "
                "continue_turn or one_shot (routerlib collect: --small-continuation, "
                "--large-continuation)"
            )
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model_name,
            "input": messages,
            "max_output_tokens": max(LEAST_TOKENS, sampling.max_tokens + self.thinking_tokens),
            "store": False,
        }
        if self.takes_temperature:
            body["temperature"] = sampling.temperature
        if self.most_logprobs > 0:
            body["include"] = [INCLUDE_LOGPROBS]
            body["top_logprobs"] = min(sampling.top_logprobs, self.most_logprobs)
        return body


def read_response(
    reply: Any,
    request: Request,
    *,
    request_id: str | None,
    latency_s: float,
    retries: int,
) -> Completion:
    """Return the text of a decoded reply, cut at the first of the request's stop strings; the
    tokens are all that were written. Thought is billed and left out.

    Raises:
        ModelError: a failure or a refusal, no usage or one that cannot be right, an end other than
            the model's own and the limit, output that is neither a message nor thought, or a value
            of another kind than it should be.
        TransientModelError: a failure that the provider says may pass.
    """
    make = partial(
        make_completion,
        reply,
        counts=("input_tokens", "output_tokens"),
        request_id=request_id,
        latency_s=latency_s,
        retries=retries,
    )
    try:
        status = reply["status"]
        with billing(lambda: make(text="", entries=(), finish_reason=status, ended_by="eos")):
            finish_reason = _read_finish_reason(reply)
            parts = _list_text_parts(reply["output"])
        completion = make(
            text=check_text("".join(part["text"] for part in parts)),
            entries=_list_tokens(parts),
            finish_reason=finish_reason,
            ended_by=_ENDED_BY[finish_reason],
        )
    except UNREADABLE as failure:
        raise make_unreadable_error(failure, reply) from failure
    return cut_at_stops(completion, request.stop)


def _read_finish_reason(reply: Any) -> str:
    """Return "completed" or why a text is incomplete. Raises ModelError for what ends no text."""
    status = reply["status"]
    if status == "failed":
        error = reply.get("error") or {}
        code, said = error.get("code"), str(error.get("message"))[:300]
        kind = TransientModelError if code in _PASSING else ModelError
        raise kind(
            f"a reply that failed with {code!r}: {said!r}. "
            + ("Ask again later" if code in _PASSING else "Change the request, or the model")
        )
    reason = status
    if status == "incomplete":
        reason = (reply.get("incomplete_details") or {}).get("reason")
    if reason not in _ENDED_BY:
        raise ModelError(
            f"a reply that ended by {reason!r} (status {status!r}), where one of "
            f"{', '.join(_ENDED_BY)} was expected"
        )
    return str(reason)


def _list_text_parts(output: Any) -> list[Any]:
    """Return the parts of the answer's text, in order.

    Some models say what they are about to do before they answer, in messages whose phase is
    "commentary": those are the answer only where there is no other.
    """
    answer: list[Any] = []
    commentary: list[Any] = []
    for item in output:
        if item["type"] == "message":
            for part in item["content"]:
                _check_part(part)
            (commentary if item.get("phase") == "commentary" else answer).extend(item["content"])
        elif item["type"] != "reasoning":
            raise ValueError(f"output of type {item['type']!r}")
    return answer or commentary


def _check_part(part: Any) -> None:
    if part["type"] == "refusal":
        raise make_refusal_error(part["refusal"])
    if part["type"] != "output_text":
        raise ValueError(f"content of type {part['type']!r}")


def _list_tokens(parts: Sequence[Any]) -> list[Any]:
    """Return the listed tokens of all parts, none where a part lists none of its own."""
    if any(part["text"] and not part.get("logprobs") for part in parts):
        return []
    return [token for part in parts for token in part.get("logprobs") or []]
