"""Cost lenses: token ledgers to one number.

A ledger counts, for each of M models ordered by price, three kinds of tokens (``LEDGER_FIELDS``).
A lens is a weight for each of them, so a cost is a weighted sum: it adds up over calls, and one
recording can be read through every lens. Invariants: weights are finite and never negative; a
model without a price is an error, never free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from routerlib.errors import UnpricedModelError
from routerlib.records import ModelCard

LEDGER_FIELDS = ("uncached_prompt_tokens", "cached_prompt_tokens", "completion_tokens")

LENS_UNITS = {
    "flops": "GFLOP",
    "generated_flops": "GFLOP, prompts free",
    "large_tokens": "large-model tokens",
    "all_tokens": "tokens",
    "usd": "USD",
}
LENSES = tuple(LENS_UNITS)
DEFAULT_LENS = "flops"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Lens:
    """One way to price tokens.

    ``weights`` (M, 3) is the cost in ``unit`` of one token of each model (cheapest first) and of
    each of ``LEDGER_FIELDS``.
    """

    name: str
    unit: str
    weights: FloatArray

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.weights.shape[1] != len(LEDGER_FIELDS):
            raise ValueError(
                f"weights of lens {self.name!r} have shape {self.weights.shape}: give one row a "
                f"model and the columns {LEDGER_FIELDS}"
            )
        if not np.all(np.isfinite(self.weights)) or np.any(self.weights < 0):
            raise ValueError(f"weights of lens {self.name!r} must be finite and not negative")


def make_lens(name: str, cards: Sequence[ModelCard]) -> Lens:
    """Return the lens called ``name`` for the models of ``cards``, cheapest first.

    - ``flops``: GFLOP, 2 x parameters for every token read or written (Kaplan et al. 2020,
      arXiv 2001.08361, section 2.1; attention's quadratic part left out), cached prompt free;
    - ``generated_flops``: the same for written tokens only, prompts read for nothing: the
      accounting of papers that leave prefill out, to compare with them; no bill looks like this;
    - ``large_tokens``: tokens that the last, dearest model reads uncached or writes;
    - ``all_tokens``: the same of all models;
    - ``usd``: published prices, with the cached-input price for cached prompt tokens.

    Raises ``UnpricedModelError`` when ``usd`` lacks a price or ``flops`` a parameter count, and
    ``ValueError`` for an unknown name or no cards.
    """
    if not cards:
        raise ValueError("a lens needs at least one model card, got none")
    if name not in LENS_UNITS:
        raise ValueError(f"unknown lens {name!r}: choose one of {', '.join(LENSES)}")
    unit = LENS_UNITS[name]
    if name == "flops":
        return Lens(name, unit, np.array([_compute_gflop_row(card) for card in cards]))
    if name == "generated_flops":
        written_only = np.array([0.0, 0.0, 1.0])
        return Lens(name, unit, written_only * [_compute_gflop_row(card) for card in cards])
    if name == "usd":
        return Lens(name, unit, np.array([_compute_usd_row(card) for card in cards]))
    counted = np.array([1.0, 0.0, 1.0])
    if name == "all_tokens":
        return Lens(name, unit, np.tile(counted, (len(cards), 1)))
    weights = np.zeros((len(cards), len(LEDGER_FIELDS)))
    weights[-1] = counted
    return Lens(name, unit, weights)


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second that a model reads of a prompt and writes, alone on its machine."""

    prefill: float
    decode: float


def make_latency_lens(speeds: Sequence[Speed]) -> Lens:
    """Return the seconds that one solution takes when nothing runs beside it, from the measured
    speeds of the models, cheapest first.

    A model of latency, not a measurement of each call: reading is linear in the uncached prompt
    and writing in the tokens, a cached prompt and the way to the server take no time, and probes,
    drafts and steps follow one another. ValueError for a speed that is not > 0.
    """
    rates = np.array([[speed.prefill, speed.decode] for speed in speeds])
    if not rates.size or not np.all(np.isfinite(rates)) or np.any(rates <= 0):
        raise ValueError(f"speeds are {list(speeds)}: give tokens per second > 0 for each model")
    zeros = np.zeros(len(rates))
    return Lens("latency", "s", np.stack([1 / rates[:, 0], zeros, 1 / rates[:, 1]], axis=1))


def set_price_ratio(lens: Lens, ratio: float) -> Lens:
    """Return the lens as if a written token of the dearest model cost ``ratio`` times one of the
    cheapest: the dearest keeps its prices, those of all others are scaled by one factor.

    ValueError for a ratio that is not > 0, and for a lens that prices no written token of the
    cheapest model.
    """
    if not 0.0 < ratio < np.inf:
        raise ValueError(f"ratio is {ratio}; give a number > 0")
    cheapest, dearest = lens.weights[[0, -1], LEDGER_FIELDS.index("completion_tokens")]
    if not cheapest > 0.0:
        raise ValueError(f"lens {lens.name!r} prices no token of the cheapest model: no ratio")
    weights = lens.weights.copy()
    weights[:-1] *= dearest / (ratio * cheapest)
    return Lens(f"{lens.name}, 1 : {ratio:g}", lens.unit, weights)


def keep_item(lens: Lens, model: int, fields: Sequence[str] = LEDGER_FIELDS) -> Lens:
    """Return one item of the lens's bill: what a model, by its number, takes for some of
    ``LEDGER_FIELDS``. All else is free, so the costs of items that leave nothing out add up to the
    lens's.

    >>> lens = Lens("example", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))
    >>> keep_item(lens, 1, ["completion_tokens"]).weights.tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    """
    weights = np.zeros_like(lens.weights)
    columns = [LEDGER_FIELDS.index(field) for field in fields]
    weights[model, columns] = lens.weights[model, columns]
    return Lens(f"{lens.name}, model {model}: {', '.join(fields)}", lens.unit, weights)


def compute_cost(ledger: FloatArray, lens: Lens) -> FloatArray:
    """Return the cost (...) in the lens's unit of a ledger (..., M, 3) of token counts.

    NaN (a call that was never recorded) stays NaN.

    >>> lens = Lens("example", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))
    >>> float(compute_cost(np.array([[10.0, 5.0, 2.0], [0.0, 0.0, 4.0]]), lens))
    24.0
    """
    if ledger.shape[-2:] != lens.weights.shape:
        raise ValueError(
            f"the ledger's last axes are {ledger.shape[-2:]} but lens {lens.name!r} prices "
            f"{lens.weights.shape} (models, fields): make the lens from the lattice's models"
        )
    cost: FloatArray = np.einsum("...mf,mf->...", ledger, lens.weights)
    return cost


def _compute_gflop_row(card: ModelCard) -> list[float]:
    if card.parameters <= 0:
        raise UnpricedModelError(
            f"model {card.id!r} has {card.parameters} parameters: lens 'flops' needs the real "
            "count on its card, or use lens 'usd'"
        )
    gflop = 2.0 * card.parameters / 1e9
    return [gflop, 0.0, gflop]


def _compute_usd_row(card: ModelCard) -> list[float]:
    prices = {
        "input_usd_per_mtok": card.input_usd_per_mtok,
        "cached_input_usd_per_mtok": card.cached_input_usd_per_mtok,
        "output_usd_per_mtok": card.output_usd_per_mtok,
    }
    known = [price for price in prices.values() if price is not None]
    if len(known) < len(prices):
        missing = [name for name, price in prices.items() if price is None]
        raise UnpricedModelError(
            f"model {card.id!r} has no {', '.join(missing)}: fill in its card, or use lens 'flops'"
        )
    return [price / 1e6 for price in known]
