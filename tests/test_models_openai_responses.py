"""The Responses client against a scripted server on loopback, and the pure reading of replies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_server import (
    Handler,
    ResponsesApi,
    ScriptedServer,
    ask_once,
    build_message,
    build_response,
    entry,
    fail_with,
    reply_with,
)

from routerlib.errors import ModelError, TransientModelError
from routerlib.models import Backoff, OpenAIResponsesModel
from routerlib.models.capabilities import Capabilities
from routerlib.models.clients import make_client
from routerlib.models.model_file import load_model_file
from routerlib.models.openai_responses import read_response
from routerlib.records import Completion, Message, Request, Sampling

ASK = Request(
    (Message("system", "One step per line."), Message("user", "What is 1 + 1?")),
    Sampling(temperature=0.5, max_tokens=20, top_logprobs=2, seed=3),
    stop=("\n",),
)
QUICK = Backoff(first_delay_s=0.001, longest_delay_s=0.01)
TOKENS = [
    entry("It", -0.5, ("So", -1.5), ("It", -0.5)),
    entry(" is", -0.25),
    entry(" 2", -0.1),
    entry(".\n", -0.05),
]


def read(reply: Any, request: Request = ASK) -> Completion:
    return read_response(reply, request, request_id=None, latency_s=0.0, retries=0)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().serving() as scripted:
        scripted.acts = [reply_with(build_response())]
        yield scripted


def make_model(server: ScriptedServer, **changes: Any) -> OpenAIResponsesModel:
    settings: dict[str, Any] = {"max_retries": 2, "backoff": QUICK, "timeout_s": 5.0, **changes}
    return OpenAIResponsesModel("large", server.url, "served-name", **settings)


def ask(model: OpenAIResponsesModel, request: Request = ASK) -> Completion:
    return ask_once(model, request)


def test_an_answer_is_read_whole(server: ScriptedServer) -> None:
    """The thought is billed and is no part of the text."""
    server.acts = [reply_with(build_response(), x_request_id="req-7")]
    completion = ask(make_model(server))
    assert completion.text == "It is 2."
    assert (completion.ended_by, completion.finish_reason) == ("eos", "completed")
    assert (completion.prompt_tokens, completion.cached_prompt_tokens) == (30, 24)
    assert completion.completion_tokens == 9
    assert completion.token_logprobs == completion.first_token_top == ()
    assert (completion.returned_model, completion.request_id) == ("served-name", "req-7")
    assert (completion.retries, completion.doubtful_tries) == (0, 0)
    assert 0 < completion.latency_s < 5
    assert read(build_response()).request_id == "resp_1"


def test_the_request_that_is_sent(server: ScriptedServer) -> None:
    """Neither stop strings nor a seed: the API knows none."""
    paths = []

    def note_path(handler: Handler) -> None:
        paths.append(handler.path)
        reply_with(build_response())(handler)

    server.acts = [note_path]
    ask(make_model(server))
    assert paths == ["/v1/responses"]
    assert server.bodies == [
        {
            "model": "served-name",
            "input": [
                {"role": "system", "content": "One step per line."},
                {"role": "user", "content": "What is 1 + 1?"},
            ],
            "max_output_tokens": 20,
            "store": False,
            "temperature": 0.5,
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
        }
    ]


def test_a_reasoning_model_is_asked_for_what_it_takes(server: ScriptedServer) -> None:
    server.acts = [ResponsesApi(lambda request: "It is 2.", reasons=True).act]
    with pytest.raises(ModelError, match="'temperature' is not supported"):
        ask(make_model(server))
    with pytest.raises(ModelError, match="logprobs are not supported"):
        ask(make_model(server, takes_temperature=False))
    completion = ask(make_model(server, takes_temperature=False, most_logprobs=0))
    assert completion.text == "It is 2."
    assert completion.completion_tokens == 3 + 4


def test_no_more_alternatives_than_there_are(server: ScriptedServer) -> None:
    ask(make_model(server, most_logprobs=1))
    assert server.bodies[0]["top_logprobs"] == 1


@pytest.mark.parametrize(
    ("max_tokens", "thinking_tokens", "sent"), [(20, 0, 20), (20, 400, 420), (1, 0, 16), (1, 9, 16)]
)
def test_the_limit_of_tokens(
    server: ScriptedServer, max_tokens: int, thinking_tokens: int, sent: int
) -> None:
    """Thought counts towards it, and the API refuses one below 16."""
    server.acts = [ResponsesApi(lambda request: "It is 2.").act]
    request = replace(ASK, sampling=replace(ASK.sampling, max_tokens=max_tokens))
    assert ask(make_model(server, thinking_tokens=thinking_tokens), request).text == "It is 2."
    assert server.bodies[0]["max_output_tokens"] == sent


def test_the_client_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[mine]\nprovider = "openai"\napi = "responses"\nmodel = "o"\nthinking_tokens = 400\n'
        "concurrency = 3\nrequests_per_minute = 50\n"
    )
    entry = load_model_file(path)["mine"]
    found = Capabilities(
        "o", "max_output_tokens", "none", True, 5, False, False, False, False, True, "responses"
    )
    model = make_client(entry, found, also_named=("p",))
    assert isinstance(model, OpenAIResponsesModel)
    assert (model.id, model.base_url) == ("mine", "https://api.openai.com/v1")
    assert (model.api_key_env, model.max_in_flight) == ("OPENAI_API_KEY", 3)
    assert (model.also_named, model.rate) == (("p",), entry.rate)
    body = model.build_body(replace(ASK, sampling=Sampling(0.5, 20, 10)))
    assert (body["model"], body["max_output_tokens"], body["top_logprobs"]) == ("o", 420, 5)
    assert "temperature" not in body
    refused = make_client(entry, replace(found, logprobs=False))
    assert isinstance(refused, OpenAIResponsesModel)
    assert not {"include", "top_logprobs"} & refused.build_body(ASK).keys()


def test_a_step_is_cut_here_and_all_that_was_written_is_billed(server: ScriptedServer) -> None:
    server.acts = [ResponsesApi(lambda request: "1 + 1 = 2.\nSo it is 2.\nAnswer: 2").act]
    completion = ask(make_model(server))
    assert (completion.text, completion.ended_by) == ("1 + 1 = 2.", "delimiter")
    assert completion.completion_tokens == 12
    assert completion.token_logprobs == (-0.5,) * 6  # the token with the stop string is the last
    assert len(completion.first_token_top) == 2
    whole = ask(make_model(server), replace(ASK, stop=()))
    assert (whole.text.count("\n"), whole.ended_by) == (2, "eos")


def test_the_limit_ends_the_text(server: ScriptedServer) -> None:
    server.acts = [ResponsesApi(lambda request: "so " * 50 + "\n2").act]
    completion = ask(make_model(server))
    assert (completion.ended_by, completion.finish_reason) == ("length", "max_output_tokens")
    assert completion.completion_tokens == 20
    stopped = build_response(
        "It is\n2 or", status="incomplete", incomplete_details={"reason": "max_output_tokens"}
    )
    assert read(stopped).ended_by == "delimiter"


def test_a_thought_may_use_up_the_limit() -> None:
    """Then there is no message at all."""
    completion = read(
        build_response(
            status="incomplete",
            incomplete_details={"reason": "max_output_tokens"},
            output=[{"type": "reasoning", "id": "rs_1", "summary": []}],
        )
    )
    assert (completion.text, completion.ended_by, completion.completion_tokens) == ("", "length", 9)


@pytest.mark.parametrize(
    ("begun", "is_sent"), [("1 + 1 = 2.\n", False), ("", True), ("\n", False)], ids=repr
)
def test_a_begun_answer_is_not_sent(server: ScriptedServer, begun: str, is_sent: bool) -> None:
    """The API would take it for an earlier turn. An empty one is none."""
    request = replace(ASK, messages=(*ASK.messages, Message("assistant", begun)))
    if is_sent:
        ask(make_model(server), request)
        assert len(server.bodies[0]["input"]) == 2
        return
    with pytest.raises(ModelError, match=r"continues no begun answer.*continue_turn or one_shot"):
        ask(make_model(server), request)
    assert server.bodies == []


def test_retry_after_is_waited_for(server: ScriptedServer) -> None:
    server.acts = [fail_with(429, Retry_After="0.2"), reply_with(build_response())]
    started = time.perf_counter()
    completion = ask(make_model(server, backoff=Backoff(0.0, longest_delay_s=5.0)))
    assert (completion.text, completion.retries) == ("It is 2.", 1)
    assert time.perf_counter() - started > 0.2
    assert completion.doubtful_tries == 0


def test_a_try_that_may_have_been_billed_is_counted(server: ScriptedServer) -> None:
    server.acts = [fail_with(500), reply_with(build_response())]
    assert ask(make_model(server)).doubtful_tries == 1
    server.bodies.clear()
    server.acts = [fail_with(500), reply_with(build_response(usage=None))]
    with pytest.raises(ModelError, match="without token counts") as caught:
        ask(make_model(server))
    assert caught.value.doubtful_tries == 2


@pytest.mark.parametrize(
    ("returned", "also_named", "is_right"),
    [
        ("served-name-2026-11-01", (), True),
        ("served-name-mini", (), False),
        ("another", ("another",), True),
        (None, (), False),
    ],
)
def test_the_name_in_the_reply(
    server: ScriptedServer, returned: str | None, also_named: tuple[str, ...], is_right: bool
) -> None:
    server.acts = [reply_with(build_response(model=returned))]
    model = make_model(server, also_named=also_named)
    if is_right:
        assert ask(model).returned_model == returned
        return
    with pytest.raises(ModelError, match=f"'served-name' and answered as '{returned or ''}'"):
        ask(model)


def test_logprobs_are_read() -> None:
    completion = read(build_response("It is 2.\n2", text_logprobs=TOKENS), replace(ASK, stop=()))
    assert completion.token_logprobs == (-0.5, -0.25, -0.1, -0.05)
    assert completion.first_token_top == (("It", -0.5), ("So", -1.5))
    assert completion.token_texts == ("It", " is", " 2", ".\n")


@pytest.mark.parametrize("placeholder", [-9999.0, None, float("-inf"), float("nan"), "NaN"])
def test_a_placeholder_is_no_logprob(placeholder: Any) -> None:
    tokens = [entry("It", -0.5, ("It", -0.5), ("So", -9999.0)), entry(" is", placeholder)]
    completion = read(build_response(text_logprobs=tokens))
    assert completion.token_logprobs == ()
    assert completion.first_token_top == (("It", -0.5),)


@pytest.mark.parametrize("missing", [..., None, []])
def test_missing_logprobs_are_none(missing: Any) -> None:
    completion = read(build_response(text_logprobs=missing))
    assert completion.token_logprobs == completion.first_token_top == ()


def make_part(text: str, logprobs: Any = None) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def test_all_parts_of_all_messages_are_the_text() -> None:
    output = [
        build_message(make_part("It ", TOKENS[:1]), make_part("is ", TOKENS[1:2])),
        {"type": "reasoning", "id": "rs_1", "summary": []},
        build_message(make_part("2.", TOKENS[2:3]), phase="final_answer"),
    ]
    completion = read(build_response(output=output))
    assert completion.text == "It is 2."
    assert completion.token_logprobs == (-0.5, -0.25, -0.1)
    output.append(build_message(make_part("!")))  # whose tokens are not listed
    assert read(build_response(output=output)).token_logprobs == ()


def test_what_is_said_before_the_answer_is_no_part_of_it() -> None:
    """Of OpenAI's models from gpt-5.3-codex on; where the answer says the same it came twice."""
    said = build_message(make_part("It is 2."), phase="commentary")
    answered = build_message(make_part("It is 2."), phase="final_answer")
    assert read(build_response(output=[said, answered])).text == "It is 2."
    assert read(build_response(output=[said])).text == "It is 2."


