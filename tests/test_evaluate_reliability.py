"""Process labels by hand, calibration maps that recover known frequencies, Brier scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from conftest import build_toy_lattice
from lattice_cases import build_hand_lattice

from routerlib.evaluate import evaluate_reliability
from routerlib.evaluate.reliability import (
    MAPS,
    Decisions,
    _cut,
    fit_isotonic,
    fit_platt,
    list_decisions,
)
from routerlib.features import Observations
from routerlib.lattice import MISSING, Lattice
from routerlib.policies.protocol import stack_probabilities


@dataclass(frozen=True)
class Known:
    """The probability that a field says, bent by a power."""

    power: float = 1.0
    name: str = "known"
    protocol: str = "before"

    def probabilities(self, observations: Observations) -> np.ndarray:
        return stack_probabilities(observations.column("problem_n_words") ** self.power)


def make_lattice(seed: int, n_problems: int = 400) -> Lattice:
    """Problems where large helps with the probability that their field says, small never solves."""
    generator = np.random.default_rng(seed)
    chance = generator.random(n_problems).round(2)
    helps = generator.random(n_problems) < chance
    lattice = build_toy_lattice(
        lambda kind, actions: bool(helps[kind]) and actions[-1] == 1, list(range(n_problems)), 1
    )
    lattice.fields["problem_n_words"][:] = chance[lattice.node_problem]
    return lattice


def test_events_by_hand() -> None:
    lattice = build_hand_lattice()

    @dataclass(frozen=True)
    class Coin:
        name: str = "coin"
        protocol: str = "before"

        def probabilities(self, observations: Observations) -> np.ndarray:
            return stack_probabilities(np.full(len(observations.values), 0.5))

    helps, fails = (list_decisions(Coin(), lattice, e) for e in ("large_helps", "small_fails"))
    assert helps.label[:2].tolist() == [1.0, 0.0]
    assert fails.label[:2].tolist() == [1.0, 1.0]
    assert helps.weight.tolist() == (0.5**lattice.node_depth).tolist()
    lattice.next_node[0, 0] = MISSING
    lattice.outcome[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"1 of \d+ nodes lack a model's continuation"):
        list_decisions(Coin(), lattice)


def make_decisions(n: int, power: float, seed: int = 0) -> tuple[Decisions, np.ndarray]:
    """Decisions whose true frequency is known; the stated probability is its power."""
    generator = np.random.default_rng(seed)
    truth = generator.random(n)
    label = (generator.random(n) < truth).astype(float)
    return Decisions(truth**power, label, np.ones(n), np.arange(n, dtype=np.int32)), truth


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_maps_recover_the_frequencies_and_never_fall(fit: object) -> None:
    known, truth = make_decisions(20_000, power=3.0)
    mapped = fit(known)(known.probability)  # type: ignore[operator]
    assert np.abs(mapped - truth).mean() < 0.05
    assert np.abs(known.probability - truth).mean() > 0.2
    grid = fit(known)(np.linspace(0.0, 1.0, 101))  # type: ignore[operator]
    assert (np.diff(grid) >= 0.0).all()
    assert ((grid >= 0.0) & (grid <= 1.0)).all()


def test_a_probability_that_points_the_wrong_way_becomes_flat() -> None:
    known, _ = make_decisions(2000, power=1.0)
    turned = Decisions(1.0 - known.probability, known.label, known.weight, known.problem)
    for fit in (fit_platt, fit_isotonic):
        assert np.ptp(fit(turned)(np.linspace(0.05, 0.95, 20))) < 0.1


def test_one_label_alone_is_a_flat_map() -> None:
    known, _ = make_decisions(50, power=1.0)
    never = Decisions(known.probability, np.zeros(50), known.weight, known.problem)
    for fit in (fit_platt, fit_isotonic):
        assert fit(never)(np.array([0.1, 0.9])).tolist() == [0.0, 0.0]


def test_weights_count() -> None:
    halves = Decisions(
        np.array([0.5, 0.5]), np.array([0.0, 1.0]), np.array([1.0, 3.0]), np.zeros(2, np.int32)
    )
    assert fit_isotonic(halves)(np.array([0.5])) == pytest.approx(0.75)


def test_reliability_of_a_known_policy() -> None:
    calibration, test = make_lattice(1), make_lattice(2)
    generator = np.random.default_rng(0)
    bins, briers = evaluate_reliability(Known(3.0), calibration, test, generator, n_resamples=200)
    assert tuple(dict.fromkeys(bins["map"])) == MAPS
    assert bins.groupby("map")["share"].sum().tolist() == pytest.approx([1.0] * 3)
    error = (bins["predicted"] - bins["observed"]).abs().groupby(bins["map"]).mean()
    assert error["as it is"] > 0.15
    assert error[["Platt", "isotonic"]].max() < 0.1
    score = briers.set_index("map")["value"]
    # A fair truth has E p (1 - p) = 1/6; the mean alone 1/4.
    assert score[["Platt", "isotonic"]].to_numpy() == pytest.approx([1 / 6, 1 / 6], abs=0.03)
    assert score["frequency"] == pytest.approx(1 / 4, abs=0.02)
    assert score["as it is"] > score["Platt"]
    assert (briers["low"] < briers["value"]).all()
    assert (briers["value"] < briers["high"]).all()
    assert set(briers["n"]) == {400}
    exact, _ = evaluate_reliability(Known(), calibration, test, generator, n_resamples=10, n_bins=4)
    raw = exact[exact["map"] == "as it is"]
    assert len(raw) == 4
    assert raw["share"].to_numpy() == pytest.approx([0.25] * 4, abs=0.03)
    assert (raw["predicted"] - raw["observed"]).abs().max() < 0.1


def test_a_sliver_of_weight_is_no_bin_of_its_own() -> None:
    known, _ = make_decisions(400, power=1.0)
    tied = np.where(np.arange(400) < 397, 0.2, 0.9)
    bins = _cut(tied, known.weight, 8)
    assert [int(inside.sum()) for inside in bins] == [400]
