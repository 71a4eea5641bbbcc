"""Losses by hand, refusals with numbers, and how often a certificate is wrong over many draws."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from routerlib import metrics
from routerlib.calibrate import KeepAccuracy, MaxCost, Sweep, Target, calibrate_threshold
from routerlib.certificate import (
    CertifiedSetting,
    certify_setting,
    compute_losses,
    order_settings,
)
from routerlib.cost_bounds import CostCaps
from routerlib.errors import CalibrationError
from routerlib.lattice import Values
from routerlib.policies import NEVER_LARGE
from routerlib.risk_tests import BOUNDS, Bound, compute_hoeffding_bentkus

CAPS = CostCaps(small=20.0, large=100.0, router=120.0)
SMALL = Values(np.array([1.0, 0.0, 0.0, 0.0]), np.full(4, 10.0))
LARGE = Values(np.array([0.0, 1.0, 1.0, 1.0]), np.full(4, 50.0))
ROUTER = Values(np.array([[1.0, 1.0, 0.0, 1.0]]), np.array([[30.0, 50.0, 10.0, 70.0]]))


def test_accuracy_losses_by_hand() -> None:
    tested = compute_losses(KeepAccuracy(0.9), ROUTER, SMALL, LARGE)
    # 0.9 large - router is -1, -0.1, 0.9, -0.1, between -1 and 0.9
    assert tested.losses.tolist() == [pytest.approx([0.0, 0.9 / 1.9, 1.0, 0.9 / 1.9])]
    assert tested.limit == pytest.approx(1.0 / 1.9)
    kept = (tested.losses.mean() - tested.limit) * 1.9
    assert kept == pytest.approx(0.9 * LARGE.accuracy.mean() - ROUTER.accuracy.mean())


def test_cost_losses_by_hand() -> None:
    tested = compute_losses(MaxCost(0.5), ROUTER, SMALL, LARGE, CAPS)
    # cost - 30 is 0, 20, -20, 40; at the least -(0.5 * 20 + 0.5 * 100), at the most 120
    assert tested.losses.tolist() == [pytest.approx([60 / 180, 80 / 180, 40 / 180, 100 / 180])]
    assert tested.limit == pytest.approx(60 / 180)
    absolute = compute_losses(MaxCost(30.0, "absolute"), ROUTER, SMALL, LARGE, CAPS)
    assert absolute.losses.tolist() == [pytest.approx([0.25, 50 / 120, 10 / 120, 70 / 120])]
    assert absolute.limit == pytest.approx(0.25)
    beyond = compute_losses(MaxCost(1.5), ROUTER, SMALL, LARGE, CAPS)
    # cost + 0.5 * 10 - 1.5 * 50, between -150 and 120 + 0.5 * 20
    assert beyond.losses[0, 0] == pytest.approx((30 + 5 - 75 + 150) / 280)
    assert beyond.limit == pytest.approx(150 / 280)


def test_costs_need_a_bound_that_holds() -> None:
    with pytest.raises(ValueError, match=r"cost <= 50%.*needs the most that one problem can cost"):
        compute_losses(MaxCost(0.5), ROUTER, SMALL, LARGE)
    with pytest.raises(CalibrationError, match=r"problem 3 is outside .*are not those of this rec"):
        compute_losses(MaxCost(0.5), ROUTER, SMALL, LARGE, replace(CAPS, router=30.0))
    for value in (0.0, 120.0, 500.0):
        with pytest.raises(CalibrationError, match="leaves nothing to certify"):
            compute_losses(MaxCost(value, "absolute"), ROUTER, SMALL, LARGE, CAPS)


def make_world(
    n_problems: int, n_draws: int, generator: np.random.Generator
) -> tuple[Sweep, Values, Values]:
    """Draws of P problems: settings with known means on a leading axis of draws (R, T, P).

    Always large is right on 0.6 and always small on 0.3 of the problems, at costs 50 and 10 on
    average; setting t of 11 follows large with probability 1 - t / 10.
    """
    shape = (n_draws, n_problems)
    large_right = generator.random(shape) < 0.6
    small_right = generator.random(shape) < 0.3
    large_cost = 50.0 * generator.uniform(0.5, 1.5, shape)
    small_cost = 10.0 * generator.uniform(0.5, 1.5, shape)
    settings = np.linspace(0.0, 1.0, 11)
    settings[-1] = NEVER_LARGE
    follows = generator.random((n_draws, 1, n_problems)) >= np.linspace(0.0, 1.0, 11)[None, :, None]
    accuracy = np.where(follows, large_right[:, None], small_right[:, None]).astype(float)
    cost = np.where(follows, large_cost[:, None], small_cost[:, None])
    small = Values(small_right.astype(float), small_cost)
    large = Values(large_right.astype(float), large_cost)
    return Sweep(settings, Values(accuracy, cost)), small, large


TRUE_ACCURACY = 0.6 - 0.3 * np.linspace(0.0, 1.0, 11)
TRUE_COST = 50.0 - 40.0 * np.linspace(0.0, 1.0, 11)
WORLD_CAPS = CostCaps(15.0, 75.0, 75.0)


def get_draw(world: tuple[Sweep, Values, Values], draw: int) -> tuple[Sweep, Values, Values]:
    sweep, small, large = world
    return Sweep(sweep.settings, sweep.values.at(draw)), small.at(draw), large.at(draw)


def is_missed(target: Target, chosen: int) -> bool:
    """Whether the setting misses the target on the source of the problems."""
    if isinstance(target, KeepAccuracy):
        return bool(TRUE_ACCURACY[chosen] < target.value * 0.6 - 1e-9)
    limit = target.value if target.unit == "absolute" else 10.0 + 40.0 * target.value
    return bool(TRUE_COST[chosen] > limit + 1e-9)


# Limits between two settings, a little on the wrong side of the dearer or the cheaper one.
TARGETS = [
    (KeepAccuracy(0.76),),
    (MaxCost(0.595),),
    (MaxCost(33.8, "absolute"),),
    (KeepAccuracy(0.62), MaxCost(0.78)),
]
N_DRAWS = 1000


@pytest.mark.parametrize("targets", TARGETS, ids=lambda ts: " and ".join(t.label for t in ts))
@pytest.mark.parametrize("bound", BOUNDS)
def test_violations_are_at_most_delta(targets: tuple[Target, ...], bound: Bound) -> None:
    delta, n_problems = 0.2, 500
    world = make_world(n_problems, N_DRAWS, np.random.default_rng(10))
    training = get_draw(make_world(n_problems, 1, np.random.default_rng(11)), 0)
    order = None
    if len(targets) > 1:
        order = order_settings(training[0], targets, *training[1:], WORLD_CAPS)
    weights = np.full((1, n_problems), 1.0 / n_problems)
    n_missed = n_refused = 0
    for draw in range(N_DRAWS):
        sweep, small, large = get_draw(world, draw)
        try:
            found = certify_setting(
                sweep, targets, small, large, weights,
                delta=delta, caps=WORLD_CAPS, bound=bound, order=order,
            )  # fmt: skip
        except CalibrationError:
            n_refused += 1
            continue
        chosen = int(np.flatnonzero(sweep.settings == found.setting)[0])
        n_missed += any(is_missed(target, chosen) for target in targets)
    assert n_missed / N_DRAWS <= delta + 2.0 * math.sqrt(delta * (1 - delta) / N_DRAWS)
    assert n_refused < N_DRAWS / 2, "a test that refuses always proves nothing"


@pytest.mark.parametrize("target", [ts[0] for ts in TARGETS[:3]], ids=lambda t: t.label)
def test_picking_without_certificate_violates_more_often(target: Target) -> None:
    n_problems, n_draws = 500, 300
    world = make_world(n_problems, n_draws, np.random.default_rng(12))
    weights = np.full((1, n_problems), 1.0 / n_problems)
    n_missed = {"picked": 0, "certified": 0}
    for draw in range(n_draws):
        sweep, small, large = get_draw(world, draw)
        picked = calibrate_threshold(sweep, target, small, large, weights).setting
        found = certify_setting(
            sweep, [target], small, large, weights, delta=0.2, caps=WORLD_CAPS, bound="betting"
        )
        for name, setting in (("picked", picked), ("certified", found.setting)):
            chosen = int(np.flatnonzero(sweep.settings == setting)[0])
            n_missed[name] += is_missed(target, chosen)
    assert n_missed["picked"] > 0.3 * n_draws
    assert n_missed["certified"] <= 0.2 * n_draws


def certify_one(target: Target, n_problems: int = 400, **more: object) -> CertifiedSetting:
    sweep, small, large = get_draw(make_world(n_problems, 1, np.random.default_rng(13)), 0)
    resamples = metrics.draw_resamples(n_problems, 50, np.random.default_rng(0))
    weights = metrics.compute_resample_weights(resamples)
    options: dict[str, object] = {"delta": 0.1, "caps": WORLD_CAPS} | more
    return certify_setting(sweep, [target], small, large, weights, **options)  # type: ignore[arg-type]


def test_the_certificate_says_what_was_shown() -> None:
    found = certify_one(KeepAccuracy(0.7))
    assert found.certificate.p_value <= 0.1
    assert found.certificate.n_problems == 400
    assert found.certificate.n_settings == 11
    # From always large on, so the certified ones are the first, and the cheapest is the last.
    assert found.setting == pytest.approx((found.certificate.n_certified - 1) / 10)
    assert found.calibrations[0].achieved.low <= found.calibrations[0].achieved.value
    assert found.guarantee == (
        "With probability at least 0.9 over the draw of the 400 calibration problems, the accuracy "
        "is at least 0.7 of always large's, in the mean over new problems drawn from the same "
        "source."
    )
    assert "cost of a problem is at most 33, in" in certify_one(MaxCost(33.0, "absolute")).guarantee
    share = certify_one(MaxCost(0.7))
    assert "the cost is at most 0.7 of the way from always small's to" in share.guarantee
    assert share.calibrations[0].achieved.value < 0.7


def test_the_p_value_is_that_of_the_chosen_setting() -> None:
    found = certify_one(KeepAccuracy(0.7))
    sweep, small, large = get_draw(make_world(400, 1, np.random.default_rng(13)), 0)
    tested = compute_losses(KeepAccuracy(0.7), sweep.values, small, large)
    chosen = int(np.flatnonzero(sweep.settings == found.setting)[0])
    risk = tested.losses.mean(axis=1)[chosen]
    assert found.certificate.p_value == float(compute_hoeffding_bentkus(risk, tested.limit, 400))


def test_less_delta_certifies_less() -> None:
    counts = [certify_one(MaxCost(0.8), delta=d).certificate.n_certified for d in (0.3, 0.1, 0.001)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_too_few_problems_are_refused_with_the_number_that_would_do() -> None:
    target = KeepAccuracy(0.9)
    with pytest.raises(
        CalibrationError, match=r"'accuracy >= 90% of large' cannot be cert"
    ) as info:
        certify_one(target, n_problems=60)
    message = str(info.value)
    enough, fewer = (int(number) for number in re.findall(r"about (\d+)", message))
    assert re.search(r"p = 0\.\d+ on 60 calibration problems", message)
    assert fewer < enough
    assert enough > 60
    assert certify_one(target, n_problems=2 * enough).certificate.p_value <= 0.1
    assert certify_one(target, n_problems=2 * fewer, bound="betting").certificate.p_value <= 0.1


def test_what_is_not_so_is_refused_without_a_number() -> None:
    with pytest.raises(CalibrationError, match=r"more would not help: relax it"):
        certify_one(MaxCost(5.0, "absolute"))


def test_opposite_targets_need_an_order_of_training_problems() -> None:
    targets = [KeepAccuracy(0.65), MaxCost(0.8)]
    sweep, small, large = get_draw(make_world(600, 1, np.random.default_rng(14)), 0)
    weights = np.full((1, 600), 1 / 600)
    with pytest.raises(ValueError, match="has no safe end"):
        certify_setting(sweep, targets, small, large, weights, delta=0.1, caps=WORLD_CAPS)
    order = order_settings(sweep, targets, small, large, WORLD_CAPS)
    assert sorted(order.tolist()) == list(range(11))
    assert 0 < order[0] < 10, "an end meets one target only"
    found = certify_setting(
        sweep, targets, small, large, weights,
        delta=0.1, caps=WORLD_CAPS, bound="betting", order=order,
    )  # fmt: skip
    assert len(found.calibrations) == 2
    assert " and the cost is at most " in found.guarantee
    alone = [
        certify_setting(
            sweep, [t], small, large, weights,
            delta=0.1, caps=WORLD_CAPS, bound="betting", order=order[:1],
        ).certificate.p_value
        for t in targets
    ]  # fmt: skip
    both = certify_setting(
        sweep, targets, small, large, weights,
        delta=0.1, caps=WORLD_CAPS, bound="betting", order=order[:1],
    )  # fmt: skip
    assert both.certificate.p_value == max(alone)
