"""What every client sends, waits for and hides, whatever its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from scripted_server import (
    Handler,
    ScriptedServer,
    ask_once,
    build_reply,
    fail_with,
    refuse_with,
    reply_with,
)

from routerlib.errors import ModelError, TransientModelError
from routerlib.models import transport
from routerlib.models.anthropic_messages import AnthropicModel
from routerlib.models.openai_compatible import OpenAICompatibleModel
from routerlib.models.rate import Rate
from routerlib.models.transport import Backoff, Transport
from routerlib.records import Message, Request, Sampling

ASK = Request((Message("user", "What is 1 + 1?"),), Sampling(max_tokens=20))
KEY = "sk-proj-0123456789abcdefghij"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().serving() as scripted:
        yield scripted


def make_model(server: ScriptedServer, **changes: object) -> OpenAICompatibleModel:
    settings: dict[str, object] = {"backoff": Backoff(0.001), "timeout_s": 5.0, **changes}
    return OpenAICompatibleModel("m", server.url, "served-name", **settings)  # type: ignore[arg-type]


def test_a_wait_beyond_the_backoffs_is_obeyed(server: ScriptedServer) -> None:
    server.acts = [fail_with(429, Retry_After="0.3"), reply_with(build_reply())]
    started = time.perf_counter()
    assert ask_once(make_model(server, backoff=Backoff(0.0, longest_delay_s=0.01)), ASK).retries
    assert time.perf_counter() - started > 0.3


def test_a_date_to_wait_for_is_obeyed(server: ScriptedServer) -> None:
    def act(handler: Handler) -> None:
        at = datetime.now(UTC) + timedelta(seconds=2)  # a date has whole seconds
        fail_with(429, Retry_After=format_datetime(at, usegmt=True))(handler)

    server.acts = [act, reply_with(build_reply())]
    started = time.perf_counter()
    assert ask_once(make_model(server), ASK).retries == 1
    assert 0.9 < time.perf_counter() - started < 4


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "-3", "", "Fri, 99 Nov 2026 99:00:00 GMT"])
def test_what_is_no_time_to_wait_is_not_waited_for(server: ScriptedServer, value: str) -> None:
    server.acts = [fail_with(429, Retry_After=value), reply_with(build_reply())]
    started = time.perf_counter()
    assert ask_once(make_model(server), ASK).retries == 1
    assert time.perf_counter() - started < 2


def test_a_wait_of_hours_is_said_and_not_waited_for(server: ScriptedServer) -> None:
    server.acts = [fail_with(429, Retry_After="7200")]
    said = r"gave up after 0 retries. It asks to wait 7200 s .*more than the 300 s"
    with pytest.raises(TransientModelError, match=said):
        ask_once(make_model(server), ASK)
    assert len(server.bodies) == 1


def test_no_turn_is_granted_before_a_connection_is_free(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else turns pile up behind a slow answer and are all taken at once when it is there: four of
    six requests a second, here."""
    monkeypatch.setattr("routerlib.models.rate.BURST_S", 0.0)
    arrived: list[float] = []
    lock = threading.Lock()

    def act(handler: Handler) -> None:
        with lock:
            arrived.append(time.perf_counter())
            is_first = len(arrived) == 1
        time.sleep(0.8 if is_first else 0.0)
        reply_with(build_reply())(handler)

    server.acts = [act]
    model = make_model(server, max_in_flight=1, rate=Rate(requests_per_minute=360.0))

    async def ask_together() -> None:
        try:
            await asyncio.gather(*(model.complete(ASK) for _ in range(5)))
        finally:
            await model.aclose()

    asyncio.run(ask_together())
    gaps = [later - earlier for earlier, later in pairwise(arrived[1:])]
    assert min(gaps) > 0.1, gaps


def test_a_key_that_a_quotation_cuts_is_hidden(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    for length in range(300):
        reply = {"object": "error", "message": "x" * length + f" {KEY} is no key"}
        server.acts = [reply_with(reply)]
        with pytest.raises(ModelError) as caught:
            ask_once(make_model(server, api_key_env="SOME_KEY"), ASK)
        assert KEY[:12] not in str(caught.value), length
    assert "[key]" in hide(server, "It is " + KEY[:20])
    assert hide(server, "any key begins with sk-proj-") == "any key begins with sk-proj-"


def hide(server: ScriptedServer, text: str) -> str:
    return make_model(server, api_key_env="SOME_KEY")._transport._hide_key(text)


ENVIRONMENT = {
    "OPENAI_ORG_ID": "org-private",
    "OPENAI_PROJECT_ID": "proj-private",
    "OPENAI_CUSTOM_HEADERS": "X-Gateway: private",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Gateway: private",
    "ANTHROPIC_AUTH_TOKEN": "token-private",
}


@pytest.mark.parametrize("kind", [OpenAICompatibleModel, AnthropicModel])
def test_another_server_learns_nothing_of_the_environment(
    server: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[OpenAICompatibleModel | AnthropicModel],
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with contextlib.suppress(ModelError):  # of the reply, which is one protocol's
        ask_once(kind("m", server.url, "served-name"), ASK)
    assert "served-name" in str(server.bodies)
    assert "private" not in str(server.headers_seen[0])


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_the_providers_own_server_learns_it(
    monkeypatch: pytest.MonkeyPatch, sdk: transport.Sdk
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOME_KEY", "secret-1")
    way = Transport(sdk, "m", f"https://api.{sdk}.com", "SOME_KEY", 1.0, 0, Backoff(), 1, seed=0)

    async def get_headers() -> str:
        client = way._get_client()
        headers = str(client.default_headers)
        await way.aclose()
        return headers

    headers = asyncio.run(get_headers())
    wanted = {"openai": "org-private", "anthropic": "X-Gateway"}
    assert wanted[sdk] in headers


@pytest.mark.parametrize(
    ("status", "words", "doubtful"),
    [(408, "timed out", 3), (429, "slow down", 0), (400, "content_filter", 1), (400, "bad", 0)],
)
def test_which_refusals_may_be_billed(
    server: ScriptedServer, status: int, words: str, doubtful: int
) -> None:
    """Azure bills the prompt that its filter refuses; a server may give up on what it began."""
    server.acts = [refuse_with(status, words)]
    with pytest.raises(ModelError) as caught:
        ask_once(make_model(server, max_retries=2), ASK)
    assert caught.value.doubtful_tries == doubtful
    assert re.search(words, str(caught.value))
