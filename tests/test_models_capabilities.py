"""The probe against scripted servers that play what providers document, and the command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from scripted_server import (
    Handler,
    ResponsesApi,
    ScriptedServer,
    ask_once,
    build_reply,
    build_response,
    entry,
    fail_with,
    refuse_with,
    reply_with,
)
from test_models_anthropic_messages import make_reply
from tiny import make_card

from routerlib.cli import main
from routerlib.errors import ModelError, SpendingCapError, TransientModelError
from routerlib.models import Backoff
from routerlib.models.capabilities import (
    BEGUN,
    BEYOND_ALL,
    MORE_TOKENS,
    QUESTION,
    THINKING_TOKENS,
    TOKENS,
    Capabilities,
    probe_capabilities,
)
from routerlib.models.clients import make_client
from routerlib.models.model_file import Api, load_model_file
from routerlib.models.spending import Payer, SpendingCap, compute_usd, compute_worst_usd
from routerlib.models.transport import Sdk, Transport
from routerlib.records import Message, Request, Sampling

ANSWER = "The capital of France is Paris."
Play = Callable[[dict[str, Any]], dict[str, Any] | str]  # a reply, or why it is refused


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().serving() as scripted:
        yield scripted


def probe(server: ScriptedServer, play: Play, sdk: Sdk = "openai") -> Capabilities:
    def act(handler: Handler) -> None:
        played = play(handler.body)
        if isinstance(played, str):
            handler.answer(400, json.dumps({"error": {"message": played}}).encode())
        else:
            reply_with(played)(handler)

    server.acts = [act]
    return run_probe(server, sdk)


def run_probe(
    server: ScriptedServer,
    sdk: Sdk = "openai",
    api: Api = "chat",
    thinking_tokens: int = 0,
    payer: Payer | None = None,
) -> Capabilities:
    url = server.url if sdk == "openai" else server.url.removesuffix("/v1")
    transport = Transport(sdk, "m", url, None, 5.0, 1, Backoff(0.001), 4, 0)

    async def ask() -> Capabilities:
        try:
            return await probe_capabilities(transport, api, thinking_tokens, payer)
        finally:
            await transport.aclose()

    return asyncio.run(ask())


def cut(text: str, stops: list[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def answer_chat(
    body: dict[str, Any], text: str = ANSWER, logprob: float = -0.5, **usage: Any
) -> dict[str, Any]:
    """The reply of a server that does all it is asked for, but continues nothing."""
    top = body.get("top_logprobs", 0)
    tokens = [entry("The", logprob, *((f"t{i}", logprob) for i in range(top)))]
    return build_reply(
        cut(text, body.get("stop", [])),
        model="m",
        choice_logprobs={"content": tokens} if body.get("logprobs") else None,
        usage={"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": None, **usage},
    )


NO_PREFILL = Capabilities(
    returned_model="m",
    limit_field="max_tokens",
    prefill="none",
    logprobs=True,
    top_logprobs=20,
    seed=True,
    temperature=True,
    stop=True,
    blank_stop=True,
    reports_cached_tokens=False,
)
"""What the probe finds of ``answer_chat``."""


def get_begun(body: dict[str, Any]) -> str:
    last = body["messages"][-1]
    return last["content"] if last["role"] == "assistant" else ""


def test_a_vllm_server(server: ScriptedServer) -> None:
    def play(body: dict[str, Any]) -> dict[str, Any]:
        if get_begun(body):
            return answer_chat(body, "is." if body.get("continue_final_message") else ANSWER)
        return answer_chat(body, prompt_tokens_details={"cached_tokens": 0})

    assert probe(server, play) == replace(
        NO_PREFILL, prefill="continue_final_message", reports_cached_tokens=True
    )
    assert len(server.bodies) <= 9


@pytest.mark.parametrize("ending", ["is.", "\u00eds."])
def test_a_llamacpp_server_repeats_what_was_begun(server: ScriptedServer, ending: str) -> None:
    """It ignores ``continue_final_message`` and continues anyway."""

    def play(body: dict[str, Any]) -> dict[str, Any]:
        return answer_chat(body, get_begun(body) + ending if get_begun(body) else ANSWER)

    found = probe(server, play)
    assert found.prefill == "plain"
    assert not found.reports_cached_tokens
    assert found.refusals == {}
    begun = [body for body in server.bodies if get_begun(body)]
    assert ["continue_final_message" in body for body in begun] == [True, False]


def test_an_engine_that_repeats_what_was_begun_only_where_it_is_told_to_continue(
    server: ScriptedServer,
) -> None:
    """Then no client would take off what is repeated: it counts as no continuation."""

    def play(body: dict[str, Any]) -> dict[str, Any]:
        return answer_chat(body, BEGUN + "is." if "continue_final_message" in body else ANSWER)

    assert probe(server, play).prefill == "none"


def test_what_the_probe_finds_of_a_llamacpp_server_fits_its_client(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """A step comes back without what was begun in front of it."""

    def play(body: dict[str, Any]) -> dict[str, Any]:
        return answer_chat(body, get_begun(body) + "is." if get_begun(body) else ANSWER)

    found = probe(server, play)
    path = tmp_path / "models.toml"
    table = f'[mine]\nprovider = "openai-compatible"\nmodel = "m"\nbase_url = "{server.url}"\n'
    path.write_text(table)
    client = make_client(load_model_file(path)["mine"], found, max_in_flight=1)
    messages = (Message("user", "Which city?"), Message("assistant", BEGUN))
    assert ask_once(client, Request(messages, Sampling())).text == "is."


def test_a_server_that_refuses_the_field_is_asked_without_it(server: ScriptedServer) -> None:
    def play(body: dict[str, Any]) -> dict[str, Any] | str:
        if "continue_final_message" in body:
            return "unknown field"
        return answer_chat(body, "is." if get_begun(body) else ANSWER)

    found = probe(server, play)
    assert found.prefill == "plain"
    assert "unknown field" in found.refusals["prefill, continue_final_message"]


def test_a_reasoning_model_refuses_most(server: ScriptedServer) -> None:
    def play(body: dict[str, Any]) -> dict[str, Any] | str:
        for field in ("max_tokens", "logprobs", "temperature", "stop", "continue_final_message"):
            if field in body:
                return f"Unsupported parameter: {field}"
        return answer_chat(body)

    found = probe(server, play)
    assert found.limit_field == "max_completion_tokens"
    assert (found.prefill, found.logprobs, found.top_logprobs) == ("none", False, 0)
    assert (found.temperature, found.stop, found.blank_stop) == (False, False, False)
    assert found.seed
    assert "Unsupported parameter: stop" in found.refusals["stop"]


def test_what_is_taken_and_ignored_is_not_there(server: ScriptedServer) -> None:
    """A stop sequence in the answer, placeholders for log-probabilities, a new turn."""

    def play(body: dict[str, Any]) -> dict[str, Any]:
        return answer_chat({**body, "stop": []}, logprob=-9999.0)

    found = probe(server, play)
    assert (found.prefill, found.logprobs, found.top_logprobs) == ("none", False, 0)
    assert (found.stop, found.blank_stop) == (False, False)
    assert found.refusals == {}


@pytest.mark.parametrize(
    "said",
    [
        "Your credit balance is too low to access the Anthropic API.",
        "You have reached your specified API usage limits.",
    ],
)
def test_an_empty_account_is_no_lack_of_capability(server: ScriptedServer, said: str) -> None:
    """Anthropic says so with status 400, here from the second request on."""

    def play(body: dict[str, Any]) -> dict[str, Any] | str:
        return said if len(server.bodies) > 1 else make_reply(model="m")

    with pytest.raises(ModelError, match=said):
        probe(server, play, "anthropic")


def test_a_text_cut_by_the_limit_shows_no_stop(server: ScriptedServer) -> None:
    """The word was not reached yet, stopped at or not."""

    def play(body: dict[str, Any]) -> dict[str, Any]:
        return answer_chat(body, "Well, the") | {
            "choices": build_reply("Well, the", choice_finish_reason="length")["choices"]
        }

    found = probe(server, play)
    assert (found.stop, found.blank_stop) == (False, False)


def test_every_request_is_paid(server: ScriptedServer) -> None:
    """Refused ones cost nothing, a try that was lost its worst case."""
    card = replace(
        make_card("m"),
        input_usd_per_mtok=1.0,
        cached_input_usd_per_mtok=0.1,
        output_usd_per_mtok=10.0,
    )
    asked: list[dict[str, Any]] = []

    def act(handler: Handler) -> None:
        asked.append(handler.body)
        if len(asked) == 1:
            fail_with(503)(handler)
        elif handler.body.get("continue_final_message"):
            fail_with(400)(handler)
        else:
            reply_with(answer_chat(handler.body))(handler)

    server.acts = [act]
    cap = SpendingCap(1.0)
    run_probe(server, payer=Payer(card, cap, tries=2))
    answered = len(asked) - 2
    plain = Request((Message("user", QUESTION),), Sampling(max_tokens=TOKENS))
    spent_usd = compute_worst_usd(card, plain) + answered * compute_usd(card, 9, 0, 5)
    assert cap.spent_usd == pytest.approx(spent_usd)
    low = SpendingCap(2.5 * compute_worst_usd(card, plain))
    with pytest.raises(SpendingCapError, match="more than the cap"):
        run_probe(server, payer=Payer(card, low, tries=2))
    assert low.spent_usd <= low.limit_usd


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ("max_tokens: 10000000 > 64000, which is the maximum of claude-4-5-20251001", 64000),
        (
            "max_tokens is too large: 10000000. This model supports at most 16384 completion "
            "tokens, whereas you provided 10000000.",
            16384,
        ),
        ("Expected a value <= 128000, but got 10000000 instead.", 128000),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 10000000. This model's maximum "
            "context length is 4096 tokens and your request has 24 input tokens",
            4096,
        ),
        ("max_tokens=10000000 cannot be greater than max_model_len=2048.", 2048),
        ("The maximum tokens you requested exceeds the model limit of 2048.", 2048),
        ("Request too large: Limit 30000, Requested 10000009", None),
        ("max_tokens must be at most 20000000", None),
        ("no", None),
    ],
)
def test_the_limit_that_a_refusal_names(
    server: ScriptedServer, said: str, limit: int | None
) -> None:
    def play(body: dict[str, Any]) -> dict[str, Any] | str:
        return said if body["max_tokens"] == BEYOND_ALL else answer_chat(body)

    found = probe(server, play)
    assert found == replace(NO_PREFILL, refusals=found.refusals, most_output_tokens=limit)
    assert said in found.refusals["most output"]


@pytest.mark.parametrize("obeys", [True, False])
def test_where_the_highest_limit_is_taken_the_answer_ends_soon(
    server: ScriptedServer, obeys: bool
) -> None:
    def play(body: dict[str, Any]) -> dict[str, Any]:
        return answer_chat(body if obeys else {**body, "stop": []})

    assert probe(server, play).most_output_tokens is None
    assert server.bodies[-1]["max_tokens"] == BEYOND_ALL
    assert server.bodies[-1].get("stop") == (["."] if obeys else None)


def test_a_failure_at_the_highest_limit_is_no_failure_of_the_probe(server: ScriptedServer) -> None:
    """OpenRouter answers 402 where the account cannot pay so much, OpenAI 429 where the rate has
    not so many tokens; some servers break."""
    for status in (402, 429, 500):

        def act(handler: Handler, status: int = status) -> None:
            is_last = handler.body["max_tokens"] == BEYOND_ALL
            (fail_with(status) if is_last else reply_with(answer_chat(handler.body)))(handler)

        server.acts = [act]
        found = run_probe(server)
        assert found.most_output_tokens is None
        assert f"status {status}" in found.refusals["most output"]


def test_fewer_alternatives_than_asked_for(server: ScriptedServer) -> None:
    def play(body: dict[str, Any]) -> dict[str, Any] | str:
        if body.get("top_logprobs", 0) > 5:
            return "top_logprobs must be at most 5"
        return answer_chat(body)

    found = probe(server, play)
    assert (found.logprobs, found.top_logprobs) == (True, 5)


@pytest.mark.parametrize("continues", [True, False])
def test_an_anthropic_model(server: ScriptedServer, continues: bool) -> None:
    """Old ones continue a begun answer, those from 4.6 on refuse it."""

    def play(body: dict[str, Any]) -> dict[str, Any] | str:
        stops = body.get("stop_sequences", [])
        if body["max_tokens"] > 8192:
            return f"max_tokens: {body['max_tokens']} > 8192, which is the maximum allowed for m"
        if any(not stop.strip() for stop in stops):
            return "stop_sequences: each stop sequence must contain non-whitespace"
        if get_begun(body) and not continues:
            return "This model does not support assistant message prefill."
        return make_reply("is." if get_begun(body) else cut(ANSWER, stops), model="m")

    found = probe(server, play, "anthropic")
    assert asdict(found) | {"refusals": None} == {
        "returned_model": "m",
        "limit_field": "max_tokens",
        "prefill": "plain" if continues else "none",
        "logprobs": False,
        "top_logprobs": 0,
        "seed": False,
        "temperature": True,
        "stop": True,
        "blank_stop": False,
        "reports_cached_tokens": True,
        "api": "chat",
        "most_output_tokens": 8192,
        "refusals": None,
    }
    assert set(found.refusals) == {"blank_stop", "most output"} | (
        set() if continues else {"prefill"}
    )


def test_the_messages_protocol_of_a_llamacpp_server(server: ScriptedServer, tmp_path: Path) -> None:
    """It repeats what was begun, and the client that is made for it takes that off."""

    def play(body: dict[str, Any]) -> dict[str, Any]:
        return make_reply(get_begun(body) + "is." if get_begun(body) else ANSWER, model="m")

    found = probe(server, play, "anthropic")
    assert found.prefill == "repeated"
    path = tmp_path / "models.toml"
    address = server.url.removesuffix("/v1")
    path.write_text(f'[mine]\nprovider = "anthropic"\nmodel = "m"\nbase_url = "{address}"\n')
    client = make_client(load_model_file(path)["mine"], found, max_in_flight=1)
    messages = (Message("user", "Which city?"), Message("assistant", BEGUN))
    assert ask_once(client, Request(messages, Sampling())).text == "is."


def test_a_model_that_begins_anew_is_no_prefill(server: ScriptedServer) -> None:
    def play(body: dict[str, Any]) -> dict[str, Any]:
        return make_reply(BEGUN + " and on" if get_begun(body) else ANSWER, model="m")

    assert probe(server, play, "anthropic").prefill == "none"


@pytest.mark.parametrize("reasons", [True, False])
def test_a_model_of_the_responses_api(server: ScriptedServer, reasons: bool) -> None:
    """What the API has no field for is not asked for, nor is a begun answer."""
    server.acts = [ResponsesApi(lambda request: ANSWER, reasons).act]
    found = run_probe(server, api="responses")
    assert asdict(found) | {"refusals": None} == {
        "returned_model": "m",
        "limit_field": "max_output_tokens",
        "prefill": "none",
        "logprobs": not reasons,
        "top_logprobs": 0 if reasons else 2,
        "seed": False,
        "temperature": not reasons,
        "stop": False,
        "blank_stop": False,
        "reports_cached_tokens": True,
        "api": "responses",
        "most_output_tokens": 128_000,
        "refusals": None,
    }
    refused = {"logprobs", "temperature"} if reasons else set()
    assert set(found.refusals) == refused | {"most output"}
    assert all(body["store"] is False for body in server.bodies)
    assert all(len(body["input"]) == 1 for body in server.bodies)


def test_placeholders_and_no_count_of_cached_tokens_in_a_response(server: ScriptedServer) -> None:
    tokens = [entry("The", -9999.0, ("The", -9999.0))]
    reply = build_response(ANSWER, model="m", text_logprobs=tokens, usage_input_tokens_details={})
    server.acts = [reply_with(reply)]
    found = run_probe(server, api="responses")
    assert (found.logprobs, found.top_logprobs, found.reports_cached_tokens) == (False, 0, False)
    assert found.temperature


def test_a_failed_response_is_no_lack_of_capability(server: ScriptedServer) -> None:
    error = {"code": "server_error", "message": "out of luck"}
    failed = build_response(status="failed", error=error, output=[], usage=None)
    server.acts = [reply_with(build_response(model="m")), reply_with(failed)]
    with pytest.raises(TransientModelError, match="'server_error': 'out of luck'"):
        run_probe(server, api="responses")


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize(
    "said",
    [
        "This model is only supported in v1/responses and not in v1/chat/completions.",
        "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did "
        "you mean to use v1/completions?",
    ],
)
def test_a_model_that_chat_completions_do_not_reach(
    server: ScriptedServer, status: int, said: str
) -> None:
    server.acts = [refuse_with(status, said)]
    with pytest.raises(ModelError, match='no model of chat completions: put api = "responses"'):
        run_probe(server)
    with pytest.raises(ModelError) as caught:
        run_probe(server, api="responses")
    assert "api =" not in str(caught.value)


def test_a_model_that_answers_nothing(server: ScriptedServer) -> None:
    with pytest.raises(ModelError, match=r"answers no plain request: .*status 400.*no such model"):
        probe(server, lambda body: "no such model")
    assert len(server.bodies) == 2


def test_a_failing_server_is_no_lack_of_capability(server: ScriptedServer) -> None:
    answered = reply_with(answer_chat({}))
    server.acts = [answered, answered, fail_with(503)]
    with pytest.raises(TransientModelError, match="status 503"):
        run_probe(server)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_closed_account_is_no_lack_of_capability(server: ScriptedServer, status: int) -> None:
    """Credit that is used up in the midst of the questions would be stored as what it cannot do."""
    answered = 3

    def act(handler: Handler) -> None:
        if len(server.bodies) > answered:
            fail_with(status)(handler)
        else:
            reply_with(answer_chat(handler.body))(handler)

    server.acts = [act]
    with pytest.raises(ModelError, match=f"status {status}"):
        run_probe(server)
    assert len(server.bodies) == answered + 1


@pytest.mark.parametrize(
    "failed",
    [
        {"error": {"code": 502, "message": "the model is gone"}},
        build_reply("", model="m", choice_finish_reason="error"),
    ],
)
@pytest.mark.parametrize("before", range(8))
def test_a_model_that_failed_when_it_had_begun_is_no_lack_of_capability(
    server: ScriptedServer, failed: dict[str, Any], before: int
) -> None:
    """Such a failure comes as an answer with status 200, at any of the eight questions."""

    def act(handler: Handler) -> None:
        reply_with(answer_chat(handler.body))(handler)

    fail = reply_with(failed)
    server.acts = [act] * before + [fail, act]
    assert run_probe(server) == NO_PREFILL
    server.acts = [*server.acts[:before], fail]
    server.bodies.clear()
    with pytest.raises(TransientModelError, match="answered with the error"):
        run_probe(server)


def think(body: dict[str, Any], tokens: int) -> dict[str, Any] | None:
    """The reply of a model whose thought needs more tokens than it may write, None for others."""
    limit = body.get("max_tokens") or body["max_completion_tokens"]
    if tokens < limit:
        return None
    written = {"prompt_tokens": 9, "completion_tokens": limit}
    return build_reply(
        None,  # type: ignore[arg-type]
        model="m",
        choice_logprobs=None,
        choice_finish_reason="length",
        choice_stop_reason=...,
        usage=written | {"completion_tokens_details": {"reasoning_tokens": limit}},
    )


LONG = THINKING_TOKENS + 100
ASKED = ("model", "logprobs", "continue_final_message", "seed", "temperature", "stop")


@pytest.mark.parametrize("field", ASKED)
@pytest.mark.parametrize("obeys", [True, False])
def test_an_answer_that_thought_left_no_room_for_shows_nothing(
    server: ScriptedServer, field: str, obeys: bool
) -> None:
    """From the question with ``field`` on, the model thinks for long."""
    long = False

    def play(body: dict[str, Any]) -> dict[str, Any]:
        nonlocal long
        long |= field in body
        if get_begun(body):
            answered = answer_chat(body, "is." if obeys else ANSWER)
        else:
            answered = answer_chat(body if obeys else {**body, "stop": [], "logprobs": False})
        return (think(body, LONG) if long else None) or answered

    can = {"stop": obeys, "blank_stop": obeys, "logprobs": obeys, "top_logprobs": 20 * obeys}
    prefill = "continue_final_message" if obeys else "none"
    assert probe(server, play) == replace(NO_PREFILL, prefill=prefill, **can)
    assert len(server.bodies) <= 12
    *limits, last = [body["max_tokens"] for body in server.bodies]
    assert last == BEYOND_ALL
    assert sorted(limits) == limits
    assert set(limits) <= {TOKENS, TOKENS + MORE_TOKENS}


@pytest.mark.parametrize("field", ASKED)
def test_a_model_that_thinks_without_end_is_no_lack_of_capability(
    server: ScriptedServer, field: str
) -> None:
    def play(body: dict[str, Any]) -> dict[str, Any]:
        thought = think(body, 10**9) if field in body else None
        return thought or answer_chat(body)

    with pytest.raises(ModelError, match="none of an answer: give its table more thinking_tokens"):
        probe(server, play)


def test_a_refused_higher_limit_is_no_lack_of_capability(server: ScriptedServer) -> None:
    def play(body: dict[str, Any]) -> dict[str, Any] | str:
        if body["max_tokens"] > TOKENS:
            return "the context holds 512 tokens"
        thought = think(body, LONG) if "stop" in body else None
        return thought or answer_chat(body)

    with pytest.raises(ModelError, match="the context holds 512 tokens"):
        probe(server, play)


def test_thought_of_a_known_length_is_left_room_for(server: ScriptedServer) -> None:
    def act(handler: Handler) -> None:
        reply_with(think(handler.body, LONG) or answer_chat(handler.body))(handler)

    server.acts = [act]
    assert run_probe(server, thinking_tokens=LONG) == NO_PREFILL
    assert {body["max_tokens"] for body in server.bodies} == {TOKENS + LONG, BEYOND_ALL}


def test_the_command(
    server: ScriptedServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def act(handler: Handler) -> None:
        if "stop" in handler.body:
            key = handler.headers["Authorization"].split()[1]
            handler.answer(400, f"\x1b[31mno stop for {key}\n".encode())
        else:
            reply_with(answer_chat(handler.body))(handler)

    server.acts = [act]
    models = tmp_path / "models.toml"
    models.write_text(
        f'[mine]\nprovider = "openai-compatible"\nmodel = "m"\nbase_url = "{server.url}"\n'
        'api_key_env = "SOME_KEY"\n'
    )
    arguments = ["--models", str(models)]
    assert main(["models", "list", *arguments]) == 0
    assert f"mine: m at {server.url}, no prices" in capsys.readouterr().out
    assert main(["models", "check", "mine", *arguments]) == 1
    assert "SOME_KEY holds no key" in capsys.readouterr().err
    monkeypatch.setenv("SOME_KEY", "secret-1")
    assert main(["models", "check", "mine", *arguments]) == 0
    printed = capsys.readouterr()
    assert "log-probabilities          with 20 alternatives" in printed.out
    assert "stop sequences             no" in printed.out
    assert "no stop for [key]" in printed.out
    assert "secret" not in printed.out + printed.err
    assert "\x1b" not in printed.out
    assert main(["models", "check", "other", *arguments]) == 1
    assert "has no model 'other': it has mine" in capsys.readouterr().err
    assert main(["models", "list", "--models", str(tmp_path / "none.toml")]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_the_command_asks_by_the_api_of_the_table(
    server: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.acts = [ResponsesApi(lambda request: ANSWER, reasons=True).act]
    models = tmp_path / "models.toml"
    table = f'[mine]\nprovider = "openai-compatible"\nmodel = "m"\nbase_url = "{server.url}"\n'
    models.write_text(table)
    assert main(["models", "check", "mine", "--models", str(models)]) == 1
    assert 'put api = "responses" in its table' in capsys.readouterr().err
    models.write_text(table + 'api = "responses"\nthinking_tokens = 7\n')
    server.bodies.clear()
    assert main(["models", "check", "mine", "--models", str(models)]) == 0
    limits = {body["max_output_tokens"] for body in server.bodies}
    assert limits == {THINKING_TOKENS + 7, BEYOND_ALL}
    printed = capsys.readouterr().out
    assert "continues a begun answer   none" in printed
    assert "stop sequences             no" in printed
    assert "limit of tokens            max_output_tokens" in printed
    assert "highest limit              128000" in printed
    assert "logprobs are not supported with reasoning models" in printed
