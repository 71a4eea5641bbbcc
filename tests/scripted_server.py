"""An OpenAI-style server on loopback that plays a script, one act per request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message as EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from routerlib.models.protocol import Model
from routerlib.models.scripted import build_completion
from routerlib.records import Completion, Message, Request, Sampling


def ask_once(model: Model, request: Request) -> Completion:
    """The answer to one request of a client that is closed after it."""

    async def call() -> Completion:
        try:
            return await model.complete(request)
        finally:
            await model.aclose()

    return asyncio.run(call())


def entry(token: str, logprob: float | None, *top: tuple[str, float]) -> dict[str, Any]:
    alternatives = [{"token": text, "logprob": value} for text, value in top]
    return {"token": token, "logprob": logprob, "top_logprobs": alternatives}


def build_reply(text: str = "It is 2.", **changes: Any) -> dict[str, Any]:
    """A reply as vLLM writes it; ``choice_*`` changes the choice, the rest the reply. None of
    ``stop_reason="absent"`` and the like: a value of ``...`` removes the key."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": {
            "content": [
                entry("It", -0.5, ("So", -1.5), ("It", -0.5)),
                entry(" is", -0.25),
                entry(" 2", -0.1),
                entry(".\n", -0.05),
            ]
        },
        "finish_reason": "stop",
        "stop_reason": "\n",
    }
    reply: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "served-name",
        "choices": [choice],
        "usage": {"prompt_tokens": 30, "completion_tokens": 4, "prompt_tokens_details": None},
    }
    for name, value in changes.items():
        target, key = (choice, name[7:]) if name.startswith("choice_") else (reply, name)
        if value is ...:
            del target[key]
        else:
            target[key] = value
    return reply


def build_reply_of(written: Completion) -> dict[str, Any]:
    """A completion in the form that vLLM gives it."""
    tokens = [entry("token", value) for value in written.token_logprobs]
    tokens[0] = entry("token", written.token_logprobs[0], *written.first_token_top)
    return build_reply(
        written.text,
        id=written.request_id,
        model=written.returned_model,
        choice_logprobs={"content": tokens},
        choice_finish_reason=written.finish_reason,
        choice_stop_reason="\n" if written.ended_by == "delimiter" else None,
        usage={
            "prompt_tokens": written.prompt_tokens,
            "completion_tokens": written.completion_tokens,
        },
    )


def build_text_score_reply(model: str, *logprobs: float | None) -> dict[str, Any]:
    """A reply of ``/v1/completions`` as vLLM writes it when it is asked for ``prompt_logprobs``."""
    entries = [
        None
        if value is None
        else {str(number): {"logprob": value, "rank": 1, "decoded_token": "x"}}
        for number, value in enumerate(logprobs)
    ]
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": model,
        "choices": [
            {"index": 0, "text": " How", "finish_reason": "length", "prompt_logprobs": entries}
        ],
        "usage": {"prompt_tokens": len(entries), "completion_tokens": 1},
    }


def build_response(text: str = "It is 2.", **changes: Any) -> dict[str, Any]:
    """A reply of ``/v1/responses`` as OpenAI writes it: a thought, which it does not show, and a
    message. ``text_*`` changes the message's text part, ``usage_*`` the counts, the rest the reply;
    a value of ``...`` removes the key."""
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    usage: dict[str, Any] = {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 24, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 39,
    }
    reply: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "served-name",
        "output": [{"type": "reasoning", "id": "rs_1", "summary": []}, build_message(part)],
        "usage": usage,
        "store": False,
    }
    for name, value in changes.items():
        kind, _, rest = name.partition("_")
        places = {"text": (part, rest), "usage": (usage, rest)} if rest else {}
        target, key = places.get(kind, (reply, name))
        if value is ...:
            del target[key]
        else:
            target[key] = value
    counts = [usage.get(f"{part}_tokens") for part in ("input", "output")]
    if "usage_total_tokens" not in changes and all(isinstance(count, int) for count in counts):
        usage["total_tokens"] = sum(counts)
    return reply


