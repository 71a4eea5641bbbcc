"""Published prices of hosted models, to read recorded traces as if the pair were two of them.

The providers' pages are the sources; the numbers were read from public copies of those pages, and
``date`` is the day or month that such a copy speaks of. Prices for prompts of ordinary length,
without batch discounts. Invariants: every price has a date and a source; a scenario changes prices
only: texts, tokens and outcomes stay those of the recorded models, so it says what *these* steps
would cost at other prices, not how well other models would do. What a provider charges for writing
to its cache, and the length that a prompt must have to be cached at all, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from routerlib.records import ModelCard

_ANTHROPIC = "https://platform.claude.com/docs/en/about-claude/pricing"
_OPENAI = "https://developers.openai.com/api/docs/pricing"
_GOOGLE = "https://ai.google.dev/gemini-api/docs/pricing"


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens of input, cached input and output, with date and source."""

    input: float
    cached_input: float
    output: float
    date: str
    source: str


PRICES: Mapping[str, Price] = {
    "claude-haiku-4.5": Price(1.0, 0.1, 5.0, "2026-10", _ANTHROPIC),
    "claude-haiku-5.5": Price(0.1, 0.01, 0.5, "2026-10-07", _ANTHROPIC),
    "claude-sonnet-5.5": Price(2.0, 0.1, 10.0, "2026-10-07", _ANTHROPIC),
    "claude-opus-5": Price(5.0, 0.5, 25.0, "2026-10", _ANTHROPIC),
    "claude-opus-5.5": Price(4.0, 0.2, 20.0, "2026-10", _ANTHROPIC),
    "gpt-4.1-nano": Price(0.1, 0.025, 0.4, "2026-05-07", _OPENAI),
    "gpt-4.1-mini": Price(0.4, 0.1, 1.6, "2026-05-07", _OPENAI),
    "gpt-4.1": Price(2.0, 0.5, 8.0, "2026-05-07", _OPENAI),
    "gpt-5.4-nano": Price(0.2, 0.02, 1.25, "2026-06", _OPENAI),
    "gpt-5.4": Price(2.5, 0.25, 15.0, "2026-06", _OPENAI),
    "gemini-2.5-flash": Price(0.3, 0.03, 2.5, "2026-03", _GOOGLE),
    "gemini-2.5-pro": Price(1.25, 0.125, 10.0, "2026-03", _GOOGLE),
}

PAIRS: Mapping[str, tuple[str, str]] = {
    f"{small} -> {large}": (small, large)
    for small, large in (
        ("claude-haiku-4.5", "claude-opus-5"),
        ("claude-haiku-5.5", "claude-sonnet-5.5"),
        ("claude-haiku-5.5", "claude-opus-5.5"),
        ("gpt-4.1-nano", "gpt-4.1"),
        ("gpt-4.1-mini", "gpt-4.1"),
        ("gpt-5.4-nano", "gpt-5.4"),
        ("gemini-2.5-flash", "gemini-2.5-pro"),
    )
}


def price_as(cards: Sequence[ModelCard], pair: str) -> tuple[ModelCard, ...]:
    """Return the two cards, cheapest first, with the prices of a pair of ``PAIRS``.

    ValueError for another pair, and for more or fewer cards than two.
    """
    if pair not in PAIRS:
        raise ValueError(f"no pair {pair!r}: choose one of {'; '.join(PAIRS)}")
    if len(cards) != 2:
        raise ValueError(f"a pair prices two models, cheapest first, got {len(cards)} cards")
    return tuple(
        replace(
            card,
            input_usd_per_mtok=price.input,
            cached_input_usd_per_mtok=price.cached_input,
            output_usd_per_mtok=price.output,
            price_date=price.date,
            price_source=price.source,
        )
        for card, price in zip(cards, (PRICES[name] for name in PAIRS[pair]), strict=True)
    )
