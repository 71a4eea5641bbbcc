"""Client of servers that speak ``/v1/chat/completions`` (vLLM, llama.cpp, OpenAI), and, for the
log-probabilities of a text, vLLM's ``/v1/completions``.

Invariants: the constructor does no I/O and reads no key; every failed try is counted; token counts
come from the server's own ``usage`` and are never guessed; an answer that says it is another
model's is an error. JSON goes out and comes back without the ``openai`` package's typed objects:
checking those of each message and making those of 1,000 log-probabilities would cost more than
the request itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from routerlib.models.chat_reply import read_completion, read_text_score
from routerlib.models.served import ServedModel
from routerlib.models.transport import Sdk
from routerlib.records import Completion, Message, Request, TextScore
from routerlib.steps import cut_at_stops

Prefill = Literal["continue_final_message", "plain"]


@dataclass(slots=True)
class OpenAICompatibleModel(ServedModel):
    """One model behind an OpenAI-compatible server. Besides the
    arguments of ``ServedModel``, whose ``base_url`` is the address up to and with ``/v1``:

    Args:
        prefill: how the server is told to continue a trailing assistant message. vLLM needs
            ``continue_final_message``; llama.cpp does it unasked (``plain``), and repeats the
            prefill at the start of its text, which is taken off.
        takes_seed: whether a request's seed is sent; some servers fail on one.
        takes_temperature: whether its temperature is; some reasoning models refuse it.
        takes_stops: whether its stop strings are. Where they are not, the model writes on, the text
            is cut here, and every token that was written is billed.
        most_logprobs: alternatives of a token that may be asked for; 0 asks for no
            log-probabilities at all.
        limit_field: what the body calls the most tokens to write: OpenAI's reasoning models take
            ``max_completion_tokens`` alone.
        thinking_tokens: what a reasoning model may write in thought, on top of a request's limit.
    """

    sdk: ClassVar[Sdk] = "openai"

    prefill: Prefill = "continue_final_message"
    takes_seed: bool = True
    takes_temperature: bool = True
    takes_stops: bool = True
    most_logprobs: int = 20
    limit_field: str = "max_tokens"
    thinking_tokens: int = 0

    async def complete(self, request: Request) -> Completion:
        """Return the model's answer; see ``Model.complete`` for the errors."""
        answer = await self._transport.send("/chat/completions", self.build_body(request))
        with answer.reading():
            completion = read_completion(
                answer.reply,
                request,
                echoed=_read_prefill(request) if self.prefill == "plain" else "",
                request_id=answer.header_id,
                latency_s=answer.latency_s,
                retries=answer.retries,
            )
            self._check_returned(completion.returned_model)
        completion = replace(completion, doubtful_tries=answer.doubtful_tries)
        return completion if self.takes_stops else cut_at_stops(completion, request.stop)

    def build_body(self, request: Request) -> dict[str, Any]:
        """Return the JSON body of one request, with what this model takes."""
        body = build_body(request, self.model_name, self.prefill)
        refused = {
            "seed": not self.takes_seed,
            "temperature": not self.takes_temperature,
            "stop": not self.takes_stops,
            "logprobs": self.most_logprobs == 0,
            "top_logprobs": self.most_logprobs == 0,
        }
        body = {key: value for key, value in body.items() if not refused.get(key, False)}
        if "top_logprobs" in body:
            body["top_logprobs"] = min(body["top_logprobs"], self.most_logprobs)
        body[self.limit_field] = body.pop("max_tokens") + self.thinking_tokens
        return body

    async def score_text(self, text: str) -> TextScore:
        """Return how well the model predicts a text; see ``TextScorer.score_text``. It takes vLLM's
        own field ``prompt_logprobs``."""
        body = {
            "model": self.model_name,
            "prompt": text,
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
        }
        answer = await self._transport.send("/completions", body)
        with answer.reading():
            score = read_text_score(answer.reply, answer.retries)
            self._check_returned(str(answer.reply.get("model") or ""))
        return score


def build_body(request: Request, model_name: str, prefill: Prefill) -> dict[str, Any]:
    """Return the JSON body of one request."""
    messages = list_messages(request)
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model_name,
        "messages": messages,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "logprobs": True,
        "top_logprobs": sampling.top_logprobs,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if prefill == "continue_final_message" and messages and messages[-1]["role"] == "assistant":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def list_messages(request: Request) -> list[dict[str, str]]:
    """Return a request's messages as JSON. An empty trailing assistant message is left out: there
    is nothing to continue."""
    messages: Sequence[Message] = request.messages
    if messages and messages[-1].role == "assistant" and not messages[-1].content:
        messages = messages[:-1]
    return [{"role": message.role, "content": message.content} for message in messages]


def _read_prefill(request: Request) -> str:
    last = request.messages[-1] if request.messages else None
    return last.content if last is not None and last.role == "assistant" else ""
