"""Keeping to a rate, by a clock that the test holds."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib.models.rate import BURST_S, NO_LIMIT, Pacer, Rate
from routerlib.models.transport import estimate_tokens


class Clock:
    """Time passes only where somebody sleeps, or is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def grant(rate: Rate, calls: list[tuple[float, float]]) -> list[float]:
    """When calls (pause before it, tokens) are granted, one after the other."""
    clock = Clock()
    pacer = Pacer(rate, clock.read, clock.sleep)

    async def ask() -> list[float]:
        granted = []
        for pause, tokens in calls:
            clock.now += pause
            await pacer.wait(tokens)
            granted.append(clock.now - 100.0)
        return granted

    return asyncio.run(ask())


def test_without_a_limit_nobody_waits() -> None:
    assert grant(NO_LIMIT, [(0, 1e9)] * 3) == [0, 0, 0]


def test_requests_follow_at_the_limit_after_a_burst() -> None:
    """60 a minute is one a second; a pacer that was idle has five seconds' worth in hand."""
    assert grant(Rate(requests_per_minute=60), [(0, 1)] * 8) == [0, 0, 0, 0, 0, 0, 1, 2]


def test_tokens_follow_at_the_limit() -> None:
    """600 a minute are ten a second, with 50 in hand; the call that takes more than is left goes,
    and the next one waits for what it took."""
    times = grant(Rate(tokens_per_minute=600), [(0, 40), (0, 40), (0, 10), (100, 60), (0, 1)])
    assert times == pytest.approx([0, 0, 3, 103, 104])


def test_both_limits_hold() -> None:
    both = Rate(requests_per_minute=60, tokens_per_minute=600)
    assert grant(both, [(0, 100)] * 3) == [0, 5, 15]


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_impossible_limits_are_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="a limit is above 0"):
        Rate(limit, None)
    with pytest.raises(ValueError, match="a limit is above 0"):
        Rate(None, limit)


@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 50)), min_size=1, max_size=40),
    st.floats(10, 600),
)
def test_no_minute_grants_more_than_its_allowance(
    calls: list[tuple[float, float]], limit: float
) -> None:
    """Nor a minute's, a burst's and the one call's that may overdraw the bucket."""
    times = grant(Rate(tokens_per_minute=limit), calls)
    assert times == sorted(times)
    most = max(tokens for _, tokens in calls)
    for start in times:
        inside = [
            tokens for (_, tokens), at in zip(calls, times, strict=True) if start <= at < start + 60
        ]
        assert sum(inside) <= limit * (1 + BURST_S / 60) + most + 1e-6


def test_a_request_counts_its_text_and_what_it_may_write() -> None:
    messages = [{"role": "user", "content": "x" * 400}]
    assert estimate_tokens({"messages": messages, "max_tokens": 50}) == 150
    assert estimate_tokens({"messages": messages, "max_completion_tokens": 50}) == 150
    assert estimate_tokens({"messages": messages, "max_tokens": 50, "system": "y" * 40}) == 160
    assert estimate_tokens({"input": messages, "max_output_tokens": 50}) == 150
    assert estimate_tokens({"prompt": "abc"}) == 0
