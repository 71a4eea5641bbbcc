"""An OpenAI-style server on loopback that plays a script, one act per request."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from email.message import Message as EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from routerlib.models.scripted import build_completion
from routerlib.records import Completion, Message, Request, Sampling


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
        return Request(
            tuple(Message(m["role"], m["content"]) for m in self.body["messages"]),
            Sampling(max_tokens=self.body["max_tokens"], top_logprobs=self.body["top_logprobs"]),
            tuple(self.body.get("stop", ())),
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
