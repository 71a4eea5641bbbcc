"""The llama.cpp server object: refusals without weights, and a real answer where they are."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_server import ask_once

from routerlib.errors import ServerError, WeightsError
from routerlib.models import AnthropicModel, Backoff, LocalServer, OpenAICompatibleModel
from routerlib.models.capabilities import probe_capabilities
from routerlib.models.transport import Sdk, Transport
from routerlib.records import Completion, Message, Request, Sampling
from routerlib.serve import serve_local
from routerlib.weights import find_weights

NAME = "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M"
QUESTION = (
    Message("system", "Solve the problem. Write one short step per line."),
    Message("user", "A box holds 4 eggs. How many eggs are in 3 boxes?"),
)
PREFILL = "Each box holds 4 eggs.\n"


@pytest.fixture(scope="module")
def weights() -> Path:
    path = find_weights(NAME)
    if path is None:
        pytest.skip(f"no weights of {NAME} in the cache folder: `routerlib weights fetch`")
    return path


@pytest.fixture(scope="module")
def server(weights: Path) -> Iterator[LocalServer]:
    pytest.importorskip("xllamacpp")
    with LocalServer(weights, NAME, context_length=256, slots=1, threads=1) as running:
        yield running


def ask(
    server_url: str, prefill: str = "", *, stop: tuple[str, ...] = ("\n",), max_tokens: int = 6
) -> Completion:
    model = OpenAICompatibleModel(NAME, server_url, NAME, prefill="plain", max_retries=0)
    messages = (*QUESTION, Message("assistant", prefill)) if prefill else QUESTION
    request = Request(messages, Sampling(max_tokens=max_tokens, top_logprobs=3), stop)
    return ask_once(model, request)


def test_a_server_that_does_not_run_has_no_address(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "none.gguf", NAME)
    with pytest.raises(ServerError, match="not running"):
        _ = server.base_url
    with pytest.raises(WeightsError, match=r"none\.gguf.*weights fetch"), server:
        pass


@pytest.mark.parametrize("changes", [{"context_length": 0}, {"slots": 0}, {"port": 70_000}])
def test_impossible_settings_are_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        LocalServer(tmp_path / "x.gguf", NAME, **changes)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"not weights" * 100)
    with pytest.raises(ServerError, match=r"could not serve wrong\.gguf"), LocalServer(wrong, NAME):
        pass


@pytest.mark.live
def test_a_step_ends_at_the_delimiter(server: LocalServer) -> None:
    completion = ask(server.base_url)
    assert completion.ended_by in ("delimiter", "eos", "length")
    assert completion.text
    assert "\n" not in completion.text
    assert completion.returned_model == NAME
    assert 0 < completion.completion_tokens <= 6
    assert len(completion.first_token_top) == 3
    assert all(value <= 0 for value in completion.token_logprobs)
    # the tokens of a stop string are generated and counted, but not reported
    assert completion.completion_tokens - len(completion.token_logprobs) in (0, 1)


@pytest.mark.live
def test_a_prefill_is_continued_and_not_repeated(server: LocalServer) -> None:
    completion = ask(server.base_url, PREFILL)
    assert not completion.text.startswith(PREFILL.strip())
    assert completion.prompt_tokens > 30
    again = ask(server.base_url, PREFILL)
    assert again.text == completion.text  # greedy
    assert again.cached_prompt_tokens > 0


@pytest.mark.live
def test_the_ends_are_told_apart(server: LocalServer) -> None:
    assert ask(server.base_url, max_tokens=2).ended_by == "length"
    counting = "1 2 3 4 5"
    stopped = ask(server.base_url, counting, stop=(" ",), max_tokens=6)
    assert stopped.ended_by == "delimiter"


@pytest.mark.live
def test_both_protocols_write_the_same(server: LocalServer) -> None:
    """What the Messages protocol repeats is taken off, and its stops are stops."""
    model = AnthropicModel(
        NAME,
        server.base_url.removesuffix("/v1"),
        NAME,
        max_retries=0,
        takes_blank_stops=True,
        repeats_prefill=True,
    )
    ends = set()
    for prefill in ("", PREFILL, "1 2 3 4 5"):
        for tokens in (2, 40):
            by_chat = ask(server.base_url, prefill, stop=("\n",), max_tokens=tokens)
            messages = (*QUESTION, Message("assistant", prefill)) if prefill else QUESTION
            request = Request(messages, Sampling(max_tokens=tokens), ("\n",))
            found = ask_once(model, request)
            assert (found.text, found.ended_by) == (by_chat.text, by_chat.ended_by)
            assert found.prompt_tokens == by_chat.prompt_tokens
            assert found.completion_tokens == by_chat.completion_tokens
            ends.add(found.ended_by)
    assert ends >= {"delimiter", "length"}


@pytest.mark.live
@pytest.mark.parametrize(("sdk", "prefill"), [("openai", "plain"), ("anthropic", "repeated")])
def test_the_probe_sees_what_the_server_can_do(server: LocalServer, sdk: Sdk, prefill: str) -> None:
    url = server.base_url if sdk == "openai" else server.base_url.removesuffix("/v1")

    async def check() -> None:
        transport = Transport(sdk, NAME, url, None, 60.0, 0, Backoff(), 1, seed=0)
        try:
            found = await probe_capabilities(transport)
        finally:
            await transport.aclose()
        assert (found.prefill, found.stop, found.blank_stop) == (prefill, True, True)
        assert (found.top_logprobs, found.seed) == ((20, True) if sdk == "openai" else (0, False))
        assert found.reports_cached_tokens
        assert found.most_output_tokens is None, "llama.cpp names no limit"

    asyncio.run(check())


@pytest.mark.live
def test_a_server_stops(weights: Path) -> None:
    pytest.importorskip("xllamacpp")
    server = LocalServer(weights, NAME, context_length=256, slots=1, threads=1)
    with server:
        health = server.base_url.replace("/v1", "/health")
        assert urllib.request.urlopen(health).status == 200
        with pytest.raises(ServerError, match="running already"):
            server.__enter__()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(health)


@pytest.mark.live
@pytest.mark.slow
def test_a_child_process_serves_the_same(weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    cache = tmp_path / "cache"
    (cache / "weights").mkdir(parents=True)
    (cache / "weights" / weights.name).symlink_to(weights)
    lines: list[str] = []
    with serve_local(
        "llamacpp", NAME, context_length=256, concurrency=1, cache_dir=cache, report=lines.append
    ) as engine:
        assert ask(engine.base_url, PREFILL, max_tokens=3).returned_model == NAME
    assert any("ready at" in line for line in lines)
