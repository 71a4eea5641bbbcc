"""Client of servers that speak ``/v1/chat/completions`` (vLLM, llama.cpp, OpenAI), and, for the
log-probabilities of a text, vLLM's ``/v1/completions``.

Invariants: the constructor does no I/O and reads no key; every failed try is counted; token counts
come from the server's own ``usage`` and are never guessed; an answer that says it is another
model's is an error. JSON goes out and comes back without the ``openai`` package's typed objects:
checking those of each message and making those of 1,000 log-probabilities would cost more than
the request itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from routerlib.errors import ModelError, TransientModelError
from routerlib.models.chat_reply import read_completion, read_text_score
from routerlib.records import Completion, Message, Request, TextScore

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Prefill = Literal["continue_final_message", "plain"]


_TRANSIENT_STATUS = (408, 429)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before try 1, 2, ...: ``first_delay_s * growth**(try - 1)``, at most
    ``longest_delay_s``, less a random share of up to ``jitter`` (0 to 1) of itself. A server's
    ``Retry-After`` is a lower bound of the wait, itself at most ``longest_delay_s``."""

    first_delay_s: float = 0.5
    growth: float = 2.0
    longest_delay_s: float = 30.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if self.first_delay_s < 0 or self.longest_delay_s < 0 or self.growth < 1:
            raise ValueError(f"{self}: delays must be >= 0 and growth >= 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter}: choose a share between 0 and 1")

    def compute_delay_s(
        self, retry: int, retry_after_s: float | None, generator: random.Random
    ) -> float:
        """Return the seconds to wait before retry number ``retry`` (the first one is 1)."""
        longest = min(self.longest_delay_s, self.first_delay_s * self.growth ** (retry - 1))
        delay = longest * (1 - self.jitter * generator.random())
        return max(delay, min(retry_after_s or 0.0, self.longest_delay_s))


@dataclass(frozen=True, slots=True)
class _Answer:
    """A decoded reply, the request's id in its headers, and what it took."""

    reply: Any
    header_id: str | None
    latency_s: float
    retries: int


