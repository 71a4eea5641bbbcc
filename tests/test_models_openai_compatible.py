"""The client against a scripted server on loopback, and the pure reading of replies."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import (
    Handler,
    ScriptedServer,
    ask_once,
    build_reply,
    build_text_score_reply,
    close_mid_body,
    entry,
    fail_with,
    reply_with,
)

from routerlib.errors import ModelError, TransientModelError
from routerlib.models.chat_reply import read_completion
from routerlib.models.openai_compatible import OpenAICompatibleModel, build_body
from routerlib.models.transport import Backoff
from routerlib.records import Completion, Message, Request, Sampling, TextScore

ASK = Request(
    (Message("system", "One step per line."), Message("user", "What is 1 + 1?")),
    Sampling(max_tokens=20, top_logprobs=2),
    stop=("\n",),
)
CONTINUE = Request((*ASK.messages, Message("assistant", "1 + 1 = 2.\n")), ASK.sampling, ASK.stop)
QUICK = Backoff(first_delay_s=0.001, longest_delay_s=0.01)


def read(reply: Any, request: Request = ASK, echoed: str = "") -> Completion:
    return read_completion(reply, request, echoed=echoed, request_id=None, latency_s=0.0, retries=0)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().serving() as scripted:
        yield scripted


def make_model(server: ScriptedServer, **changes: Any) -> OpenAICompatibleModel:
    settings: dict[str, Any] = {"max_retries": 2, "backoff": QUICK, "timeout_s": 5.0, **changes}
    return OpenAICompatibleModel("small", server.url, "served-name", **settings)


def ask(model: OpenAICompatibleModel, request: Request = ASK) -> Completion:
    return ask_once(model, request)


def test_an_answer_is_read_whole(server: ScriptedServer) -> None:
    server.acts = [reply_with(build_reply(), x_request_id="req-7")]
    completion = ask(make_model(server))
    assert completion.text == "It is 2."
    assert completion.ended_by == "delimiter"
    assert (completion.prompt_tokens, completion.completion_tokens) == (30, 4)
    assert completion.cached_prompt_tokens == 0  # vLLM's details are null unless asked for
    assert completion.token_logprobs == (-0.5, -0.25, -0.1, -0.05)
    assert completion.first_token_top == (("It", -0.5), ("So", -1.5))
    assert completion.returned_model == "served-name"
    assert completion.request_id == "req-7"
    assert completion.retries == 0
    assert 0 < completion.latency_s < 5


def test_the_request_that_is_sent(server: ScriptedServer) -> None:
    ask(make_model(server))
    assert server.bodies == [
        {
            "model": "served-name",
            "messages": [
                {"role": "system", "content": "One step per line."},
                {"role": "user", "content": "What is 1 + 1?"},
            ],
            "temperature": 0.0,
            "max_tokens": 20,
            "logprobs": True,
            "top_logprobs": 2,
            "stop": ["\n"],
        }
    ]


def test_a_prefill_is_continued(server: ScriptedServer) -> None:
    ask(make_model(server), CONTINUE)
    assert server.bodies[0]["messages"][-1] == {"role": "assistant", "content": "1 + 1 = 2.\n"}
    assert server.bodies[0]["continue_final_message"] is True
    assert server.bodies[0]["add_generation_prompt"] is False


def test_a_plain_server_repeats_the_prefill(server: ScriptedServer) -> None:
    server.acts = [reply_with(build_reply("1 + 1 = 2.\nAnswer: 2"))]
    completion = ask(make_model(server, prefill="plain"), CONTINUE)
    assert completion.text == "Answer: 2"
    assert "continue_final_message" not in server.bodies[0]


def score(model: OpenAICompatibleModel, text: str = "Tom has 2 pens.") -> TextScore:
    async def call() -> TextScore:
        try:
            return await model.score_text(text)
        finally:
            await model.aclose()

    return asyncio.run(call())


def test_a_text_is_scored(server: ScriptedServer) -> None:
    server.acts = [
        fail_with(500),
        reply_with(build_text_score_reply("served-name", None, -9.5, -0.25, -1.25)),
    ]
    assert score(make_model(server)) == TextScore(tokens=4, logprob=-11.0, retries=1)
    assert server.bodies[0] == {
        "model": "served-name",
        "prompt": "Tom has 2 pens.",
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
    }


def test_a_text_of_one_token_has_no_log_probability(server: ScriptedServer) -> None:
    server.acts = [reply_with(build_text_score_reply("served-name", None))]
    assert score(make_model(server)) == TextScore(tokens=1, logprob=0.0)


TWO_GIVEN = {"1": {"logprob": -1.0}, "2": {"logprob": -2.0}}


@pytest.mark.parametrize(
    ("prompt_logprobs", "message"),
    [
        (..., "without log-probabilities of the prompt .*this engine does not give them"),
        (None, "prompt_logprobs is None"),
        ([], "prompt_logprobs is \\[\\]"),
        ([None, None], "cannot be read"),
        ([None, TWO_GIVEN], "cannot be read"),
        ([None, {"1": {}}], "cannot be read"),
        ([None, {"1": {"logprob": -9999.0}}], "it is -9999.0"),
    ],
)
def test_a_text_score_that_cannot_be_read(
    server: ScriptedServer, prompt_logprobs: Any, message: str
) -> None:
    """llama.cpp leaves the field out."""
    reply = build_text_score_reply("served-name", None, -1.0)
    if prompt_logprobs is ...:
        del reply["choices"][0]["prompt_logprobs"]
    else:
        reply["choices"][0]["prompt_logprobs"] = prompt_logprobs
    server.acts = [reply_with(reply)]
    with pytest.raises(ModelError, match=message):
        score(make_model(server))
    assert len(server.bodies) == 1


def test_a_text_score_of_another_model_or_without_a_choice(server: ScriptedServer) -> None:
    server.acts = [reply_with(build_text_score_reply("gpt-other", None, -1.0))]
    with pytest.raises(ModelError, match="answered as 'gpt-other'"):
        score(make_model(server))
    server.acts = [reply_with({"error": "no"})]
    with pytest.raises(ModelError, match="a reply without a choice") as caught:
        score(make_model(server))
    assert caught.value.doubtful_tries == 1


def test_every_sampling_field_reaches_the_body() -> None:
    base = build_body(ASK, "m", "plain")
    for changed in (
        Sampling(0.5, 20, 2),
        Sampling(0.0, 21, 2),
        Sampling(0.0, 20, 3),
        Sampling(0.0, 20, 2, seed=1),
    ):
        assert build_body(Request(ASK.messages, changed, ASK.stop), "m", "plain") != base
    assert "stop" not in build_body(Request(ASK.messages, ASK.sampling), "m", "plain")


@pytest.mark.parametrize("takes_seed", [True, False])
def test_a_seed_goes_only_to_a_server_that_takes_one(
    server: ScriptedServer, takes_seed: bool
) -> None:
    server.acts = [reply_with(build_reply())]
    seeded = Request(ASK.messages, Sampling(0.7, 20, 2, seed=4), ASK.stop)
    ask(make_model(server, takes_seed=takes_seed), seeded)
    assert server.bodies[0].get("seed") == (4 if takes_seed else None)


def test_an_empty_prefill_is_no_message() -> None:
    empty = Request((*ASK.messages, Message("assistant", "")), ASK.sampling, ASK.stop)
    body = build_body(empty, "m", "continue_final_message")
    assert body == build_body(ASK, "m", "continue_final_message")
    assert "continue_final_message" not in body


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_failure_is_retried_and_counted(server: ScriptedServer, status: int) -> None:
    server.acts = [fail_with(status), fail_with(status), reply_with(build_reply())]
    assert ask(make_model(server)).retries == 2


BEGUN_AND_FAILED = [
    {"error": {"code": 408, "message": "gone"}},
    {"error": {"code": 429, "message": "gone"}},
    {"error": {"code": 502, "message": "gone"}, "choices": []},
    build_reply(choice_finish_reason="error", choice_error={"code": 502, "message": "gone"}),
    build_reply(choice_finish_reason="error", error="gone"),
    build_reply(choice_finish_reason="error", usage=...),
]


@pytest.mark.parametrize("reply", BEGUN_AND_FAILED)
def test_an_error_in_a_reply_that_may_pass_is_retried_and_may_be_billed(
    server: ScriptedServer, reply: dict[str, Any]
) -> None:
    """OpenRouter answers so with status 200 where a model has begun and fails."""
    server.acts = [reply_with(reply), reply_with(build_reply())]
    completion = ask(make_model(server))
    assert (completion.text, completion.retries, completion.doubtful_tries) == ("It is 2.", 1, 1)
    server.acts = [reply_with(reply)]
    with pytest.raises(TransientModelError, match=r"the error .*gave up after 2 retries") as caught:
        ask(make_model(server))
    assert caught.value.doubtful_tries == 3
    assert len(server.bodies) == 2 + 3


@pytest.mark.parametrize("code", [400, 403, None, "server_error", True, [429]])
def test_an_error_in_a_reply_that_does_not_pass_is_not_retried(
    server: ScriptedServer, code: Any
) -> None:
    server.acts = [reply_with({"error": {"code": code, "message": "no"}})]
    with pytest.raises(ModelError, match="without a choice") as caught:
        ask(make_model(server))
    assert not isinstance(caught.value, TransientModelError)
    assert len(server.bodies) == 1


def test_an_error_in_a_reply_does_not_repeat_the_key(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-1")
    said = {"code": 429, "message": "too many requests of secret-1"}
    server.acts = [reply_with({"error": said})]
    with pytest.raises(TransientModelError, match=r"too many requests of \[key\]") as caught:
        ask(make_model(server, api_key_env="SOME_KEY"))
    assert "secret" not in str(caught.value)


def test_an_unreadable_reply_does_not_repeat_the_key(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-1")
    server.acts = [reply_with({"error": {"code": 401, "message": "no such key: secret-1"}})]
    with pytest.raises(ModelError, match=r"no such key: \[key\]") as caught:
        ask(make_model(server, api_key_env="SOME_KEY"))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_retry_after_is_waited_for(server: ScriptedServer) -> None:
    server.acts = [fail_with(429, Retry_After="0.2"), reply_with(build_reply())]
    started = time.perf_counter()
    completion = ask(make_model(server, backoff=Backoff(0.0, longest_delay_s=5.0)))
    assert completion.retries == 1
    assert time.perf_counter() - started > 0.2
    assert completion.latency_s < 0.2  # of the try that worked, not of the wait


def test_retries_are_bounded(server: ScriptedServer) -> None:
    server.acts = [fail_with(500)]
    with pytest.raises(TransientModelError, match=r"status 500.*gave up after 2 retries"):
        ask(make_model(server))
    assert len(server.bodies) == 3


def test_a_refused_request_is_not_retried(server: ScriptedServer) -> None:
    server.acts = [fail_with(400)]
    with pytest.raises(ModelError, match="status 400") as caught:
        ask(make_model(server))
    assert not isinstance(caught.value, TransientModelError)
    assert caught.value.status_code == 400
    assert len(server.bodies) == 1


def test_silence_is_a_timeout(server: ScriptedServer) -> None:
    released = threading.Event()
    server.acts = [lambda _: released.wait(5) and None]
    try:
        with pytest.raises(TransientModelError, match="Timeout"):
            ask(make_model(server, timeout_s=0.1, max_retries=1))
    finally:
        released.set()
    assert len(server.bodies) == 2


def test_a_connection_closed_mid_body(server: ScriptedServer) -> None:
    server.acts = [close_mid_body, reply_with(build_reply())]
    assert ask(make_model(server)).retries == 1


def test_no_server() -> None:
    model = OpenAICompatibleModel(
        "small", "http://127.0.0.1:1/v1", "m", max_retries=1, backoff=QUICK
    )
    with pytest.raises(TransientModelError, match=r"127\.0\.0\.1:1.*gave up after 1 retries"):
        ask(model)


@pytest.mark.parametrize("content", [b"<html>welcome</html>", b'{"choices": [{"mess', b"", b"\xff"])
def test_what_is_not_json_is_tried_again_and_named(server: ScriptedServer, content: bytes) -> None:
    server.acts = [lambda handler: handler.answer(200, content), reply_with(build_reply())]
    assert ask(make_model(server)).retries == 1
    server.acts = server.acts[:1]
    with pytest.raises(TransientModelError, match=r"not JSON: .*with /v1.*gave up after 2 retries"):
        ask(make_model(server))


@pytest.mark.parametrize(
    ("returned", "also_named", "is_right"),
    [
        ("served-name", (), True),
        ("Served-Name", (), True),
        ("served-name-2026-11-01", (), True),
        ("served-name-0613", (), True),
        ("SERVED-NAME@20261101", (), True),
        ("served-name-mini", (), False),
        ("served-name-5-20261101", (), False),
        ("served-names", (), False),
        ("served", (), False),
        ("another", (), False),
        ("another", ("other", "Another"), True),
        ("another-2026-11-01", ("another",), False),
        (None, (), False),
    ],
)
def test_the_name_in_the_reply(
    server: ScriptedServer, returned: str | None, also_named: tuple[str, ...], is_right: bool
) -> None:
    server.acts = [reply_with(build_reply(model=returned))]
    model = make_model(server, also_named=also_named)
    if is_right:
        assert ask(model).returned_model == returned
        return
    with pytest.raises(ModelError, match=f"'served-name' and answered as '{returned or ''}'"):
        ask(model)
    assert len(server.bodies) == 1


def test_a_nan_in_the_reply_is_no_logprob(server: ScriptedServer) -> None:
    """Python's JSON reads and writes ``NaN``, which no other does."""
    content = [entry("It", -0.5, ("It", -0.5), ("So", float("nan"))), entry(" is", float("nan"))]
    server.acts = [reply_with(build_reply(choice_logprobs={"content": content}))]
    completion = ask(make_model(server))
    assert completion.text == "It is 2."
    assert completion.token_logprobs == ()
    assert completion.first_token_top == (("It", -0.5),)


