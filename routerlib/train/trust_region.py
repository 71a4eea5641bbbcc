"""The constrained step of CPO (Achiam et al. 2017, Constrained Policy Optimization, arXiv
1705.10528, section 6) for one constraint, as functions of vectors.

With g the gradient of the objective, b that of the constraint, c how far the constraint is exceeded
(negative when it holds) and H the Hessian of the KL divergence, the step x from theta_k solves

    max g.x   such that   c + b.x <= 0   and   x.H x / 2 <= delta                    (eq. 11)

Invariants: H is met only through products with vectors; no step leaves the KL ball.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

HessianProduct = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """``direction`` (n,) to add to the parameters; the multipliers ``lambda_`` of the KL limit and
    ``nu`` of the constraint (eq. 12; NaN in a recovery step); ``is_recovery``: the constraint is
    out of reach within the ball and the step only lowers it (eq. 14)."""

    direction: torch.Tensor
    lambda_: float
    nu: float
    is_recovery: bool


def conjugate_gradient(
    multiply: HessianProduct, target: torch.Tensor, n_steps: int = 10, tolerance: float = 1e-10
) -> torch.Tensor:
    """Solve H x = target (n,) for symmetric positive H by at most ``n_steps`` products.

    Hestenes and Stiefel 1952; exact after n steps. Stops where the residual has shrunk to
    ``tolerance`` of the target, both in the Euclidean norm.
    """
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    squared = residual @ residual
    goal = tolerance**2 * float(squared)
    for _ in range(n_steps):
        if float(squared) <= goal:
            break
        product = multiply(direction)
        alpha = squared / (direction @ product)
        x = x + alpha * direction
        residual = residual - alpha * product
        previous, squared = squared, residual @ residual
        direction = residual + (squared / previous) * direction
    return x


def compute_step(
    g: torch.Tensor,
    b: torch.Tensor,
    c: float,
    multiply: HessianProduct,
    *,
    delta: float,
    n_steps: int = 10,
) -> Step:
    """Solve eq. 11 in closed form from H^-1 g and H^-1 b, each found by conjugate gradient.

    With q = g.H^-1 g, r = g.H^-1 b, s = b.H^-1 b, the dual (eq. 12) has one of three solutions,
    and x = H^-1 (g - nu b) / lambda (eq. 13):

    - the constraint does not bind: nu = 0, lambda = sqrt(q / (2 delta));
    - it binds: lambda = sqrt((q - r^2/s) / (2 delta - c^2/s)), nu = (lambda c + r) / s;
    - it cannot be met inside the ball (c > 0 and c^2/s > 2 delta): x = -sqrt(2 delta / s) H^-1 b
      (eq. 14).

    g and b are brought to size 1 first, for the square of a tiny gradient is 0.
    """
    size_g, size_b = (float(v.abs().max()) or 1.0 for v in (g, b))
    g, b, c = g / size_g, b / size_b, c / size_b
    inverse_g = conjugate_gradient(multiply, g, n_steps)
    inverse_b = conjugate_gradient(multiply, b, n_steps)
    q, r, s = float(g @ inverse_g), float(g @ inverse_b), float(b @ inverse_b)
    if c > 0.0 and c * c >= 2.0 * delta * s:
        if s <= 0.0:  # no parameter moves the constraint
            return Step(torch.zeros_like(g), float("nan"), float("nan"), True)
        return Step(-((2.0 * delta / s) ** 0.5) * inverse_b, float("nan"), float("nan"), True)
    if q <= 0.0:
        free, lambda_ = torch.zeros_like(g), 0.0
    else:
        lambda_ = (q / (2.0 * delta)) ** 0.5
        free = inverse_g / lambda_
    if c + float(b @ free) <= 0.0:
        return Step(free, size_g * lambda_, 0.0, False)
    # Where g is parallel to b, all points of the plane c + b.x = 0 are worth the same.
    across = max(q - r**2 / s, 0.0)
    room = max(2.0 * delta - c * c / s, 0.0)
    direction = -(c / s) * inverse_b
    if across > 1e-12 * q:
        direction = direction + (room / across) ** 0.5 * (inverse_g - (r / s) * inverse_b)
    lambda_ = (across / room) ** 0.5 if room > 0.0 else float("inf")
    nu = (lambda_ * c + r) / s
    return Step(direction, size_g * lambda_, nu * size_g / size_b, False)


def search_line(
    step: Step,
    evaluate: Callable[[torch.Tensor], tuple[float, float, float]],
    c: float,
    delta: float,
    *,
    n_tries: int = 12,
    shrink: float = 0.7,
) -> torch.Tensor:
    """Shorten a step until the truth, not its expansion, keeps the promises (Algorithm 1).

    ``evaluate(x)`` gives, at theta_k + x, the change of the objective's surrogate, the change of
    the constraint's, and the KL divergence. Accepted is the first x with KL <= delta, a constraint
    that holds or is no worse than before, c + change <= max(c, 0), and an objective that is no
    worse unless the step is a recovery. No step at all (0) where none is.
    """
    direction = step.direction
    for _ in range(n_tries):
        objective, constraint, kl = evaluate(direction)
        holds = c + constraint <= max(c, 0.0) + 1e-9
        if kl <= delta and holds and (step.is_recovery or objective >= 0.0):
            return direction
        direction = direction * shrink
    return torch.zeros_like(direction)