@dataclass(slots=True)
class OpenAICompatibleModel:
    """One model behind an OpenAI-compatible server.

    Args:
        id: the ``ModelCard.id`` under which answers are recorded.
        base_url: the server's address up to and with ``/v1``.
        model_name: the name that the server knows the model by.
        api_key_env: environment variable that holds the key, read at the first call; None for a
            server that wants no key.
        timeout_s: longest silence of the server within one try.
        max_retries: tries after the first one.
        prefill: how the server is told to continue a trailing assistant message. vLLM needs
            ``continue_final_message``; llama.cpp does it unasked (``plain``), and repeats the
            prefill at the start of its text, which is taken off.
        backoff: waits between tries.
        max_in_flight: open connections; further requests wait for one (and ``latency_s`` holds
            that wait).
        seed: of the jitter's generator.
        also_named: further names that the server may answer under, whole. ``model_name`` itself
            and its dated snapshots (``gpt-x-2025-01-01`` of ``gpt-x``) are right without them.
        takes_seed: whether a request's seed is sent; some servers fail on one.
    """

    id: str
    base_url: str
    model_name: str
    api_key_env: str | None = None
    timeout_s: float = 600.0
    max_retries: int = 4
    prefill: Prefill = "continue_final_message"
    backoff: Backoff = field(default_factory=Backoff)
    max_in_flight: int = 128
    seed: int = 0
    also_named: tuple[str, ...] = ()
    takes_seed: bool = True
    _client: AsyncOpenAI | None = field(default=None, init=False, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False, repr=False)
    _generator: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.timeout_s <= 0 or self.max_in_flight < 1:
            raise ValueError(f"{self}: max_retries >= 0, timeout_s > 0, max_in_flight >= 1 needed")
        self._generator = random.Random(self.seed)

    async def complete(self, request: Request) -> Completion:
        """Return the model's answer; see ``Model.complete`` for the errors."""
        body = build_body(request, self.model_name, self.prefill)
        if not self.takes_seed:
            body.pop("seed", None)
        answer = await self._send("/chat/completions", body)
        completion = read_completion(
            answer.reply,
            request,
            echoed=_read_prefill(request) if self.prefill == "plain" else "",
            request_id=answer.header_id,
            latency_s=answer.latency_s,
            retries=answer.retries,
        )
        self._check_returned_model(completion.returned_model)
        return completion

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
        answer = await self._send("/completions", body)
        score = read_text_score(answer.reply, answer.retries)
        self._check_returned_model(str(answer.reply.get("model") or ""))
        return score

    async def _send(self, path: str, body: Mapping[str, Any]) -> _Answer:
        """Post a body until it is answered; retries are bounded and counted."""
        client = self._get_client()
        for retry in range(self.max_retries + 1):
            started = time.perf_counter()
            try:
                reply, header_id = await self._post(client, path, body)
            except _RetryableError as failure:
                if retry == self.max_retries:
                    raise TransientModelError(
                        f"{self.model_name} at {self.base_url}: {failure.reason}; gave up after "
                        f"{retry} retries. Check the server, or raise max_retries or timeout_s"
                    ) from failure.__cause__
                delay = self.backoff.compute_delay_s(
                    retry + 1, failure.retry_after_s, self._generator
                )
                await asyncio.sleep(delay)
                continue
            return _Answer(reply, header_id, time.perf_counter() - started, retry)
        raise AssertionError("unreachable: the last try returns or raises")

    def _check_returned_model(self, returned: str) -> None:
        if not is_same_model(returned, self.model_name, self.also_named):
            raise ModelError(
                f"{self.base_url} was asked for model {self.model_name!r} and answered as "
                f"{returned!r}: ask for the model by the name of its own, or, if both are one "
                "model, give the second name in also_named (routerlib collect: --small-alias, "
                "--large-alias)"
            )

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    async def _post(
        self, client: AsyncOpenAI, path: str, body: Mapping[str, Any]
    ) -> tuple[Any, str | None]:
        """Send one try; return the decoded reply and the server's request id, if it sent one."""
        import httpx2
        import openai

        try:
            response = await client.post(path, cast_to=httpx2.Response, body=body)
        except openai.APIStatusError as failure:
            reason = f"status {failure.status_code}: {failure.response.text[:300]}"
            if failure.status_code in _TRANSIENT_STATUS or failure.status_code >= 500:
                raise _RetryableError(
                    reason, _read_retry_after(failure.response.headers)
                ) from failure
            raise ModelError(
                f"{self.model_name} at {self.base_url} refused the request with {reason}"
            ) from failure
        except openai.APIConnectionError as failure:
            cause = failure.__cause__ or failure
            raise _RetryableError(f"{type(cause).__name__}: {cause}", None) from failure
        try:
            reply = json.loads(response.content)
        except ValueError as failure:
            start = response.text[:200]
            raise _RetryableError(
                f"answered with what is not JSON: {start!r} (cut off on its way, or base_url is "
                "not the address of an OpenAI-compatible server, with /v1)",
                None,
            ) from failure
        return reply, response.headers.get("x-request-id")

    def _get_client(self) -> AsyncOpenAI:
        """Return the client of the running event loop; connections cannot move between loops."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client = self._make_client()
            self._loop = loop
        return self._client

    def _make_client(self) -> AsyncOpenAI:
        import httpx2  # the transport of the openai package
        import openai

        key = "none"
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env, "")
            if not key:
                raise ModelError(
                    f"{self.id}: environment variable {self.api_key_env} holds no key; set it, or "
                    f"give api_key_env=None for a server that wants none"
                )
        timeout = openai.Timeout(self.timeout_s, pool=None)
        transport = openai.DefaultAsyncHttpxClient(
            timeout=timeout,
            limits=httpx2.Limits(
                max_connections=self.max_in_flight,
                max_keepalive_connections=self.max_in_flight,
                keepalive_expiry=3.0,  # below the 5 s after which vLLM closes an idle connection
            ),
            trust_env=not _is_loopback(self.base_url),  # a proxy cannot reach this machine's ports
        )
        return openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=key,
            timeout=timeout,
            max_retries=0,  # retried here, where they are counted
            http_client=transport,
        )


def build_body(request: Request, model_name: str, prefill: Prefill) -> dict[str, Any]:
    """Return the JSON body of one request.

    An empty trailing assistant message is left out: there is nothing to continue.
    """
    messages: Sequence[Message] = request.messages
    if messages and messages[-1].role == "assistant" and not messages[-1].content:
        messages = messages[:-1]
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model_name,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
        "logprobs": True,
        "top_logprobs": sampling.top_logprobs,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if prefill == "continue_final_message" and messages and messages[-1].role == "assistant":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


_SNAPSHOT = re.compile(r"[-@:](\d{4}-\d{2}-\d{2}|\d{3,8})")


def is_same_model(returned: str, requested: str, also_named: Sequence[str] = ()) -> bool:
    """Say whether the name in a reply is that of the model that was asked for: the requested name,
    a dated or numbered snapshot of it, or one of ``also_named``; case does not count.

    >>> [is_same_model(name, "gpt-x") for name in ("GPT-X", "gpt-x-2025-01-01", "gpt-x-mini")]
    [True, True, False]
    """
    found, wanted = returned.casefold(), requested.casefold()
    if found.startswith(wanted):
        rest = found.removeprefix(wanted)
        if not rest or _SNAPSHOT.fullmatch(rest):
            return True
    return found in {name.casefold() for name in also_named}


def _read_prefill(request: Request) -> str:
    last = request.messages[-1] if request.messages else None
    return last.content if last is not None and last.role == "assistant" else ""


class _RetryableError(Exception):
    """One try failed in a way that may pass."""

    def __init__(self, reason: str, retry_after_s: float | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


def _read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a ``Retry-After`` header; None for a date or no header."""
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
