"""The Messages client against a scripted server on loopback, and the pure reading of replies."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Handler, ScriptedServer, ask_once, close_mid_body, fail_with, reply_with

from routerlib.errors import ModelError, TransientModelError
from routerlib.models import AnthropicModel, Backoff
from routerlib.models.anthropic_messages import build_message_body, read_message
from routerlib.records import Completion, Message, Request, Sampling

ASK = Request(
    (Message("system", "One step per line."), Message("user", "What is 1 + 1?")),
    Sampling(temperature=0.5, max_tokens=20, seed=3),
    stop=("\n", "Answer:"),
)
CONTINUE = Request((*ASK.messages, Message("assistant", "1 + 1 = 2.\n")), ASK.sampling, ASK.stop)
QUICK = Backoff(first_delay_s=0.001, longest_delay_s=0.01)


def make_reply(*texts: str, **changes: Any) -> dict[str, Any]:
    """A reply as Anthropic documents it; ``usage_*`` changes the token counts."""
    usage: dict[str, Any] = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 100,
        "output_tokens": 7,
    }
    usage |= {name[6:]: value for name, value in changes.items() if name.startswith("usage_")}
    reply = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": text} for text in texts],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage,
    }
    return reply | {name: value for name, value in changes.items() if not name.startswith("usage_")}


def read(reply: Any, request: Request = ASK, sent_stops: tuple[str, ...] = ()) -> Completion:
    return read_message(reply, request, sent_stops, request_id=None, latency_s=0.0, retries=0)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().serving() as scripted:
        scripted.acts = [reply_with(make_reply("It is 2."))]
        yield scripted


def make_model(server: ScriptedServer, **changes: Any) -> AnthropicModel:
    settings: dict[str, Any] = {"max_retries": 2, "backoff": QUICK, "timeout_s": 5.0, **changes}
    return AnthropicModel("large", server.url.removesuffix("/v1"), "claude-x", **settings)


def ask(model: AnthropicModel, request: Request = ASK) -> Completion:
    return ask_once(model, request)


def test_an_answer_is_read_whole(server: ScriptedServer) -> None:
    server.acts = [reply_with(make_reply("It ", "is 2."), request_id="req-7")]
    completion = ask(make_model(server))
    assert completion.text == "It is 2."
    assert completion.ended_by == "eos"
    assert completion.finish_reason == "end_turn"
    # What is read from the cache and what is written to it are no part of input_tokens.
    assert (completion.prompt_tokens, completion.cached_prompt_tokens) == (115, 100)
    assert completion.completion_tokens == 7
    assert completion.token_logprobs == completion.first_token_top == ()
    assert (completion.returned_model, completion.request_id) == ("claude-x", "req-7")
    assert 0 < completion.latency_s < 5


def test_the_request_that_is_sent(server: ScriptedServer) -> None:
    paths = []

    def note_path(handler: Handler) -> None:
        paths.append(handler.path)
        reply_with(make_reply("It is 2."))(handler)

    server.acts = [note_path]
    ask(make_model(server))
    assert paths == ["/v1/messages"]
    assert server.bodies == [
        {
            "model": "claude-x",
            "max_tokens": 20,
            "system": "One step per line.",
            "messages": [{"role": "user", "content": "What is 1 + 1?"}],
            "temperature": 0.5,
            "stop_sequences": ["Answer:"],
        }
    ]
    assert server.headers_seen[0]["anthropic-version"]


def test_what_a_server_takes_is_a_setting(server: ScriptedServer) -> None:
    ask(make_model(server, takes_blank_stops=True, takes_temperature=False))
    assert server.bodies[0]["stop_sequences"] == ["\n", "Answer:"]
    assert "temperature" not in server.bodies[0]


def test_a_prefill_goes_without_the_white_space_at_its_end(server: ScriptedServer) -> None:
    """The model repeats the line's end that it was not shown; that is no step."""
    server.acts = [reply_with(make_reply("\n2 + 2 = 4.\nAnswer: 4"))]
    completion = ask(make_model(server), CONTINUE)
    assert server.bodies[0]["messages"][-1] == {"role": "assistant", "content": "1 + 1 = 2."}
    assert (completion.text, completion.ended_by) == ("2 + 2 = 4.", "delimiter")
    assert completion.completion_tokens == 7, "what was cut off is billed"