def test_the_key_is_read_at_the_first_call(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    model = make_model(server, api_key_env="SOME_KEY")
    with pytest.raises(ModelError, match="SOME_KEY holds no key"):
        ask(model)
    monkeypatch.setenv("SOME_KEY", "secret-1\r\n")  # as from a file with a line break
    ask(model)
    assert server.headers_seen[0]["Authorization"] == "Bearer secret-1"


@pytest.mark.parametrize("key", ["secret-1\u201d", "secret\n-1"])
def test_what_can_be_no_key_is_refused_and_not_repeated(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(ModelError, match="SOME_KEY holds a character that no key has") as caught:
        ask(make_model(server, api_key_env="SOME_KEY"))
    assert "secret" not in str(caught.value)
    assert server.bodies == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_model_outlives_its_event_loop(server: ScriptedServer) -> None:
    model = make_model(server)
    assert ask(model).text == ask(model).text == "It is 2."
    asyncio.run(model.complete(ASK))  # left open
    asyncio.run(model.aclose())
    gc.collect()
    assert len(server.bodies) == 3


def test_a_proxy_is_not_asked_for_loopback(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert ask(make_model(server, max_retries=0)).text == "It is 2."


def test_128_requests_are_in_flight_together(server: ScriptedServer) -> None:
    together = threading.Barrier(128, timeout=20)

    def meet(handler: Handler) -> None:
        together.wait()
        reply_with(build_reply())(handler)

    server.acts = [meet]
    model = make_model(server, timeout_s=30.0, max_retries=0)

    async def call_all() -> list[Completion]:
        try:
            return await asyncio.gather(*(model.complete(ASK) for _ in range(128)))
        finally:
            await model.aclose()

    assert len(asyncio.run(call_all())) == 128


@pytest.mark.parametrize("changes", [{"max_retries": -1}, {"timeout_s": 0.0}, {"max_in_flight": 0}])
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        OpenAICompatibleModel("small", "http://127.0.0.1:1/v1", "m", **changes)


LLAMA_END = [entry("It", -0.5), entry("", -0.1)]


@pytest.mark.parametrize(
    ("changes", "ended_by"),
    [
        ({"choice_stop_reason": "\n"}, "delimiter"),  # vLLM: a stop string
        ({"choice_stop_reason": None}, "eos"),  # vLLM: the end mark, though the token holds \n
        ({"choice_stop_reason": 151645}, "eos"),  # vLLM: a stop token's number
        ({"choice_stop_reason": ...}, "delimiter"),  # the last token ".\n" shows it
        ({"choice_finish_reason": "length"}, "length"),
        # Together and TGI: they say which it was, whatever the last token holds
        ({"choice_finish_reason": "eos", "choice_stop_reason": ...}, "eos"),
        ({"choice_finish_reason": "eos_token", "choice_stop_reason": ...}, "eos"),
        (
            {
                "choice_finish_reason": "stop_sequence",
                "choice_stop_reason": ...,
                "choice_logprobs": {"content": [entry("It", -0.5)] * 4},
            },
            "delimiter",
        ),
        # llama.cpp: the stop string's token is not reported, the end mark's is
        ({"choice_stop_reason": ..., "choice_logprobs": {"content": LLAMA_END}}, "delimiter"),
        (
            {
                "choice_stop_reason": ...,
                "choice_logprobs": {"content": LLAMA_END},
                "usage": {"prompt_tokens": 1, "completion_tokens": 2},
            },
            "eos",
        ),
        ({"choice_stop_reason": ..., "choice_logprobs": None}, "delimiter"),
    ],
)
def test_what_ended_the_text(changes: dict[str, Any], ended_by: str) -> None:
    assert read(build_reply(**changes)).ended_by == ended_by


def test_without_stop_strings_the_end_is_the_end_mark() -> None:
    unstopped = Request(ASK.messages, ASK.sampling)
    reply = build_reply(choice_stop_reason=..., choice_logprobs=None)
    assert read(reply, unstopped).ended_by == "eos"


def test_a_text_that_stops_at_once_is_empty() -> None:
    content = {"content": [entry("\n", -0.7, ("\n", -0.7))]}
    completion = read(build_reply(None, choice_logprobs=content))  # type: ignore[arg-type]
    assert (completion.text, completion.ended_by) == ("", "delimiter")
    assert completion.token_logprobs == (-0.7,)


@pytest.mark.parametrize("logprobs", [..., None, {"content": None}, {"content": []}])
def test_missing_logprobs_are_none(logprobs: Any) -> None:
    completion = read(build_reply(choice_logprobs=logprobs))
    assert completion.token_logprobs == ()
    assert completion.first_token_top == ()


@pytest.mark.parametrize("placeholder", [-9999.0, None, float("-inf"), -1e30, float("nan"), "NaN"])
def test_a_placeholder_is_no_logprob(placeholder: float | None) -> None:
    top = [("It", -0.5), ("So", -9999.0)]
    content = [entry("It", -0.5, *top), entry(" is", placeholder)]
    completion = read(build_reply(choice_logprobs={"content": content}))
    assert completion.token_logprobs == ()
    assert completion.first_token_top == (("It", -0.5),)


def test_cached_tokens_are_counted() -> None:
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 24},
    }
    assert read(build_reply(usage=usage)).cached_prompt_tokens == 24


@pytest.mark.parametrize(
    ("completion", "details", "total", "written", "thought"),
    [
        (9, {"reasoning_tokens": 5}, 39, 9, 5),  # OpenAI: thought is a part
        (4, {"reasoning_tokens": 5}, 39, 9, 5),  # xAI: it is counted apart
        (4, None, 39, 9, 5),  # Google's compatible endpoint: only the total has it
        (9, {"reasoning_tokens": 0}, 39, 9, 0),
        (9, {"reasoning_tokens": 5}, None, 9, 5),
        (9, {}, 39, 9, None),
        (9, None, None, 9, None),
    ],
)
def test_thought_is_billed_as_output_wherever_a_server_counts_it(
    completion: int, details: Any, total: int | None, written: int, thought: int | None
) -> None:
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": completion,
        "completion_tokens_details": details,
        "total_tokens": total,
    }
    found = read(build_reply(usage=usage))
    assert (found.completion_tokens, found.reasoning_tokens) == (written, thought)


