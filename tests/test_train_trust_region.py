"""CPO's step against closed forms, a fine grid and another solver; the ball is never left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from routerlib.train.trust_region import Step, compute_step, conjugate_gradient, search_line

SEEDS = st.integers(0, 2**32 - 1)
NUMBERS = st.floats(-2.0, 2.0)


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def draw_hessian(seed: int, n: int = 2) -> torch.Tensor:
    root = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, n)))
    return root @ root.T + 0.5 * torch.eye(n, dtype=torch.float64)


@given(SEEDS, st.integers(1, 8))
def test_conjugate_gradient_solves(seed: int, n: int) -> None:
    hessian = draw_hessian(seed, n)
    target = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=n))
    x = conjugate_gradient(lambda v: hessian @ v, target, n_steps=4 * n)
    np.testing.assert_allclose(hessian @ x, target, atol=1e-6)


def test_conjugate_gradient_of_nothing_is_nothing() -> None:
    assert conjugate_gradient(lambda v: v, vector(0.0, 0.0)).tolist() == [0.0, 0.0]


# H is the unit matrix and delta 1/2, so the ball has radius 1.
@pytest.mark.parametrize(
    ("g", "b", "c", "expected"),
    [
        ((3.0, 4.0), (1.0, 0.0), -1.0, (0.6, 0.8)),  # the constraint does not bind
        ((1.0, 1.0), (1.0, 0.0), 0.0, (0.0, 1.0)),  # it does: nothing may go along b
        ((1.0, 0.0), (1.0, 0.0), -0.5, (0.5, 0.0)),  # objective and constraint pull one way
        ((0.0, 1.0), (1.0, 0.0), 0.6, (-0.6, 0.8)),  # exceeded, and can be mended at once
        ((0.0, 1.0), (1.0, 0.0), 2.0, (-1.0, 0.0)),  # out of reach: recovery
        ((0.0, 0.0), (1.0, 0.0), 0.5, (-0.5, 0.0)),  # nothing to gain, something to mend
        ((0.0, 0.0), (1.0, 0.0), -0.5, (0.0, 0.0)),
        ((1.0, 0.0), (0.0, 0.0), -0.5, (1.0, 0.0)),  # nothing moves the constraint
        ((1.0, 0.0), (0.0, 0.0), 0.5, (0.0, 0.0)),
    ],
)
def test_step_by_hand(
    g: tuple[float, ...], b: tuple[float, ...], c: float, expected: tuple[float, ...]
) -> None:
    step = compute_step(vector(*g), vector(*b), c, lambda v: v, delta=0.5)
    np.testing.assert_allclose(step.direction, expected, atol=1e-12)


def test_multipliers_by_hand() -> None:
    """x = H^-1 (g - nu b) / lambda with g = (2, 3), b = (1, 0), c = 0: x = (0, 1), so lambda = 3
    and nu = 2."""
    step = compute_step(vector(2.0, 3.0), vector(1.0, 0.0), 0.0, lambda v: v, delta=0.5)
    assert (step.lambda_, step.nu) == pytest.approx((3.0, 2.0))


def test_tiny_gradients_point_where_large_ones_do() -> None:
    for size in (1e-300, 1e-159, 1e200):
        step = compute_step(vector(0.0, size), vector(1.0, 0.0), 0.0, lambda v: v, delta=0.5)
        np.testing.assert_allclose(step.direction, (0.0, 1.0))
        assert step.lambda_ == pytest.approx(size, rel=1e-9)
        far = compute_step(vector(0.0, 1.0), vector(size, 0.0), -size, lambda v: v, delta=0.5)
        np.testing.assert_allclose(far.direction, (0.0, 1.0))


@settings(max_examples=200)
@given(SEEDS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_no_point_of_the_ball_is_better(
    seed: int, g0: float, g1: float, b0: float, b1: float, c: float
) -> None:
    """Two parameters: all directions and radii on a fine grid, the feasible ones of them."""
    hessian, g, b, delta = draw_hessian(seed), vector(g0, g1), vector(b0, b1), 0.1
    step = compute_step(g, b, c, lambda v: hessian @ v, delta=delta)
    x = step.direction
    assert float(x @ hessian @ x) / 2.0 <= delta * (1.0 + 1e-6)
    angle, radius = np.meshgrid(np.linspace(0, 2 * np.pi, 721), np.linspace(0, 1, 41))
    unit = np.stack((np.cos(angle), np.sin(angle)), axis=-1).reshape(-1, 2)
    length = np.sqrt(2 * delta / np.einsum("ni,ij,nj->n", unit, hessian.numpy(), unit))
    points = unit * (length * radius.reshape(-1))[:, None]
    exceeded = c + points @ b.numpy()
    feasible = exceeded <= -1e-9
    if step.is_recovery:
        assert not feasible.any()
        assert c + float(b @ x) <= exceeded.min() + 1e-6
    else:
        assert c + float(b @ x) <= 1e-6
        if feasible.any():
            assert float(g @ x) >= (points[feasible] @ g.numpy()).max() - 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_step_equals_another_solver(seed: int) -> None:
    noise = np.random.default_rng(seed)
    hessian, g, b = draw_hessian(seed, 4), *noise.normal(size=(2, 4))
    c, delta = float(noise.uniform(-0.2, 0.1)), 0.05
    step = compute_step(
        torch.from_numpy(g), torch.from_numpy(b), c, lambda v: hessian @ v, delta=delta
    )
    found = minimize(
        lambda x: -g @ x,
        np.zeros(4),
        jac=lambda _: -g,
        method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": lambda x: -(c + b @ x)},
            {"type": "ineq", "fun": lambda x: delta - x @ hessian.numpy() @ x / 2.0},
        ],
        options={"ftol": 1e-12, "maxiter": 300},
    )
    assert found.success
    assert not step.is_recovery
    np.testing.assert_allclose(step.direction, found.x, atol=1e-4)


@given(SEEDS, st.floats(0.01, 1.0), st.floats(-1.0, 1.0), st.booleans())
def test_line_search_stays_in_the_ball(seed: int, delta: float, c: float, recover: bool) -> None:
    """On a crooked surface, where the expansion is wrong everywhere."""
    slopes = np.random.default_rng(seed).normal(size=(2, 3))

    def evaluate(x: torch.Tensor) -> tuple[float, float, float]:
        values = x.numpy()
        objective = slopes[0] @ values - values @ values
        return objective, slopes[1] @ np.sin(3 * values), float((values**2).sum() ** 0.75)

    step = Step(torch.from_numpy(slopes[0]), 1.0, 0.0, recover)
    x = search_line(step, evaluate, c, delta)
    objective, constraint, kl = evaluate(x)
    assert kl <= delta
    assert c + constraint <= max(c, 0.0) + 1e-9
    assert recover or objective >= 0.0


def test_line_search_takes_the_longest_that_will_do() -> None:
    step = Step(vector(1.0), 1.0, 0.0, False)
    x = search_line(step, lambda x: (1.0, 0.0, float(x[0] ** 2)), -1.0, 0.5, shrink=0.5)
    assert x.tolist() == [0.5]
    nowhere = search_line(step, lambda _: (-1.0, 0.0, 0.0), -1.0, 0.5)
    assert nowhere.tolist() == [0.0]