def test_an_empty_prefill_is_no_message() -> None:
    for blank in ("", "\n", " "):
        request = Request((*ASK.messages, Message("assistant", blank)), ASK.sampling, ASK.stop)
        assert build_message_body(request, "m", ()) == build_message_body(ASK, "m", ())
    with pytest.raises(ModelError, match="needs one"):
        build_message_body(Request(ASK.messages[:1], ASK.sampling), "m", ())


@pytest.mark.parametrize(
    ("text", "stop_reason", "sent_stops", "kept", "ended_by"),
    [
        ("one\ntwo", "end_turn", (), "one", "delimiter"),
        ("one\ntwo", "max_tokens", (), "one", "delimiter"),
        ("one Answer: two\nthree", "end_turn", (), "one ", "delimiter"),
        ("one", "max_tokens", (), "one", "length"),
        ("one", "model_context_window_exceeded", (), "one", "length"),
        ("one", "stop_sequence", ("\n",), "one", "delimiter"),
        ("one\ntwo", "end_turn", ("\n", "Answer:"), "one\ntwo", "eos"),
        ("\n", "end_turn", (), "", "delimiter"),
    ],
)
def test_what_ended_the_text(
    text: str, stop_reason: str, sent_stops: tuple[str, ...], kept: str, ended_by: str
) -> None:
    completion = read(make_reply(text, stop_reason=stop_reason), sent_stops=sent_stops)
    assert (completion.text, completion.ended_by) == (kept, ended_by)


def test_llamacpp_says_only_in_another_field_that_a_stop_ended_the_text() -> None:
    """As its server answered: the reason is the end of the turn, the sequence stands beside it."""
    reply = make_reply("one", stop_reason="end_turn", stop_sequence="\n")
    assert read(reply, sent_stops=("\n",)).ended_by == "delimiter"
    assert read(reply).ended_by == "eos", "of a stop that was not asked for nothing is known"


def test_a_server_that_repeats_the_prefill(server: ScriptedServer) -> None:
    """It is sent with the line's end, after which the model writes the next line, and taken off."""
    begun = CONTINUE.messages[-1].content
    server.acts = [reply_with(make_reply(f"{begun}2 + 2 = 4.", stop_sequence="\n"))]
    model = make_model(server, repeats_prefill=True, takes_blank_stops=True)
    completion = ask(model, CONTINUE)
    assert server.bodies[0]["messages"][-1] == {"role": "assistant", "content": begun}
    assert (completion.text, completion.ended_by) == ("2 + 2 = 4.", "delimiter")
    server.acts = [reply_with(make_reply(f"{begun}1 + 1 = 2.\n2 + 2 = 4."))]
    assert ask(make_model(server, repeats_prefill=True), CONTINUE).text == "1 + 1 = 2."
    server.acts = [reply_with(make_reply(f"{begun}2 + 2 = 4."))]
    assert ask(make_model(server), CONTINUE).text == "1 + 1 = 2.", "a repetition of its own"
    blank = Request((*ASK.messages, Message("assistant", "\n")), ASK.sampling, ASK.stop)
    assert build_message_body(blank, "m", (), keeps_blank_end=True)["messages"] == [
        {"role": "user", "content": "What is 1 + 1?"}
    ]


def test_thinking_is_billed_and_left_out() -> None:
    reply = make_reply("It is 2.")
    reply["content"].insert(0, {"type": "thinking", "thinking": "hm\n", "signature": "x"})
    completion = read(reply)
    assert (completion.text, completion.completion_tokens) == ("It is 2.", 7)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (make_reply("no", stop_reason="refusal"), "ended by 'refusal'"),
        (make_reply("no", stop_reason="tool_use"), "ended by 'tool_use'"),
        (make_reply("no", stop_reason=None), "ended by None"),
        (make_reply("no", stop_reason=["refusal"]), r"ended by \['refusal'\]"),
        (make_reply("no", content=[{"type": "tool_use", "id": "x"}]), "type 'tool_use'"),
        (make_reply("no", content=None), "cannot be read"),
        (make_reply("no", usage=None), "cannot be read"),
        (make_reply("no", usage_output_tokens=None), "a token count is None"),
        (make_reply("no", usage_input_tokens=-1), "a token count is -1"),
        (make_reply("no", usage_input_tokens=True), "a token count is True"),
        (
            make_reply("no", usage_output_tokens=0),
            r"counts 115 prompt tokens \(0 of them cached\) and 0",
        ),
        (make_reply("\ud800"), "surrogates not allowed"),
        ({"type": "error", "error": {"message": "no"}}, "cannot be read"),
        ([], "cannot be read"),
    ],
)
def test_a_reply_that_cannot_be_used(reply: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(reply)


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists))
def test_any_junk_is_a_model_error(content: Any) -> None:
    with pytest.raises(ModelError):
        read({"content": content, "stop_reason": content, "usage": content})


