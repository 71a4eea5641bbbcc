"""Client of servers that speak ``/v1/messages`` (Anthropic; vLLM and llama.cpp do too).

Invariants: as of the OpenAI-compatible client; besides, this protocol has no log-probabilities and
no seed, so a completion has none of the first and a request's seed is not sent.

Anthropic refuses what stepwise work asks for all the time: a stop sequence of white space alone,
and a last assistant message that ends in white space. The first is not sent: the model writes on
to the end or to ``max_tokens``, the text is cut here, and every token that was written is billed.
Of the second the white space is taken off, and off the answer where the model repeats it. Claude
4.6 and later refuse any last message of the assistant (status 400), which is a ``ModelError``.

llama.cpp, told to continue a last message, sends it whole and repeats it at the start of its text;
and where a stop sequence ended the text it says so in ``stop_sequence`` and not in ``stop_reason``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from routerlib.errors import ModelError
from routerlib.models.reply_values import (
    UNREADABLE,
    billing,
    check_counts,
    check_text,
    clean_text,
    make_unreadable_error,
    read_reasoning,
)
from routerlib.models.served import ServedModel
from routerlib.models.transport import Sdk
from routerlib.records import Completion, EndedBy, Request
from routerlib.steps import cut_at_stops

_ENDED_BY: dict[str, EndedBy] = {
    "end_turn": "eos",
    "stop_sequence": "delimiter",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}


@dataclass(slots=True)
class AnthropicModel(ServedModel):
    """One model behind a server that speaks Anthropic's Messages protocol. Besides the
    arguments of ``ServedModel``, whose ``base_url`` is the address without ``/v1``:

    Args:
        takes_temperature: whether a request's temperature is sent; some reasoning models refuse it.
        takes_blank_stops: whether stop sequences of white space alone are sent: Anthropic refuses
            them, local servers do not.
        repeats_prefill: whether the server's text begins with the prefill (llama.cpp's does). Then
            the prefill is sent with the white space at its end.
        thinking_tokens: what the model may write in thought, on top of a request's limit.
    """

    sdk: ClassVar[Sdk] = "anthropic"

    takes_temperature: bool = True
    takes_blank_stops: bool = False
    repeats_prefill: bool = False
    thinking_tokens: int = 0

    async def complete(self, request: Request) -> Completion:
        """Return the model's answer; see ``Model.complete`` for the errors."""
        sent_stops = tuple(s for s in request.stop if self.takes_blank_stops or s.strip())
        body = build_message_body(request, self.model_name, sent_stops, self.repeats_prefill)
        body["max_tokens"] += self.thinking_tokens
        if not self.takes_temperature:
            del body["temperature"]
        answer = await self._transport.send("/v1/messages", body)
        with answer.reading():
            completion = read_message(
                answer.reply,
                request,
                sent_stops,
                repeats_prefill=self.repeats_prefill,
                request_id=answer.header_id,
                latency_s=answer.latency_s,
                retries=answer.retries,
            )
            self._check_returned(completion.returned_model)
        return replace(completion, doubtful_tries=answer.doubtful_tries)


def build_message_body(
    request: Request,
    model_name: str,
    stop_sequences: Sequence[str],
    keeps_blank_end: bool = False,
) -> dict[str, Any]:
    """Return the JSON body of one request. System messages go into a field of their own, and what
    is left of a last assistant message without the white space at its end, unless that is nothing;
    with it where the server ``keeps_blank_end``.

    Raises ModelError for a request without a user's message.
    """
    system = [message.content for message in request.messages if message.role == "system"]
    messages = [
        {"role": message.role, "content": message.content}
        for message in request.messages
        if message.role != "system"
    ]
    if messages and messages[-1]["role"] == "assistant":
        begun = messages[-1]["content"]
        messages[-1]["content"] = begun if keeps_blank_end else begun.rstrip()
        if not begun.strip():
            messages.pop()
    if not messages:
        raise ModelError("a request without a user's message: the Messages protocol needs one")
    body: dict[str, Any] = {
        "model": model_name,
        "max_tokens": request.sampling.max_tokens,
        "messages": messages,
        "temperature": request.sampling.temperature,
    }
    if system:
        body["system"] = "\n\n".join(system)
    if stop_sequences:
        body["stop_sequences"] = list(stop_sequences)
    return body


def read_message(
    reply: Any,
    request: Request,
    sent_stops: Sequence[str],
    *,
    repeats_prefill: bool = False,
    request_id: str | None,
    latency_s: float,
    retries: int,
) -> Completion:
    """Return the text of a decoded reply, cut at the first of the request's stop strings that was
    not among ``sent_stops``, and without the prefill where the server repeats it; the tokens are
    all that were written. Thinking is billed and left out.

    Raises:
        ModelError: no content, no usage or one that cannot be right, content that is neither text
            nor thinking, a stop reason that ends no text (a refusal, a tool's call), or a value of
            another kind than it should be.
    """
    try:
        text = _read_text(reply["content"])
        stop_reason = reply["stop_reason"]
        usage = reply["usage"]
        uncached, written = (_read_count(usage[name]) for name in ("input_tokens", "output_tokens"))
        made, cached = (
            _read_count(usage.get(f"cache_{kind}_input_tokens") or 0)
            for kind in ("creation", "read")
        )
        thought = read_reasoning(usage, "output_tokens_details", "thinking_tokens")
    except UNREADABLE as failure:
        raise make_unreadable_error(failure, reply) from failure

    def make(ended_by: EndedBy) -> Completion:
        check_counts(text, uncached + made + cached, written, tokens_seen=thought or 0)
        return Completion(
            text=text.removeprefix(_read_repeated(request, repeats_prefill)),
            ended_by=ended_by,
            prompt_tokens=uncached + made + cached,
            completion_tokens=written,
            reasoning_tokens=thought,
            cached_prompt_tokens=cached,
            token_logprobs=(),
            first_token_top=(),
            finish_reason=clean_text(stop_reason),
            returned_model=clean_text(reply.get("model")),
            request_id=request_id or clean_text(reply.get("id")),
            latency_s=latency_s,
            retries=retries,
        )

    with billing(lambda: make("eos")):
        if not isinstance(stop_reason, str) or stop_reason not in _ENDED_BY:
            raise ModelError(
                f"a reply that ended by {stop_reason!r}, where one of {', '.join(_ENDED_BY)} was "
                "expected"
            )
    stopped = reply.get("stop_sequence") in sent_stops
    completion = make("delimiter" if stopped else _ENDED_BY[stop_reason])
    return cut_at_stops(completion, (stop for stop in request.stop if stop not in sent_stops))


def _read_text(content: Any) -> str:
    parts = []
    for block in content:
        if block["type"] == "text":
            parts.append(block["text"])
        elif block["type"] not in ("thinking", "redacted_thinking"):
            raise ValueError(f"content of type {block['type']!r}")
    return check_text("".join(parts))


def _read_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"a token count is {value!r}")
    return value


def _read_repeated(request: Request, repeats_prefill: bool) -> str:
    """What an answer may begin with and is no part of it: the prefill where the server repeats it,
    else the white space that was taken off the prefill; empty where there is none."""
    last = request.messages[-1]
    if last.role != "assistant":
        return ""
    return last.content if repeats_prefill else last.content[len(last.content.rstrip()) :]