def test_a_refusal_is_an_error() -> None:
    refused = build_message({"type": "refusal", "refusal": "I cannot help with that."})
    with pytest.raises(ModelError, match=r"refused to answer: 'I cannot help with that\.'"):
        read(build_response(output=[refused]))


@pytest.mark.parametrize(
    ("code", "passes"),
    [("server_error", True), ("rate_limit_exceeded", True), ("invalid_prompt", False)],
)
def test_a_failed_response_is_an_error(server: ScriptedServer, code: str, passes: bool) -> None:
    error = {"code": code, "message": "the model \x1b[31mgave up"}
    reply = build_response(status="failed", error=error, output=[], usage=None)
    server.acts = [reply_with(reply)]
    with pytest.raises(ModelError, match=rf"failed with '{code}'.*gave up") as caught:
        ask(make_model(server))
    assert isinstance(caught.value, TransientModelError) == passes
    assert caught.value.doubtful_tries == 1
    assert "\x1b" not in str(caught.value)
    assert len(server.bodies) == 1


def test_a_failure_without_its_cause_is_an_error() -> None:
    with pytest.raises(ModelError, match="failed with None"):
        read(build_response(status="failed", output=[], usage=None))


@pytest.mark.parametrize(
    ("status", "details"),
    [
        ("incomplete", {"reason": "content_filter"}),
        ("incomplete", {"reason": None}),
        ("incomplete", None),
        ("cancelled", None),
        ("in_progress", None),
        ("queued", None),
        (None, None),
    ],
)
def test_an_unusable_end_is_an_error(status: str | None, details: Any) -> None:
    with pytest.raises(ModelError, match="ended by"):
        read(build_response(status=status, incomplete_details=details))