def test_caches_may_go_unreported() -> None:
    completion = read(
        make_reply("2", usage_cache_read_input_tokens=None, usage_cache_creation_input_tokens=None)
    )
    assert (completion.prompt_tokens, completion.cached_prompt_tokens) == (10, 0)


@pytest.mark.parametrize("status", [408, 429, 500, 529])
def test_a_passing_failure_is_retried_and_counted(server: ScriptedServer, status: int) -> None:
    server.acts = [fail_with(status), close_mid_body, reply_with(make_reply("2"))]
    assert ask(make_model(server)).retries == 2


def test_retries_are_bounded(server: ScriptedServer) -> None:
    server.acts = [fail_with(529)]
    with pytest.raises(TransientModelError, match=r"status 529.*gave up after 2 retries"):
        ask(make_model(server))
    assert len(server.bodies) == 3


def test_a_refused_prefill_is_not_retried(server: ScriptedServer) -> None:
    content = b'{"type": "error", "error": {"message": "does not support assistant prefill"}}'
    server.acts = [lambda handler: handler.answer(400, content)]
    with pytest.raises(ModelError, match=r"status 400.*assistant prefill") as caught:
        ask(make_model(server), CONTINUE)
    assert not isinstance(caught.value, TransientModelError)
    assert len(server.bodies) == 1


def test_what_is_not_json_names_the_address(server: ScriptedServer) -> None:
    server.acts = [lambda handler: handler.answer(200, b"<html>")]
    with pytest.raises(TransientModelError, match=r"not JSON: '<html>'.*without /v1"):
        ask(make_model(server))


def test_another_models_answer_is_an_error(server: ScriptedServer) -> None:
    server.acts = [reply_with(make_reply("2", model="claude-y"))]
    with pytest.raises(ModelError, match="'claude-x' and answered as 'claude-y'"):
        ask(make_model(server))
    assert ask(make_model(server, also_named=("claude-y",))).returned_model == "claude-y"
    server.acts = [reply_with(make_reply("2", model="claude-x-20261101"))]
    assert ask(make_model(server)).returned_model == "claude-x-20261101"


def test_the_key_is_read_at_the_first_call_and_never_told(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    model = make_model(server, api_key_env="SOME_KEY")
    with pytest.raises(ModelError, match="SOME_KEY holds no key"):
        ask(model)
    monkeypatch.setenv("SOME_KEY", "secret-1")
    server.acts = [fail_with(401)]
    with pytest.raises(ModelError, match="status 401") as caught:
        ask(model)
    assert server.headers_seen[0]["Authorization"] == "Bearer secret-1"
    assert "secret-1" not in f"{caught.value} {caught.value.__cause__!r} {model!r}"


@pytest.mark.parametrize("status", [401, 500])
def test_a_key_that_the_server_repeats_is_in_no_traceback(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-1")
    content = b'{"error": {"message": "Incorrect API key: secret-1"}}'
    server.acts = [lambda handler: handler.answer(status, content)]
    with pytest.raises(ModelError, match=r"Incorrect API key: \[key\]") as caught:
        ask(make_model(server, api_key_env="SOME_KEY"))
    assert "secret-1" not in "".join(traceback.format_exception(caught.value))


def test_other_credentials_of_the_environment_are_not_sent(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would read these by itself, and a local server is not whom they are for."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-2")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "secret-3")
    ask(make_model(server))
    assert "secret" not in str(server.headers_seen[0])


@pytest.mark.parametrize("changes", [{"max_retries": -1}, {"timeout_s": 0.0}, {"max_in_flight": 0}])
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        AnthropicModel("large", "http://127.0.0.1:1", "m", **changes)


@pytest.mark.parametrize("details", [None, {}, {"thinking_tokens": 5}, {"thinking_tokens": 7}])
def test_thought_is_told_apart(details: Any) -> None:
    completion = read(make_reply("2", usage_output_tokens_details=details))
    assert completion.completion_tokens == 7  # thought is a part of them
    assert completion.reasoning_tokens == (details or {}).get("thinking_tokens")


def test_more_thought_than_output_is_an_error() -> None:
    with pytest.raises(ModelError, match="its cost is unknown"):
        read(make_reply("2", usage_output_tokens_details={"thinking_tokens": 8}))
