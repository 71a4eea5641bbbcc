"""A hard cap on what calls may cost: the worst case is reserved before a call is sent, what it did
cost is booked afterwards.

Invariant: booked and reserved together never pass the limit, so neither does the bill, whatever is
in flight, as long as a provider keeps to its published prices and to a request's limit of tokens.
After the first call that cost more than its worst case nothing more is sent.
A try that may have been billed and brought no usage (a timeout, a cut connection, a reply without
counts) is booked at its worst case, never at 0.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from routerlib.errors import ModelError, SpendingCapError, UnpricedModelError
from routerlib.models.protocol import Model
from routerlib.records import Completion, ModelCard, Request

# Of a byte-level vocabulary every token is at least a byte of text, or a mark of the chat template.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_REQUEST = 256


@dataclass(slots=True)
class SpendingCap:
    """What may be spent in all, by all models of a run, in USD.

    ``limit_usd`` may be infinite: then the cap only counts. ``spent_usd`` is booked,
    ``reserved_usd`` the worst case of the calls ``in_flight``. ``broken`` says why no worst case
    can be relied on any more, if so.
    """

    limit_usd: float
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    in_flight: int = 0
    broken: str = ""
    _changed: asyncio.Condition | None = field(default=None, init=False, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.limit_usd > 0:
            raise ValueError(f"limit_usd is {self.limit_usd}: give an amount above 0")

    @asynccontextmanager
    async def reserve(self, worst_usd: float) -> AsyncIterator[Booking]:
        """Hold an amount for one call, waiting until others are booked if it does not fit yet.

        The amount is booked at the end as ``Booking.actual_usd`` says, in full if it does not.
        Raises SpendingCapError when it would not fit with nothing else in flight, and for a finite
        limit once the cap is ``broken``.
        """
        changed = self._get_changed()
        async with changed:
            while self._is_short_of(worst_usd):
                if self.in_flight == 0:
                    raise SpendingCapError(
                        f"{self.spent_usd:.4f} USD are spent and the next call may cost "
                        f"{worst_usd:.4f}: more than the cap of {self.limit_usd:g} USD"
                    )
                await changed.wait()
            self.reserved_usd += worst_usd
            self.in_flight += 1
        booking = Booking(worst_usd)
        try:
            yield booking
        finally:
            self._book(worst_usd, booking.actual_usd)
            async with changed:
                changed.notify_all()

    def _get_changed(self) -> asyncio.Condition:
        """Return the condition of the running event loop: one cannot move between loops."""
        loop = asyncio.get_running_loop()
        if self._changed is None or self._loop is not loop:
            self._changed, self._loop = asyncio.Condition(), loop
        return self._changed

    def _is_short_of(self, worst_usd: float) -> bool:
        """Say whether an amount does not fit now. Raises SpendingCapError where nothing does."""
        if self.broken and math.isfinite(self.limit_usd):
            raise SpendingCapError(f"{self.spent_usd:.4f} USD are spent, and {self.broken}")
        return self.spent_usd + self.reserved_usd + worst_usd > self.limit_usd

    def _book(self, worst_usd: float, actual_usd: float) -> None:
        self.spent_usd += actual_usd
        self.in_flight -= 1
        self.reserved_usd -= worst_usd
        if self.in_flight == 0:
            self.reserved_usd = 0.0  # without what is left of adding and taking away


@dataclass(slots=True)
class Booking:
    """What a call cost, in USD."""

    actual_usd: float


@dataclass(frozen=True, slots=True)
class Payer:
    """Pays the calls of one model from a cap.

    Args:
        card: its prices; UnpricedModelError without any.
        cap: shared by all models of a run.
        tries: how often the client may send one request.
    """

    card: ModelCard
    cap: SpendingCap
    tries: int

    def __post_init__(self) -> None:
        get_prices(self.card)

    async def pay(
        self, worst_usd: float, most_tokens: int, call: Callable[[], Awaitable[Completion]]
    ) -> Completion:
        """Return what ``call`` does: it sends one request, of which a try costs at most
        ``worst_usd`` with ``most_tokens`` written. Raises its errors, and SpendingCapError before
        it when it might pass the cap."""
        async with self.cap.reserve(worst_usd * self.tries) as booking:
            answer, doubtful_tries = None, self.tries
            try:
                answer = await call()
                doubtful_tries = answer.doubtful_tries
            except ModelError as error:
                answer = error.billed
                doubtful_tries = min(error.doubtful_tries, self.tries)
                raise
            finally:
                booking.actual_usd = worst_usd * doubtful_tries
                if answer is not None:
                    booking.actual_usd += self._price(answer, worst_usd, most_tokens)
        return answer

    def _price(self, answer: Completion, worst_usd: float, most_tokens: int) -> float:
        """Return what an answer cost, in USD. One beyond its worst case breaks the cap."""
        usd = compute_usd(
            self.card, answer.prompt_tokens, answer.cached_prompt_tokens, answer.completion_tokens
        )
        if usd > worst_usd:
            self.cap.broken = (
                f"a call of {self.card.id} cost {usd:.4f}, more than the {worst_usd:.4f} that it "
                f"could: {answer.prompt_tokens} tokens read and {answer.completion_tokens} "
                f"written, where {most_tokens} were allowed. Give its table more thinking_tokens"
            )
        return usd


@dataclass(frozen=True, slots=True)
class CappedModel:
    """A model whose calls are paid from a cap.

    Args:
        model: who answers.
        card, cap, tries: see ``Payer``.
        thinking_tokens: what the model may write on top of a request's limit.
        least_tokens: the lowest limit that the server takes; a lower one is raised to it.
    """

    model: Model
    card: ModelCard
    cap: SpendingCap
    tries: int
    thinking_tokens: int = 0
    least_tokens: int = 1

    def __post_init__(self) -> None:
        get_prices(self.card)

    @property
    def id(self) -> str:
        return self.model.id

    async def complete(self, request: Request) -> Completion:
        """Return the model's answer; see ``Model.complete``. Raises SpendingCapError before the
        call when it might pass the cap."""
        extra = (self.thinking_tokens, self.least_tokens)
        return await Payer(self.card, self.cap, self.tries).pay(
            compute_worst_usd(self.card, request, *extra),
            compute_most_tokens(request, *extra),
            lambda: self.model.complete(request),
        )

    async def aclose(self) -> None:
        """Close the model's connections."""
        await self.model.aclose()


