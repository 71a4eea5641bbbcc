"""Keeping below a provider's limits of requests and tokens per minute.

Invariant: in any minute that begins at a grant, at most one minute's allowance and one burst of
``BURST_S`` seconds are granted, counted in what was asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

BURST_S = 5.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What a provider allows in a minute; None where it sets no limit."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for value in (self.requests_per_minute, self.tokens_per_minute):
            if value is not None and not value > 0:
                raise ValueError(f"{self}: a limit is above 0, or None for none")


NO_LIMIT = Rate()


@dataclass(slots=True)
class Pacer:
    """Makes calls wait until a rate allows them, in the order in which they came.

    One bucket for each limit: it fills at the limit's pace, up to ``BURST_S`` seconds' worth; a
    call takes its amount, and the next one waits until what it left below zero is filled up. So a
    call that asks for more than the bucket holds is not held up for ever. ``clock`` and ``sleep``
    stand in for those of time and asyncio.
    """

    rate: Rate
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _free_at: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._free_at = [float("-inf"), float("-inf")]

    async def wait(self, tokens: float) -> None:
        """Return when one request of so many tokens may be sent."""
        if self.rate == NO_LIMIT:
            return
        delay_s = self._reserve(tokens)
        if delay_s > 0:
            await self.sleep(delay_s)

    def _reserve(self, tokens: float) -> float:
        """Take a place in every bucket; return the seconds until all of them grant it."""
        now = self.clock()
        limits = (self.rate.requests_per_minute, self.rate.tokens_per_minute)
        at = now
        for place, (limit, amount) in enumerate(zip(limits, (1.0, tokens), strict=True)):
            if limit is not None:
                granted = max(self._free_at[place], now - BURST_S)
                at = max(at, granted)
                self._free_at[place] = granted + 60.0 * amount / limit
        return at - now