def build_message(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A message among the output of ``/v1/responses``."""
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": list(parts),
        **more,
    }


class Handler(BaseHTTPRequestHandler):
    """Plays the script of its server, one act per request; the last act repeats."""

    protocol_version = "HTTP/1.1"
    server: ScriptedServer
    body: dict[str, Any]

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(self.body)
            self.server.headers_seen.append(self.headers)
        self.server.acts[min(number, len(self.server.acts) - 1)](self)

    def read_request(self) -> Request:
        """What the client was asked for."""
        body = self.body
        return Request(
            tuple(Message(m["role"], m["content"]) for m in body.get("messages") or body["input"]),
            Sampling(
                max_tokens=body.get("max_tokens") or body["max_output_tokens"],
                top_logprobs=body.get("top_logprobs", 0),
            ),
            tuple(body.get("stop", ())),
        )

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


Act = Callable[[Handler], None]


class ScriptedServer(ThreadingHTTPServer):
    """Listens on a free port of loopback and keeps what it was asked."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.acts: list[Act] = [reply_with(build_reply())]
        self.bodies: list[dict[str, Any]] = []
        self.headers_seen: list[EmailMessage] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @contextlib.contextmanager
    def serving(self) -> Iterator[ScriptedServer]:
        """Answer, in a thread, until the context is left."""
        with self:
            thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self.shutdown()
                thread.join()


def reply_with(reply: Any, **headers: str) -> Act:
    return lambda handler: handler.answer(200, json.dumps(reply).encode(), **headers)


def fail_with(status: int, **headers: str) -> Act:
    return lambda handler: handler.answer(status, b'{"error": {"message": "no"}}', **headers)


def answer_with(write: Callable[[Request], str]) -> Act:
    """Answer as a model would that continues a request with ``write(request)``."""

    def act(handler: Handler) -> None:
        request = handler.read_request()
        written = build_completion(write(request), request, handler.body["model"])
        reply_with(build_reply_of(written))(handler)

    return act


def refuse_with(status: int, message: str) -> Act:
    return lambda handler: handler.answer(
        status,
        json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode(),
    )


@dataclass
class ResponsesApi:
    """OpenAI's ``/v1/responses`` and nothing else, refusals in its own words: of a model that goes
    on with ``write(request)`` to the end or the limit. One that ``reasons`` thinks three tokens
    first, and takes neither a temperature nor a request for log-probabilities."""

    write: Callable[[Request], str]
    reasons: bool = False

    def act(self, handler: Handler) -> None:
        body = handler.body
        if not handler.path.endswith("/responses"):
            only = "This model is only supported in v1/responses and not in v1/chat/completions."
            refuse_with(404, only)(handler)
            return
        refusal = self._find_refusal(body)
        if refusal is not None:
            refuse_with(400, refusal)(handler)
            return
        request = handler.read_request()
        written = build_completion(self.write(request), request, body["model"])
        tokens = [entry(text, -0.5, *written.first_token_top) for text in written.token_texts]
        is_cut = written.ended_by == "length"
        thought_tokens = 3 if self.reasons else 0
        reply = build_response(
            written.text,
            model=written.returned_model,
            status="incomplete" if is_cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
            text_logprobs=tokens if "include" in body else [],
            usage_input_tokens=written.prompt_tokens,
            usage_input_tokens_details={"cached_tokens": 0},
            usage_output_tokens=written.completion_tokens + thought_tokens,
            usage_output_tokens_details={"reasoning_tokens": thought_tokens},
        )
        reply_with(reply)(handler)

    def _find_refusal(self, body: dict[str, Any]) -> str | None:
        known = {"model", "input", "max_output_tokens", "store", "temperature", "include"}
        for name in body:
            if name not in known | {"instructions", "top_logprobs"}:
                return f"Unknown parameter: '{name}'."
        if body["max_output_tokens"] > 128_000:
            return (
                "Invalid 'max_output_tokens': integer above maximum value. Expected a value <= "
                f"128000, but got {body['max_output_tokens']} instead."
            )
        if body["max_output_tokens"] < 16:
            return (
                "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, "
                f"but got {body['max_output_tokens']} instead."
            )
        if self.reasons and "temperature" in body:
            return "Unsupported parameter: 'temperature' is not supported with this model."
        if self.reasons and ("include" in body or "top_logprobs" in body):
            return "logprobs are not supported with reasoning models."
        return None


def score_words(handler: Handler) -> None:
    """Give every word of the prompt but the first the log-probability -0.5."""
    logprobs = [None] + [-0.5] * (len(handler.body["prompt"].split()) - 1)
    reply_with(build_text_score_reply(handler.body["model"], *logprobs))(handler)


def close_mid_body(handler: Handler) -> None:
    """Say that 5000 bytes come, send a few and hang up."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "chatcmpl')
    handler.close_connection = True
