"""Posting JSON through a provider's own SDK, with retries that are bounded and counted.

Invariants: making a transport does no I/O and reads no key; the SDK's own retries are off, so every
failed try is counted here; a key never appears in an error's text.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from routerlib.errors import ModelError, TransientModelError
from routerlib.models.rate import NO_LIMIT, Pacer, Rate

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

Sdk = Literal["openai", "anthropic"]

_TIMED_OUT = 408
_TRANSIENT_STATUS = (_TIMED_OUT, 429)
_FILTERED = "content_filter"  # Azure bills the prompts that it refuses by this code
_TELLING_CHARS = 12  # fewer characters of a key are its kind: sk-proj-
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")  # of httpx2
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_OWN_HOST = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
_REQUEST_ID = {"openai": "x-request-id", "anthropic": "request-id"}
_ADDRESS = {
    "openai": "an OpenAI-compatible server, with /v1",
    "anthropic": "a server of the Messages protocol, without /v1",
}


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before try 1, 2, ...: ``first_delay_s * growth**(try - 1)``, at most
    ``longest_delay_s``, less a random share of up to ``jitter`` (0 to 1) of itself. A server's
    ``Retry-After`` is a lower bound of the wait; one above ``longest_retry_after_s`` is not waited
    for, and the call fails."""

    first_delay_s: float = 0.5
    growth: float = 2.0
    longest_delay_s: float = 30.0
    jitter: float = 0.5
    longest_retry_after_s: float = 300.0

    def __post_init__(self) -> None:
        shortest = min(self.first_delay_s, self.longest_delay_s, self.longest_retry_after_s)
        if shortest < 0 or self.growth < 1:
            raise ValueError(f"{self}: delays must be >= 0 and growth >= 1")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is {self.jitter}: choose a share between 0 and 1")

    def compute_delay_s(
        self, retry: int, retry_after_s: float | None, generator: random.Random
    ) -> float:
        """Return the seconds to wait before retry number ``retry`` (the first one is 1)."""
        longest = min(self.longest_delay_s, self.first_delay_s * self.growth ** (retry - 1))
        delay = longest * (1 - self.jitter * generator.random())
        return max(delay, retry_after_s or 0.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded reply, the request's id in its headers, and what it took: of the ``retries``,
    ``doubtful_tries`` may have been billed. ``hide_key`` takes the key out of a text."""

    reply: Any
    header_id: str | None
    latency_s: float
    retries: int
    doubtful_tries: int
    hide_key: Callable[[str], str]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Reads the reply; a ModelError that rises in it counts this try, which was answered, among
        the doubtful ones, unless it says what the reply took (``billed``). Its text holds no key
        that the reply repeats, and the errors behind it, which may, are left out."""
        try:
            yield
        except ModelError as error:
            error.doubtful_tries = self.doubtful_tries + (error.billed is None)
            error.args = (self.hide_key(str(error)),)
            raise error from None


def _read_key(variable: str) -> str:
    """Return the key in an environment variable without the white space around it, such as the line
    break of a file that it was read from."""
    return os.environ.get(variable, "").strip()


def estimate_tokens(body: Mapping[str, Any]) -> float:
    """Return about how many tokens a request counts against a limit: a token for each four bytes
    of its messages, and all that it may write."""
    asked = body.get("messages") or body.get("input") or ()
    messages = [body.get("system", ""), *(message["content"] for message in asked)]
    limit = max(body.get(name) or 0 for name in _LIMITS)
    return sum(len(str(text).encode()) for text in messages) / 4 + float(limit)


@dataclass(slots=True)
class Transport:
    """The way to one model behind one server.

    Args:
        sdk: whose client sends the requests and knows the provider's headers.
        model_name, base_url: where requests go, for the SDK and for messages of errors.
        api_key_env: environment variable that holds the key, read at the first call; None for a
            server that wants no key.
        timeout_s: longest silence of the server within one try.
        max_retries: tries after the first one.
        backoff: waits between tries; ``seed`` is of its jitter.
        max_in_flight: open connections; further requests wait for one before their turn comes.
        rate: requests and tokens per minute that are kept; tries wait for their turn.
    """

    sdk: Sdk
    model_name: str
    base_url: str
    api_key_env: str | None
    timeout_s: float
    max_retries: int
    backoff: Backoff
    max_in_flight: int
    seed: int
    rate: Rate = NO_LIMIT
    _pacer: Pacer = field(init=False, repr=False)
    _client: AsyncOpenAI | AsyncAnthropic | None = field(default=None, init=False, repr=False)
    _free: asyncio.Semaphore = field(init=False, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False, repr=False)
    _generator: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.max_retries < 0 or self.timeout_s <= 0 or self.max_in_flight < 1:
            raise ValueError(f"{self}: max_retries >= 0, timeout_s > 0, max_in_flight >= 1 needed")
        self._generator = random.Random(self.seed)
        self._pacer = Pacer(self.rate)

    async def send(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Post a body until it is answered. Raises like ``Model.complete``."""
        client = self._get_client()
        tokens = estimate_tokens(body)
        doubtful = 0
        for retry in range(self.max_retries + 1):
            try:
                async with self._free:  # first, or what was granted would be sent when one is
                    await self._pacer.wait(tokens)
                    started = time.perf_counter()
                    reply, header_id = await self._post(client, path, body)
                    latency_s = time.perf_counter() - started
            except ModelError as refusal:
                refusal.doubtful_tries += doubtful
                raise
            except _RetryableError as failure:
                doubtful += failure.is_doubtful
                remedy = self._find_end(retry, failure.retry_after_s)
                if remedy:
                    error = TransientModelError(
                        f"{self.model_name} at {self.base_url}: {failure.reason}; gave up after "
                        f"{retry} retries. {remedy}"
                    )
                    error.doubtful_tries = doubtful
                    raise error from failure.__cause__
                delay = self.backoff.compute_delay_s(
                    retry + 1, failure.retry_after_s, self._generator
                )
                await asyncio.sleep(delay)
                continue
            return Answer(reply, header_id, latency_s, retry, doubtful, self._hide_key)
        raise AssertionError("unreachable: the last try returns or raises")

    def _find_end(self, retry: int, retry_after_s: float | None) -> str:
        """Return what to do when this try was the last one, nothing when there is another."""
        if retry == self.max_retries:
            return "Check the server, or raise max_retries or timeout_s"
        if (retry_after_s or 0.0) > self.backoff.longest_retry_after_s:
            return (
                f"It asks to wait {retry_after_s:.0f} s (Retry-After), more than the "
                f"{self.backoff.longest_retry_after_s:g} s that are waited: go on after that"
            )
        return ""

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    async def _post(
        self, client: AsyncOpenAI | AsyncAnthropic, path: str, body: Mapping[str, Any]
    ) -> tuple[Any, str | None]:
        """Send one try; return the decoded reply and the server's request id, if it sent one."""
        import httpx2

        sdk = self._import_sdk()
        try:
            response = await client.post(path, cast_to=httpx2.Response, body=body)
        except sdk.APIStatusError as failure:
            said = self._hide_key(failure.response.text)[:300]
            reason = f"status {failure.status_code}: {said}"
            if _may_pass(failure.status_code):
                retry_after_s = _read_retry_after(failure.response.headers)
                # A gateway may have lost an answer, or given up on one.
                is_doubtful = failure.status_code >= 500 or failure.status_code == _TIMED_OUT
                raise _RetryableError(reason, retry_after_s, is_doubtful=is_doubtful) from None
            # The SDK's own error holds the server's words as they came, a repeated key too.
            refusal = ModelError(
                f"{self.model_name} at {self.base_url} refused the request with {reason}"
            )
            refusal.status_code = failure.status_code
            refusal.doubtful_tries = int(_FILTERED in failure.response.text)
            raise refusal from None
        except sdk.APIConnectionError as failure:
            cause = failure.__cause__ or failure
            name = type(cause).__name__
            raise _RetryableError(
                self._hide_key(f"{name}: {cause}"), None, is_doubtful=name not in _NEVER_SENT
            ) from failure
        try:
            reply = json.loads(response.content)
        except (ValueError, RecursionError) as failure:  # the latter of brackets without end
            start = self._hide_key(response.text)[:200]
            raise _RetryableError(
                f"answered with what is not JSON: {start!r} (cut off on its way, or base_url is "
                f"not the address of {_ADDRESS[self.sdk]})",
                None,
                is_doubtful=True,
            ) from failure
        error = _find_passing_error(reply)
        if error is not None:
            raise _RetryableError(
                f"answered with the error {self._hide_key(str(error))[:300]}",
                _read_retry_after(response.headers),
                is_doubtful=True,  # the model had begun
            )
        return reply, response.headers.get(_REQUEST_ID[self.sdk])

    def _get_client(self) -> AsyncOpenAI | AsyncAnthropic:
        """Return the client of the running event loop; connections cannot move between loops."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client = self._make_client()
            self._free = asyncio.Semaphore(self.max_in_flight)
            self._loop = loop
        return self._client

    def _make_client(self) -> AsyncOpenAI | AsyncAnthropic:
        import httpx2  # the transport of both packages

        sdk = self._import_sdk()
        key = "none"
        if self.api_key_env is not None:
            key = _read_key(self.api_key_env)
            if not key:
                raise ModelError(
                    f"{self.model_name}: environment variable {self.api_key_env} holds no key; set "
                    "it, or leave api_key_env out for a server of your own that wants none"
                )
            if not (key.isascii() and key.isprintable()):
                raise ModelError(
                    f"{self.model_name}: environment variable {self.api_key_env} holds a character "
                    "that no key has (a typographic quote, a line break?); set it anew"
                )
        timeout = sdk.Timeout(self.timeout_s, pool=None)
        transport = sdk.DefaultAsyncHttpxClient(
            timeout=timeout,
            limits=httpx2.Limits(
                max_connections=self.max_in_flight,
                max_keepalive_connections=self.max_in_flight,
                keepalive_expiry=3.0,  # below the 5 s after which vLLM closes an idle connection
            ),
            trust_env=not is_loopback(self.base_url),  # a proxy cannot reach this machine's ports
        )
        make = sdk.AsyncOpenAI if self.sdk == "openai" else sdk.AsyncAnthropic
        client: AsyncOpenAI | AsyncAnthropic = make(
            base_url=self.base_url,
            api_key=key,
            timeout=timeout,
            max_retries=0,  # retried here, where they are counted
            http_client=transport,
        )
        if urlsplit(self.base_url).hostname != _OWN_HOST[self.sdk]:
            _forget_environment(client)
        return client

    def _hide_key(self, text: str) -> str:
        """Return what a server said without the key, which some repeat, nor a begin of it that a
        quotation was cut at."""
        key = _read_key(self.api_key_env) if self.api_key_env else ""
        for length in (len(key), *range(len(key) - 1, _TELLING_CHARS - 1, -1)):
            text = text.replace(key[:length], "[key]") if length else text
        return text

    def _import_sdk(self) -> Any:
        """Return the provider's package, imported when it is needed and not before."""
        if self.sdk == "openai":
            import openai

            return openai
        import anthropic

        return anthropic


def _forget_environment(client: AsyncOpenAI | AsyncAnthropic) -> None:
    """Take off what the SDK read in the environment for its own provider: an account's name, and
    headers that may hold a key."""
    client._custom_headers = {}
    for name in ("organization", "project", "auth_token"):
        if hasattr(client, name):
            setattr(client, name, None)


class _RetryableError(Exception):
    """One try failed in a way that may pass; a doubtful one may have been billed."""

    def __init__(self, reason: str, retry_after_s: float | None, *, is_doubtful: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.is_doubtful = is_doubtful


def _may_pass(status: int) -> bool:
    return status in _TRANSIENT_STATUS or status >= 500


def _find_passing_error(reply: Any) -> Any:
    """Return the error in a reply with status 200 that may pass, None where there is none.

    OpenRouter has sent the status by the time that a model which has begun fails: the failure is
    in the body then, with the status that it would have had, or it ends the choice.
    """
    if not isinstance(reply, dict):
        return None
    error = reply.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and _may_pass(code):
        return error
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and first.get("finish_reason") == "error":
        return first.get("error") or error or "that ends its choice"
    return None


def _read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which may be a date (RFC 9110, 10.2.3); None
    for no header or an unreadable one."""
    given = headers.get("retry-after", "")
    try:
        wait_s = float(given)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(given).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, wait_s) if math.isfinite(wait_s) else None


def is_loopback(url: str) -> bool:
    """Return whether a server's address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