def get_prices(card: ModelCard) -> tuple[float, float, float]:
    """Return the prices (input, cached input, output) in USD per million tokens. Raises
    UnpricedModelError for a card without them."""
    prices = (
        card.input_usd_per_mtok,
        card.cached_input_usd_per_mtok,
        card.output_usd_per_mtok,
    )
    known = tuple(price for price in prices if price is not None)
    if len(known) < len(prices):
        raise UnpricedModelError(
            f"model {card.id!r} has no prices, so what its calls cost cannot be capped: give its "
            "table in the file of models [prices], or leave out the cap"
        )
    return known[0], known[1], known[2]


def compute_usd(
    card: ModelCard, prompt_tokens: int, cached_prompt_tokens: int, completion_tokens: int
) -> float:
    """Return what a call of so many tokens costs, in USD; the prompt includes its cached part."""
    uncached, cached, written = get_prices(card)
    return (
        uncached * (prompt_tokens - cached_prompt_tokens)
        + cached * cached_prompt_tokens
        + written * completion_tokens
    ) / 1e6


def compute_most_tokens(request: Request, thinking_tokens: int, least_tokens: int) -> int:
    """Return the most tokens that may be written to a request; see ``CappedModel``."""
    return max(least_tokens, request.sampling.max_tokens + thinking_tokens)


def compute_worst_usd(
    card: ModelCard, request: Request, thinking_tokens: int = 0, least_tokens: int = 1
) -> float:
    """Return the most that one try of a request can cost, in USD: no token of the prompt cached,
    each byte of it a token, and everything written that may be; see ``CappedModel``."""
    uncached, cached, written = get_prices(card)
    prompt_tokens = TOKENS_PER_REQUEST + sum(
        TOKENS_PER_MESSAGE + len(message.content.encode()) for message in request.messages
    )
    most = compute_most_tokens(request, thinking_tokens, least_tokens)
    return (max(uncached, cached) * prompt_tokens + written * most) / 1e6
