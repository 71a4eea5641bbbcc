"""The cap: what is spent never passes it, whatever is in flight and however calls end."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from scripted_server import (
    Act,
    Handler,
    ScriptedServer,
    ask_once,
    build_message,
    build_reply,
    build_response,
    close_mid_body,
    fail_with,
    reply_with,
)
from tiny import make_card

from routerlib.errors import ModelError, SpendingCapError, UnpricedModelError
from routerlib.models import Backoff, OpenAICompatibleModel, ScriptedModel
from routerlib.models.anthropic_messages import AnthropicModel
from routerlib.models.openai_responses import OpenAIResponsesModel
from routerlib.models.spending import (
    CappedModel,
    SpendingCap,
    compute_usd,
    compute_worst_usd,
)
from routerlib.records import Completion, Message, Request, Sampling

CARD = replace(
    make_card("m", 100),
    input_usd_per_mtok=1.0,
    cached_input_usd_per_mtok=0.1,
    output_usd_per_mtok=10.0,
    price_date="2026-11-01",
    price_source="made up",
)
REQUEST = Request((Message("user", "How many?"),), Sampling(max_tokens=100))
WORST_USD = compute_worst_usd(CARD, REQUEST)


def answer(prompt: int = 40, cached: int = 0, written: int = 20) -> Completion:
    return Completion(
        text="So.",
        ended_by="eos",
        prompt_tokens=prompt,
        completion_tokens=written,
        cached_prompt_tokens=cached,
        token_logprobs=(),
        first_token_top=(),
        finish_reason="stop",
        returned_model="m",
        request_id="1",
        latency_s=0.1,
    )


def test_prices_by_hand() -> None:
    assert compute_usd(CARD, 40, 30, 20) == pytest.approx((10 + 3 + 200) / 1e6)
    # 9 bytes, a mark for the message and what a template may add; 100 tokens to write.
    assert pytest.approx((9 + 16 + 256 + 1000) / 1e6) == WORST_USD
    assert compute_worst_usd(CARD, REQUEST, 50) == pytest.approx(WORST_USD + 500 / 1e6)
    umlauts = replace(REQUEST, messages=(Message("user", "ä" * 9),))
    assert compute_worst_usd(CARD, umlauts) == pytest.approx(WORST_USD + 9 / 1e6)


def test_a_model_without_prices_cannot_be_capped() -> None:
    for gone in ("input_usd_per_mtok", "cached_input_usd_per_mtok", "output_usd_per_mtok"):
        with pytest.raises(UnpricedModelError, match="'m' has no prices"):
            CappedModel(ScriptedModel("m", {}), replace(CARD, **{gone: None}), SpendingCap(1.0), 1)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_cap_is_above_zero(limit: float) -> None:
    with pytest.raises(ValueError, match="limit_usd is"):
        SpendingCap(limit)


def test_the_true_price_is_booked_and_the_last_call_is_not_sent() -> None:
    model = ScriptedModel("m", lambda request: answer())
    cap = SpendingCap(3 * WORST_USD)
    capped = CappedModel(model, CARD, cap, tries=1)
    price = compute_usd(CARD, 40, 0, 20)

    async def spend() -> None:
        while True:
            await capped.complete(REQUEST)

    with pytest.raises(SpendingCapError, match="more than the cap of") as caught:
        asyncio.run(spend())
    assert cap.spent_usd == pytest.approx(model.calls * price)
    assert cap.spent_usd <= cap.limit_usd < cap.spent_usd + WORST_USD
    assert cap.reserved_usd == 0
    assert f"{cap.spent_usd:.4f} USD are spent" in str(caught.value)


@pytest.mark.parametrize("limit_usd", [1.0, float("inf")])
def test_after_a_call_beyond_its_worst_case_no_more_is_sent(limit_usd: float) -> None:
    """So a provider that bills thought on top of the limit costs one call more, not all of them."""
    model = ScriptedModel("m", lambda request: answer(written=500))
    cap = SpendingCap(limit_usd)
    capped = CappedModel(model, CARD, cap, tries=3)
    assert ask_once(capped, REQUEST).completion_tokens == 500
    assert cap.spent_usd == pytest.approx(compute_usd(CARD, 40, 0, 500))
    assert cap.spent_usd > WORST_USD
    if limit_usd == 1.0:
        said = "40 tokens read and 500 written, where 100 were allowed.*thinking_tokens"
        with pytest.raises(SpendingCapError, match=said):
            ask_once(capped, REQUEST)
        assert model.calls == 1
    else:  # such a cap only counts
        ask_once(capped, REQUEST)
        assert cap.spent_usd == pytest.approx(2 * compute_usd(CARD, 40, 0, 500))


def test_what_rounding_leaves_is_not_waited_for() -> None:
    cap = SpendingCap(20_000.0)
    amounts = [641.1, 4215.5, 3912.3, 5642.1]  # adding and taking them away leaves 1.3e-12

    async def spend() -> None:
        async with AsyncExitStack() as held:
            for amount in amounts:
                booking = await held.enter_async_context(cap.reserve(amount))
                booking.actual_usd = 0.0
            held.push_async_callback(asyncio.sleep, 0)
        assert (cap.in_flight, cap.reserved_usd) == (0, 0.0)
        async with cap.reserve(20_000.0):
            pass
        async with cap.reserve(1.0):
            pass

    with pytest.raises(SpendingCapError, match="more than the cap"):
        asyncio.run(asyncio.wait_for(spend(), 5))


@pytest.mark.parametrize(("doubtful", "tries", "booked"), [(0, 3, 0), (2, 3, 2), (9, 3, 3)])
def test_failed_tries_that_may_be_billed_are_booked_at_their_worst(
    doubtful: int, tries: int, booked: int
) -> None:
    error = ModelError("gone")
    error.doubtful_tries = doubtful
    cap = SpendingCap(1.0)
    capped = CappedModel(ScriptedModel("m", lambda request: error), CARD, cap, tries)
    with pytest.raises(ModelError, match="gone"):
        asyncio.run(capped.complete(REQUEST))
    assert cap.spent_usd == pytest.approx(booked * WORST_USD)


BEGUN = replace(REQUEST, messages=(*REQUEST.messages, Message("assistant", "So")))
UNASKED = replace(REQUEST, messages=(Message("system", "Be short."),))


@pytest.mark.parametrize(
    ("kind", "request_", "key", "message"),
    [
        (OpenAICompatibleModel, REQUEST, "NO_KEY", "NO_KEY holds no key"),
        (OpenAIResponsesModel, BEGUN, None, "continues no begun answer"),
        (AnthropicModel, UNASKED, None, "without a user's message"),
    ],
)
def test_a_call_that_was_never_sent_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[OpenAICompatibleModel | OpenAIResponsesModel | AnthropicModel],
    request_: Request,
    key: str | None,
    message: str,
) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    cap = SpendingCap(1.0)
    with ScriptedServer().serving() as server:
        model = kind("m", server.url, "m", api_key_env=key)
        with pytest.raises(ModelError, match=message):
            ask_once(CappedModel(model, CARD, cap, 5), request_)
        assert server.bodies == []
    assert (cap.spent_usd, cap.reserved_usd) == (0, 0)


@pytest.mark.parametrize(
    ("acts", "booked"),
    [
        ([fail_with(400)], 0),
        ([fail_with(429)], 0),
        ([fail_with(503), fail_with(400)], 1),
        ([fail_with(503)], 3),
        ([close_mid_body], 3),
        ([reply_with(build_reply(model="m", usage=...))], 1),
        ([fail_with(503), reply_with(build_reply(model="m", usage=...))], 2),
        ([reply_with(build_reply(model="other"))], 1),
        ([reply_with({"error": {"code": 502, "message": "gone"}})], 3),
    ],
)
def test_a_try_that_was_answered_or_lost_is_booked(acts: list[Act], booked: int) -> None:
    cap = SpendingCap(1.0)
    with ScriptedServer().serving() as server:
        server.acts = acts
        model = OpenAICompatibleModel("m", server.url, "m", max_retries=2, backoff=Backoff(0.001))
        with pytest.raises(ModelError):
            ask_once(CappedModel(model, CARD, cap, 3), REQUEST)
    assert cap.spent_usd == pytest.approx(booked * WORST_USD)
    assert cap.reserved_usd == 0


REFUSAL = {"role": "assistant", "content": None, "refusal": "No."}
MESSAGE = {
    "model": "m",
    "content": [],
    "stop_reason": "refusal",
    "usage": {"input_tokens": 30, "output_tokens": 4},
}
FILTERED = build_response(
    model="m", status="incomplete", incomplete_details={"reason": "content_filter"}
)
REFUSED = build_response(model="m", output=[build_message({"type": "refusal", "refusal": "No."})])


@pytest.mark.parametrize(
    ("kind", "reply", "tokens"),
    [
        (OpenAICompatibleModel, build_reply(model="m", choice_message=REFUSAL), (30, 0, 4)),
        (
            OpenAICompatibleModel,
            build_reply(model="m", choice_finish_reason="content_filter"),
            (30, 0, 4),
        ),
        (OpenAIResponsesModel, REFUSED, (30, 24, 9)),
        (OpenAIResponsesModel, FILTERED, (30, 24, 9)),
        (AnthropicModel, MESSAGE, (30, 0, 4)),
    ],
)
def test_a_refusal_is_booked_as_it_was_counted(
    kind: type[OpenAICompatibleModel | OpenAIResponsesModel | AnthropicModel],
    reply: dict[str, Any],
    tokens: tuple[int, int, int],
) -> None:
    cap = SpendingCap(1.0)
    with ScriptedServer().serving() as server:
        server.acts = [fail_with(503), reply_with(reply)]
        model = kind("m", server.url, "m", backoff=Backoff(0.001))
        with pytest.raises(ModelError) as caught:
            ask_once(CappedModel(model, CARD, cap, 5), REQUEST)
    assert caught.value.doubtful_tries == 1
    assert cap.spent_usd == pytest.approx(WORST_USD + compute_usd(CARD, *tokens))
    billed = caught.value.billed
    assert billed is not None
    found = (billed.prompt_tokens, billed.cached_prompt_tokens, billed.completion_tokens)
    assert found == tokens


def test_a_refusal_beyond_its_worst_case_ends_the_spending() -> None:
    error = ModelError("refused")
    error.billed = answer(written=500)
    cap = SpendingCap(1.0)
    with pytest.raises(ModelError, match="refused"):
        ask_once(CappedModel(ScriptedModel("m", lambda request: error), CARD, cap, 1), REQUEST)
    assert cap.spent_usd == pytest.approx(compute_usd(CARD, 40, 0, 500))
    assert "500 written, where 100 were allowed" in cap.broken


def test_retries_before_an_answer_are_booked_with_it() -> None:
    cap = SpendingCap(1.0)
    script = lambda request: replace(answer(), retries=3, doubtful_tries=2)  # noqa: E731
    asyncio.run(CappedModel(ScriptedModel("m", script), CARD, cap, 4).complete(REQUEST))
    assert cap.spent_usd == pytest.approx(compute_usd(CARD, 40, 0, 20) + 2 * WORST_USD)


def test_a_call_that_is_cancelled_is_booked_in_full() -> None:
    """Nobody knows what the server did with it."""
    cap = SpendingCap(1.0)

    class Slow:
        id = "m"

        async def complete(self, request: Request) -> Completion:
            await asyncio.sleep(60)
            raise AssertionError

        async def aclose(self) -> None: ...

    async def cancel() -> None:
        task = asyncio.create_task(CappedModel(Slow(), CARD, cap, 2).complete(REQUEST))
        await asyncio.sleep(0.01)
        assert cap.reserved_usd == pytest.approx(2 * WORST_USD)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert cap.spent_usd == pytest.approx(2 * WORST_USD)
    assert cap.reserved_usd == 0


def test_one_cap_serves_one_event_loop_after_the_other() -> None:
    cap = SpendingCap(6 * WORST_USD)  # so that some wait for others
    capped = CappedModel(ScriptedModel("m", lambda request: answer()), CARD, cap, 2)

    async def ask_together() -> None:
        await asyncio.gather(*(capped.complete(REQUEST) for _ in range(5)))

    asyncio.run(ask_together())
    asyncio.run(ask_together())
    assert cap.spent_usd == pytest.approx(10 * compute_usd(CARD, 40, 0, 20))


def test_a_limit_that_is_raised_is_reserved_for() -> None:
    """The server writes so many tokens where one was asked for; thought counts towards it."""
    raised = 16
    one = replace(REQUEST, sampling=replace(REQUEST.sampling, max_tokens=1))
    written = replace(REQUEST, sampling=replace(REQUEST.sampling, max_tokens=raised))
    assert compute_worst_usd(CARD, one, 0, raised) == compute_worst_usd(CARD, written)
    assert compute_worst_usd(CARD, one, raised, raised) == compute_worst_usd(CARD, one, raised)
    cap = SpendingCap(compute_worst_usd(CARD, one) * 1.01)
    capped = CappedModel(ScriptedModel("m", lambda request: answer()), CARD, cap, 1)
    asyncio.run(capped.complete(one))
    cap = SpendingCap(compute_worst_usd(CARD, one) * 1.01)
    raising = CappedModel(capped.model, CARD, cap, 1, least_tokens=raised)
    with pytest.raises(SpendingCapError):
        asyncio.run(raising.complete(one))


class Provider:
    """A server that answers slowly, fails in every way, and keeps the bill: what it wrote, whether
    or not that arrived."""

    def __init__(self) -> None:
        self.bill_usd = 0.0
        self.ends: set[str] = set()
        self.asked = 0
        self.all_in_flight = threading.Barrier(64, timeout=30)
        self.random = random.Random(7)
        self.lock = threading.Lock()

    def act(self, handler: Handler) -> None:
        with self.lock:
            self.asked += 1
            is_early = self.asked <= 64
            end = self.random.choice(["ok", "ok", "429", "500", "cut", "no usage", "no json"])
            self.ends.add(end)
            written, delay = self.random.randint(1, 100), self.random.uniform(0, 0.05)
            if end != "429":
                self.bill_usd += (40 * 1.0 + written * 10.0) / 1e6
        if is_early:
            self.all_in_flight.wait()
        time.sleep(delay)
        usage = {"prompt_tokens": 40, "completion_tokens": written}
        if end in ("429", "500"):
            handler.answer(int(end), b'{"error": {"message": "no"}}')
        elif end == "cut":
            close_mid_body(handler)
        elif end == "no json":
            handler.answer(200, b"<html>")
        else:
            more: dict[str, Any] = {"usage": usage if end == "ok" else ...}
            reply_with(build_reply(model="m", **more))(handler)


def test_the_bill_stays_below_the_cap_with_64_calls_in_flight() -> None:
    provider = Provider()
    server = ScriptedServer()
    server.acts = [provider.act]
    with server.serving():
        model = OpenAICompatibleModel(
            "m", server.url, "m", max_retries=1, backoff=Backoff(0.001), max_in_flight=64
        )
        cap = SpendingCap(250 * WORST_USD)
        capped = CappedModel(model, CARD, cap, tries=2)

        async def spend() -> None:
            while True:
                try:
                    await capped.complete(REQUEST)
                except ModelError:
                    assert provider.bill_usd <= cap.limit_usd

        async def spend_together() -> list[BaseException | None]:
            try:
                return await asyncio.gather(*(spend() for _ in range(64)), return_exceptions=True)
            finally:
                await model.aclose()

        ends = asyncio.run(spend_together())
    assert all(isinstance(end, SpendingCapError) for end in ends), ends
    assert provider.ends == {"ok", "429", "500", "cut", "no usage", "no json"}
    assert not provider.all_in_flight.broken
    assert provider.bill_usd <= cap.spent_usd <= cap.limit_usd
    assert cap.spent_usd + 2 * WORST_USD > cap.limit_usd
    assert cap.reserved_usd == 0