@pytest.mark.parametrize(
    ("completion", "reasoning", "total"), [(9, 5, 38), (9, 5, 40), (4, 5, 38), (9, None, 12)]
)
def test_a_total_that_nothing_adds_up_to_is_an_error(
    completion: int, reasoning: int | None, total: int
) -> None:
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": total,
    }
    with pytest.raises(ModelError, match=rf"{total} in total: its cost is unknown"):
        read(build_reply(usage=usage))


def test_more_thought_than_was_written_is_an_error() -> None:
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 9,
        "completion_tokens_details": {"reasoning_tokens": 10},
    }
    with pytest.raises(ModelError, match="its cost is unknown"):
        read(build_reply(usage=usage))


def test_another_returned_name_is_kept() -> None:
    completion = read(build_reply(model="served-name-2026-11-01"))
    assert completion.returned_model == "served-name-2026-11-01"
    assert completion.request_id == "chatcmpl-1"


def test_a_refusal_is_an_error_and_no_empty_step() -> None:
    reply = build_reply("", choice_message={"content": None, "refusal": "I cannot help."})
    with pytest.raises(ModelError, match=r"refused to answer: 'I cannot help\.'"):
        read(reply)
    assert read(build_reply(choice_message={"content": "It is 2.", "refusal": None})).text