@pytest.mark.parametrize("usage", [..., None, {"input_tokens": 3}, {"output_tokens": 3}])
def test_unknown_token_counts_are_an_error(usage: Any) -> None:
    with pytest.raises(ModelError, match="without token counts"):
        read(build_response(usage=usage))


@pytest.mark.parametrize(
    "changes",
    [
        {"usage_input_tokens": 0},
        {"usage_output_tokens": 0},
        {"usage_input_tokens_details": {"cached_tokens": 10**6}},
        {"usage_output_tokens": 4},  # of which five were thought
        {"usage_output_tokens": 3, "usage_output_tokens_details": None, "text_logprobs": TOKENS},
    ],
)
def test_counts_that_cannot_be_right_are_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="its cost is unknown"):
        read(build_response(**changes))


@pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None, "reasoning_tokens": None}])
def test_details_may_be_left_out(details: Any) -> None:
    usage = {"usage_input_tokens_details": details, "usage_output_tokens_details": details}
    completion = read(build_response(**usage))
    assert (completion.cached_prompt_tokens, completion.completion_tokens) == (0, 9)
    assert completion.reasoning_tokens is None


def test_thought_is_told_apart_and_billed_wherever_it_is_counted() -> None:
    assert read(build_response()).reasoning_tokens == 5
    apart = read(build_response(usage_output_tokens=4, usage_total_tokens=39))
    assert (apart.completion_tokens, apart.reasoning_tokens) == (9, 5)
    with pytest.raises(ModelError, match="38 in total: its cost is unknown"):
        read(build_response(usage_total_tokens=38))


@pytest.mark.parametrize("reply", [None, [], {}, "text", {"status": "completed"}])
def test_what_is_no_response_is_an_error(reply: Any) -> None:
    with pytest.raises(ModelError, match="value that cannot be read"):
        read(reply)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": ["completed"]},
        {"incomplete_details": 7, "status": "incomplete"},
        {"status": "failed", "error": "no"},
        {"output": None},
        {"output": [None]},
        {"output": [{"type": "function_call", "name": "f"}]},
        {"output": [build_message({"type": "image"})]},
        {"text_text": ["It is 2."]},
        {"text_text": "half a character: \ud83d"},
        {"text_logprobs": [None]},
        {"usage_input_tokens": "3"},
        {"usage_output_tokens": float("nan")},
        {"usage_input_tokens_details": 7},
    ],
)
def test_a_value_of_another_kind_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="value that cannot be read"):
        read(build_response(**changes))


@pytest.mark.parametrize("changes", [{"max_retries": -1}, {"timeout_s": 0.0}, {"max_in_flight": 0}])
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        OpenAIResponsesModel("large", "http://127.0.0.1:1/v1", "m", **changes)
