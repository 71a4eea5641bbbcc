"""The scripted and the replay model."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib.errors import ModelError, TransientModelError
from routerlib.models import Model, ReplayModel, ScriptedModel
from routerlib.models.replay import build_completion as build_recorded
from routerlib.models.scripted import build_completion
from routerlib.records import Completion, Message, Request, Sampling, Step


def make_request(
    last: str, *, max_tokens: int = 50, stop: tuple[str, ...] = ("\n",), prefill: str = ""
) -> Request:
    messages = [Message("system", "Think."), Message("user", last)]
    if prefill:
        messages.append(Message("assistant", prefill))
    return Request(tuple(messages), Sampling(max_tokens=max_tokens, top_logprobs=2), stop)


def ask(model: Model, request: Request) -> Completion:
    return asyncio.run(model.complete(request))


def test_a_mapping_is_looked_up_by_the_last_message() -> None:
    model = ScriptedModel("small", {"1 + 1?": "It is 2.\nAnswer: 2", "It is 2.\n": "Answer: 2"})
    first = ask(model, make_request("1 + 1?"))
    second = ask(model, make_request("1 + 1?", prefill="It is 2.\n"))
    assert (first.text, first.ended_by) == ("It is 2.", "delimiter")
    assert (second.text, second.ended_by) == ("Answer: 2", "eos")
    assert first.returned_model == "small"
    assert model.calls == 2
    assert model.requests[0].messages[-1].content == "1 + 1?"


def test_a_mapping_by_request_and_a_function() -> None:
    request = make_request("1 + 1?")
    by_request = ScriptedModel("small", {request: "2"})
    by_function = ScriptedModel("small", lambda asked: asked.messages[-1].content.upper())
    assert ask(by_request, request).text == "2"
    assert ask(by_function, make_request("yes")).text == "YES"
    with pytest.raises(ModelError, match="no answer to '2 \\+ 2"):
        ask(by_request, make_request("2 + 2?"))


def test_errors_and_whole_completions_are_passed_on() -> None:
    whole = build_completion("x", make_request("a"), "other")
    model = ScriptedModel("small", {"a": whole, "b": TransientModelError("away")})
    assert ask(model, make_request("a")) is whole
    with pytest.raises(TransientModelError, match="away"):
        ask(model, make_request("b"))
    assert model.calls == 2
    asyncio.run(model.aclose())


def test_counts_by_hand() -> None:
    reply = build_completion("It is 2.\nAnswer: 2", make_request("What is 1 + 1?"), "small")
    assert reply.prompt_tokens == 6  # Think. What is 1 + 1?
    assert reply.completion_tokens == 4  # It is 2. and the line's end
    assert len(reply.token_logprobs) == 4
    assert reply.first_token_top == (("It", reply.token_logprobs[0]), ("<other>", -5.0))


def test_the_token_cap() -> None:
    cut = build_completion("a b c d", make_request("x", max_tokens=3), "small")
    whole = build_completion("a b c d", make_request("x", max_tokens=5), "small")
    assert (cut.text, cut.ended_by, cut.finish_reason) == ("a b c", "length", "length")
    assert (whole.text, whole.ended_by, whole.finish_reason) == ("a b c d", "eos", "stop")


def test_a_stop_at_once_is_an_empty_text() -> None:
    reply = build_completion("\nmore", make_request("x"), "small")
    assert (reply.text, reply.ended_by, reply.completion_tokens) == ("", "delimiter", 1)


@given(st.text(), st.integers(1, 30))
def test_a_text_is_never_longer_than_asked_for(text: str, max_tokens: int) -> None:
    reply = build_completion(text, make_request("x", max_tokens=max_tokens), "small")
    assert text.startswith(reply.text)
    assert "\n" not in reply.text
    assert 1 <= reply.completion_tokens <= max_tokens
    assert len(reply.token_logprobs) == reply.completion_tokens
    assert all(-1 <= value < 0 for value in reply.token_logprobs)
    if reply.ended_by == "eos":
        assert reply.text == text


def make_step(text: str | None = "It is 2.", *, error: str | None = None, attempt: int = 0) -> Step:
    return Step(
        id="s1",
        attempt=attempt,
        run_id="r",
        problem_id="p",
        state_id="a",
        model_id="small",
        kind="step",
        sample_index=0,
        prompt_version="v",
        temperature=0.0,
        max_tokens=50,
        next_state_id=None if error else "b",
        text=None if error else text,
        ended_by=None if error else "delimiter",
        completion_tokens=4,
        prompt_tokens=6,
        cached_prompt_tokens=2,
        shared_prompt_tokens=1,
        finish_reason="stop",
        token_logprobs=(-0.1, -0.2, -0.3, -0.4),
        first_token_top=(("It", -0.1),),
        latency_s=0.5,
        retries=1,
        returned_model="small",
        request_id="req",
        error=error,
    )


def test_a_recorded_step_is_answered_again() -> None:
    request = make_request("1 + 1?")
    model = ReplayModel("small", [(request, make_step()), (request, make_step("later"))])
    assert len(model) == 1
    assert ask(model, request) == Completion(
        text="It is 2.",
        ended_by="delimiter",
        prompt_tokens=6,
        completion_tokens=4,
        cached_prompt_tokens=2,
        token_logprobs=(-0.1, -0.2, -0.3, -0.4),
        first_token_top=(("It", -0.1),),
        finish_reason="stop",
        returned_model="small",
        request_id="req",
        latency_s=0.5,
        retries=1,
    )
    asyncio.run(model.aclose())


def test_what_was_not_recorded_is_an_error() -> None:
    recorded = make_request("1 + 1?")
    model = ReplayModel("small", [(recorded, make_step())])
    for other in (make_request("2 + 2?"), make_request("1 + 1?", max_tokens=51)):
        with pytest.raises(ModelError, match="no recorded answer"):
            ask(model, other)


def test_a_failed_call_is_no_answer() -> None:
    request = make_request("1 + 1?")
    failed = make_step(error="timeout")
    with pytest.raises(ModelError, match="no recorded answer"):
        ask(ReplayModel("small", [(request, failed)]), request)
    assert ask(ReplayModel("small", [(request, failed), (request, make_step(attempt=1))]), request)
    with pytest.raises(ModelError, match=r"failed call \(timeout\)"):
        build_recorded(failed)