@pytest.mark.parametrize("usage", [..., None, {"prompt_tokens": 3}])
def test_unknown_token_counts_are_an_error(usage: Any) -> None:
    with pytest.raises(ModelError, match="without token counts"):
        read(build_reply(usage=usage))


@pytest.mark.parametrize(
    ("prompt", "cached", "completion"), [(0, 0, 4), (30, 0, 0), (30, 0, 3), (30, 31, 4)]
)
def test_counts_that_cannot_be_right_are_an_error(
    prompt: int, cached: int, completion: int
) -> None:
    """Four tokens are listed; a prompt is never empty, nor smaller than its cached part."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    told = rf"counts {prompt} prompt tokens \({cached} of them cached\) and {completion} completion"
    with pytest.raises(ModelError, match=told):
        read(build_reply(usage=usage))
    empty = {"prompt_tokens": 30, "completion_tokens": 0}
    assert read(build_reply("", usage=empty, choice_logprobs=None)).completion_tokens == 0


@pytest.mark.parametrize("reply", [None, [], {}, {"choices": []}, {"choices": [{}]}, "text"])
def test_a_reply_without_a_choice_is_an_error(reply: Any) -> None:
    with pytest.raises(ModelError, match="without a choice"):
        read(reply)


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": {"prompt_tokens": 3, "completion_tokens": float("nan")}},
        {"usage": {"prompt_tokens": -3, "completion_tokens": 4}},
        {"usage": {"prompt_tokens": "3", "completion_tokens": 4}},
        {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": 7}},
        {"choice_message": {"content": ["It is 2."]}},
        {"choice_message": {"content": "half a character: \ud83d"}},
        {"choice_logprobs": {"content": [None]}},
        {"choice_logprobs": [1]},
    ],
)
def test_a_value_of_another_kind_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="value that cannot be read"):
        read(build_reply(**changes))


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", None, "abort", ["stop"]])
def test_an_unusable_end_is_an_error(reason: Any) -> None:
    with pytest.raises(ModelError, match="ended by"):
        read(build_reply(choice_finish_reason=reason))


@given(st.text(min_size=1), st.text())
def test_an_echo_is_taken_off_once(prefill: str, text: str) -> None:
    assert read(build_reply(prefill + text), echoed=prefill).text == text


@given(st.integers(1, 60), st.one_of(st.none(), st.floats(0, 1e6)), st.integers(), st.floats(0, 1))
def test_delays_stay_within_their_bounds(
    retry: int, retry_after_s: float | None, seed: int, jitter: float
) -> None:
    backoff = Backoff(first_delay_s=0.5, growth=2.0, longest_delay_s=30.0, jitter=jitter)
    delay = backoff.compute_delay_s(retry, retry_after_s, random.Random(seed))
    full = min(30.0, 0.5 * 2.0 ** (retry - 1))
    asked = retry_after_s or 0.0
    assert max(full * (1 - jitter), asked) <= delay <= max(full, asked)


def test_delays_grow_as_written() -> None:
    backoff = Backoff(first_delay_s=1.0, growth=3.0, longest_delay_s=10.0, jitter=0.0)
    generator = random.Random(0)
    assert [backoff.compute_delay_s(n, None, generator) for n in (1, 2, 3, 4)] == [1, 3, 9, 10]
    assert backoff.compute_delay_s(1, 4.0, generator) == 4.0


@pytest.mark.parametrize(
    "changes", [{"first_delay_s": -1.0}, {"growth": 0.5}, {"longest_delay_s": -1}, {"jitter": 2.0}]
)
def test_an_impossible_backoff_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Backoff(**changes)
