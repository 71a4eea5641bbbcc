"""Exact training under constraints: one network for all budgets, one multiplier for each.

For every budget b of a grid, expected accuracy is to be as high as it can be with an expected cost
of at most b of the way from always small's to always large's:

    max over theta, min over lambda >= 0:  sum over b of  accuracy_b - lambda_b * overspend_b,
    overspend_b = (E[cost_b] - budget_b) / (cost of always large - cost of always small).

Both expectations are exact and differentiable (``train.tree``): theta climbs by gradient ascent,
lambda_b moves by dual ascent, on what the network spends when all its inputs are shown, as they
will be. The returns are nearly linear, so the two would circle around the saddle point; the
augmented Lagrangian (Hestenes 1969; Rockafellar 1973 for inequalities) has the same saddle points
and damps that. One budget alone is a grid of one.

Invariants: those of ``train.ascent``; what a problem may cost is counted from what the same problem
costs always small and always large; two models.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import cycle

import numpy as np
import torch

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol, Standardiser
from routerlib.lattice import Lattice
from routerlib.policies.budgeted import BudgetedPolicy, compute_budget_logits
from routerlib.policies.network import build_network
from routerlib.train.ascent import AscentConfig, climb, split_problems
from routerlib.train.checks import check_fields
from routerlib.train.tree import (
    Tree,
    build_tree,
    compute_exchange_rate,
    compute_expectations,
    compute_softmax,
    evaluate_constants,
)


@dataclass(frozen=True, slots=True)
class BudgetedConfig(AscentConfig):
    """One training run: how the network climbs (``AscentConfig``), and towards what.

    ``budgets`` is the grid, shares in (0, 1); a step is made on ``batch_size`` problems under all
    of them; ``multiplier_rate`` is how far a multiplier moves in one step when the whole way is
    overspent, in accuracy per share, and ``damping`` is the augmented Lagrangian's, in accuracy
    per squared share. Multipliers start at the chord's exchange rate.
    """

    n_steps: int = 400
    check_every: int = 20
    budgets: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    batch_size: int = 64
    multiplier_rate: float = 0.1
    damping: float = 2.0

    def __post_init__(self) -> None:
        AscentConfig.__post_init__(self)  # slots replace the class, which super() misses
        check_fields(self, "a whole number >= 1", "batch_size")
        check_fields(self, "a number > 0", "multiplier_rate", "damping")
        if not self.budgets or not all(0.0 < budget < 1.0 for budget in self.budgets):
            raise ValueError(f"budgets is {self.budgets}; give one or more shares in (0, 1)")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Problems under constraints: their ``tree``, the standardised ``inputs`` (N, F) at its nodes,
    and what each brings and costs always small, and costs always large, (P,)."""

    tree: Tree
    inputs: torch.Tensor
    small_accuracy: torch.Tensor
    small_cost: torch.Tensor
    large_cost: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What a policy achieves under each of B budgets: accuracy, overspend as a share of the way
    from always small to always large, and entropy (nats a problem), (B,) each."""

    accuracy: torch.Tensor
    overspend: torch.Tensor
    entropy: torch.Tensor


def make_batch(
    lattice: Lattice, lens: Lens, protocol: DecisionProtocol, standardiser: Standardiser
) -> Batch:
    """Turn a complete lattice into tensors."""
    small, large = evaluate_constants(lattice, lens)
    return Batch(
        build_tree(lattice, lens, protocol),
        torch.from_numpy(standardiser.transform(lattice.observe(protocol))),
        *(torch.from_numpy(values) for values in (small.accuracy, small.cost, large.cost)),
    )


def compute_terms(
    network: torch.nn.Module,
    batch: Batch,
    budgets: torch.Tensor,
    gap: float,
    shown: torch.Tensor | None = None,
) -> Terms:
    """What the network achieves under budgets (B,); ``gap`` is the cost from always small to always
    large over all problems, and ``shown`` (F,) masks the inputs."""
    inputs = batch.inputs if shown is None else batch.inputs * shown
    rows = []
    for budget in budgets.tolist():
        decisions = compute_softmax(batch.tree, compute_budget_logits(network, inputs, budget))
        accuracy, cost, entropy = compute_expectations(batch.tree, decisions)
        may_cost = batch.small_cost + budget * (batch.large_cost - batch.small_cost)
        rows.append(torch.stack((accuracy, (cost - may_cost) / gap, entropy)).mean(dim=1))
    return Terms(*torch.stack(rows, dim=1))


def compute_lagrangian(terms: Terms, multipliers: torch.Tensor, damping: float) -> torch.Tensor:
    """Accuracy minus the augmented Lagrangian's penalty under each budget: (B,).

    The penalty is (max(0, lambda + damping * g)^2 - lambda^2) / (2 damping) of the overspend g; its
    slope is max(0, lambda + damping * g), a multiplier that answers at once.
    """
    charged = (multipliers + damping * terms.overspend).clamp_min(0.0)
    return terms.accuracy - (charged.square() - multipliers.square()) / (2.0 * damping)


def compute_accuracy_within(
    terms: Terms, budgets: torch.Tensor, small_accuracy: torch.Tensor
) -> torch.Tensor:
    """Accuracy (B,) of what fits the budgets (B,): a policy that overspends is mixed with always
    small, of mean accuracy ``small_accuracy`` (), until the mixture costs what it may."""
    kept = budgets / (budgets + terms.overspend.clamp_min(0.0))
    return small_accuracy + kept * (terms.accuracy - small_accuracy)


def train_budgeted(
    lattice: Lattice,
    config: BudgetedConfig,
    lens: Lens,
    protocol: DecisionProtocol,
    seed: int,
    *,
    name: str = "budgeted MLP",
) -> BudgetedPolicy:
    """Train one network for all budgets on a complete lattice of training problems.

    Early stopping looks at the mean accuracy within the budgets, less what the chord would give for
    the money that is overspent. Deterministic by ``seed`` for one number of torch threads. Raises
    OffRecordError on missing expansions and ValueError for other than two models, or when large is
    no better or no dearer than small.
    """
    if lattice.n_models != 2:
        raise ValueError(
            f"a budget lies between two models and this lattice has {lattice.n_models}: build it "
            "with a pair"
        )
    generator = torch.Generator().manual_seed(seed)
    exchange_rate = compute_exchange_rate(build_tree(lattice, lens, "before"))
    small, large = evaluate_constants(lattice, lens)
    gap = float(large.cost.mean() - small.cost.mean())
    fit, held = (
        lattice.select(part)
        for part in split_problems(lattice.n_problems, config.validation_share, generator)
    )
    standardiser = Standardiser.fit(fit.observe(protocol).take_inputs(config.features))
    names = standardiser.names
    order = torch.randperm(fit.n_problems, generator=generator).numpy()
    parts = np.array_split(order, math.ceil(fit.n_problems / config.batch_size))
    batches = cycle(
        [make_batch(fit.select(np.sort(part)), lens, protocol, standardiser) for part in parts]
    )
    kept_apart = make_batch(held, lens, protocol, standardiser)
    network = build_network(len(names) + 1, 2, config.width, config.activation, generator)
    budgets = torch.tensor(config.budgets, dtype=torch.float64)
    multipliers = torch.full_like(budgets, exchange_rate * gap)

    def compute_objective(shown: torch.Tensor) -> torch.Tensor:
        batch = next(batches)
        with torch.no_grad():
            overspend = compute_terms(network, batch, budgets, gap).overspend
        multipliers.add_(config.multiplier_rate * overspend).clamp_min_(0.0)
        terms = compute_terms(network, batch, budgets, gap, shown)
        value = compute_lagrangian(terms, multipliers, config.damping)
        return (value + config.entropy_bonus * terms.entropy).mean()

    def compute_held_value() -> float:
        terms = compute_terms(network, kept_apart, budgets, gap)
        within = compute_accuracy_within(terms, budgets, kept_apart.small_accuracy.mean())
        # Mixed down it may be as good as what keeps the budget itself; that is to be preferred.
        return float((within - exchange_rate * gap * terms.overspend.clamp_min(0.0)).mean())

    climb(
        network,
        config,
        generator,
        compute_objective,
        compute_held_value,
        n_features=len(names),
    )
    stored = asdict(config) | {
        "seed": seed,
        "lens": lens.name,
        "exchange_rate": exchange_rate,
        "multipliers": tuple(multipliers.tolist()),
    }
    return BudgetedPolicy(
        name, protocol, standardiser, network, config.width, config.activation, stored
    )


def train_constrained(
    lattice: Lattice,
    config: BudgetedConfig,
    lens: Lens,
    protocol: DecisionProtocol,
    seed: int,
    *,
    budget: float,
    name: str = "constrained MLP",
) -> BudgetedPolicy:
    """Train for one budget: the grid of one. ``config.budgets`` is not looked at."""
    only = replace(config, budgets=(budget,))
    policy = train_budgeted(lattice, only, lens, protocol, seed, name=name)
    return policy.with_setting(budget)
