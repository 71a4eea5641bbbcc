"""Constrained policy optimisation on sampled rollouts: the paper's method as we understand it.

The paper (Si, Lee, Bastani, arXiv 2605.06116) is known to us by its abstract; its authors' earlier
one (CCPO, arXiv 2511.11828) is taken for the template. What is published elsewhere is named by its
equation: the step in CPO (Achiam et al. 2017, arXiv 1705.10528), the targets in IMPALA (Espeholt et
al. 2018, arXiv 1802.01561). Marked "our understanding" is what we cannot check: the constraint (a
budget of cost; accuracy is the reward), how the action set decides, and how kappa moves.

Invariants: rollouts, the policy's output and the critics are all that the optimiser sees; all
randomness comes from ``seed``; two models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import logsigmoid
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from routerlib.costs import Lens
from routerlib.features import DecisionProtocol, Standardiser
from routerlib.lattice import Lattice
from routerlib.policies.network import Activation, MLPPolicy, build_network
from routerlib.train.checks import check_activation, check_features, check_fields
from routerlib.train.rollouts import Rollouts, sample_rollouts
from routerlib.train.tree import build_tree, evaluate_constants, move_to_allowed
from routerlib.train.trust_region import compute_step, search_line
from routerlib.train.vtrace import compute_vtrace

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CPOConfig:
    """One training run.

    ``width`` units in each hidden layer of the policy and of the critics, ``activation`` tanh or
    silu; ``n_iterations`` policy steps, each on ``rollouts_per_problem`` fresh rollouts of every
    problem, whose behaviour policy is a coin with probability ``exploration`` at each decision;
    ``budget_share`` is the constraint: expected cost at most this share of the way from always
    small to always large; ``kl_limit`` delta, nats in the mean over decisions met; ``rho_bar`` and
    ``c_bar`` clip V-trace's ratios; ``set_width`` the width of the sigmoid that smooths the action
    set; ``kappa_rate`` how far kappa moves when the budget is missed by the whole way;
    ``critic_learning_rate`` and ``critic_steps`` of Adam in each iteration;
    ``conjugate_steps`` and ``damping`` of the solution of H x = g; ``dropout`` is the share of the
    policy's inputs hidden in each iteration; ``features`` names the inputs (None: all of the
    default set that the protocol shows and that are recorded of any problem).
    """

    width: int = 64
    activation: Activation = "tanh"
    n_iterations: int = 50
    rollouts_per_problem: int = 2
    exploration: float = 0.1
    budget_share: float = 0.5
    kl_limit: float = 0.02
    rho_bar: float = 1.0
    c_bar: float = 1.0
    set_width: float = 0.01
    kappa_rate: float = 0.01
    critic_learning_rate: float = 0.003
    critic_steps: int = 10
    conjugate_steps: int = 10
    damping: float = 0.01
    dropout: float = 0.3
    features: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "a whole number >= 1", "width", "n_iterations", "rollouts_per_problem")
        check_fields(self, "a whole number >= 1", "critic_steps", "conjugate_steps")
        check_fields(self, "a number > 0", "kl_limit", "set_width", "critic_learning_rate")
        check_fields(self, "a number > 0", "rho_bar", "c_bar")
        check_fields(self, "a number >= 0", "kappa_rate", "damping")
        check_fields(self, "a share in [0, 1]", "exploration", "budget_share")
        check_fields(self, "a share in [0, 1)", "dropout")
        if self.c_bar > self.rho_bar:
            raise ValueError(f"c_bar is {self.c_bar}; give at most rho_bar, {self.rho_bar}")
        check_activation(self.activation)
        check_features(self.features)


def compute_log_decisions(logits: torch.Tensor, kappa: float, set_width: float) -> torch.Tensor:
    """Log-probability (n, 2) of executing each model, from the policy's logits (n, 2).

    The action set is {a : pi(a | o) >= kappa}. Our understanding: the large model writes where it
    is in the set and the small one elsewhere, which is the threshold rule of ``decide``. Smoothed,
    large is executed with probability sigma((pi(large | o) - kappa) / set_width).
    """
    belongs = (torch.sigmoid(logits[:, 1] - logits[:, 0]) - kappa) / set_width
    return torch.stack((logsigmoid(-belongs), logsigmoid(belongs)), dim=1)


def train_cpo(
    lattice: Lattice,
    config: CPOConfig,
    lens: Lens,
    protocol: DecisionProtocol,
    seed: int,
    *,
    name: str = "CPO",
) -> MLPPolicy:
    """Train on rollouts that are drawn from a complete lattice of training problems.

    Returns pi(. | o), before the action set: thresholding it at ``config["kappa"]`` is the trained
    router, and calibration on other problems gives the threshold for any target. Raises
    OffRecordError on missing expansions and ValueError for other than two models.
    """
    build_tree(lattice, lens, protocol)  # refuses an incomplete lattice: any path may be drawn
    generator = np.random.default_rng(seed)
    ends = compute_end_costs(lattice, lens)

    def draw(decisions: Floats) -> Rollouts:
        n_rollouts = config.rollouts_per_problem
        return sample_rollouts(
            lattice, decisions, lens, protocol, generator=generator, n_per_problem=n_rollouts
        )

    coin = np.full((lattice.n_nodes, 2), 0.5)
    first = sample_rollouts(lattice, coin, lens, protocol, generator=np.random.default_rng(seed))
    return _train(first, draw, config, ends, seed=seed, name=name)


def train_cpo_on_rollouts(
    rollouts: Rollouts,
    config: CPOConfig,
    end_costs: tuple[float, float],
    seed: int,
    *,
    name: str = "CPO",
) -> MLPPolicy:
    """Train on recorded rollouts alone, the same ones in every iteration: wholly off-policy.

    ``end_costs`` are the mean costs of always small and always large, which each model's own
    solutions tell. ``rollouts_per_problem`` and ``exploration`` are the recording's.
    """
    return _train(rollouts, lambda _: rollouts, config, end_costs, seed=seed, name=name)


def compute_end_costs(lattice: Lattice, lens: Lens) -> tuple[float, float]:
    """Mean cost of always small and of always large, under protocol ``before``."""
    if lattice.n_models != 2:
        raise ValueError(
            f"a threshold decides between two models and this lattice has {lattice.n_models}: "
            "build it with a pair"
        )
    small, large = evaluate_constants(lattice, lens)
    return float(small.cost.mean()), float(large.cost.mean())


def _train(
    first: Rollouts,
    draw: Callable[[Floats], Rollouts],
    config: CPOConfig,
    end_costs: tuple[float, float],
    *,
    seed: int,
    name: str,
) -> MLPPolicy:
    """The algorithm. ``draw`` turns decisions (M, 2) at the observations of ``first`` into rollouts
    over the same observations."""
    if not end_costs[1] > end_costs[0]:
        raise ValueError(f"always large costs {end_costs[1]} and always small {end_costs[0]}")
    gap = end_costs[1] - end_costs[0]  # the unit of cost from here on
    budget = end_costs[0] / gap + config.budget_share
    generator = torch.Generator().manual_seed(seed)
    observations = first.observations.take_inputs(config.features)
    standardiser = Standardiser.fit(observations)
    inputs = torch.from_numpy(standardiser.transform(observations))
    allowed = torch.from_numpy(first.allowed)
    sizes = (inputs.shape[1], 2, config.width, config.activation)
    policy = build_network(*sizes, generator)
    critics = build_network(*sizes, generator)  # V of the reward, V of the cost
    optimiser = torch.optim.Adam(critics.parameters(), lr=config.critic_learning_rate)
    kappa = 0.5

    for _ in range(config.n_iterations):
        # Rollouts by pi_k, with its action set, and a coin now and then.
        with torch.no_grad():
            shown = inputs * (torch.rand(sizes[0], generator=generator) >= config.dropout)
            log_decisions = compute_log_decisions(policy(shown), kappa, config.set_width)
            decisions = move_to_allowed(log_decisions.exp(), allowed)
            values = critics(inputs).numpy()
        behaviour = (1.0 - config.exploration) * decisions + config.exploration * 0.5
        rollouts = draw(behaviour.numpy())
        taken, row = rollouts.taken, rollouts.row

        # Targets and advantages of reward and cost: V-trace, IMPALA eq. 1.
        ratio = decisions.numpy()[row, rollouts.action] / rollouts.behaviour
        traces = [
            compute_vtrace(
                gain, values[row, i], ratio, taken, rho_bar=config.rho_bar, c_bar=config.c_bar
            )
            for i, gain in enumerate((rollouts.reward, rollouts.cost / gap))
        ]

        # Critics: least squares towards the targets, IMPALA section 4.2.
        met = torch.from_numpy(row[taken])
        targets = torch.from_numpy(np.stack([trace.targets[taken] for trace in traces], axis=1))
        for _ in range(config.critic_steps):
            optimiser.zero_grad()
            loss = (critics(inputs[met]) - targets).square().mean()
            loss.backward()
            optimiser.step()

        # g, b and c of CPO, eqs. 10 and 11, over the decisions where there was a choice.
        free = taken & rollouts.allowed[row].all(axis=2)
        met = torch.from_numpy(row[free])
        weighted = np.stack([(trace.rho * trace.advantages)[free] for trace in traces], axis=1)
        surrogate = _Surrogate(
            policy,
            shown[met],
            torch.from_numpy(rollouts.action[free]),
            torch.from_numpy(weighted / len(row)),
            log_decisions[met],
            kappa,
            config.set_width,
        )
        g, b = surrogate.compute_gradients()
        c = float(traces[1].targets[:, 0].mean()) - budget

        # The step: CPO eqs. 12 to 14, then the line search of its Algorithm 1.
        multiply = surrogate.make_hessian_product(config.damping)
        step = compute_step(
            g, b, c, multiply, delta=config.kl_limit, n_steps=config.conjugate_steps
        )
        theta = parameters_to_vector(policy.parameters()).detach()
        evaluate = partial(surrogate.evaluate, theta)
        vector_to_parameters(
            theta + search_line(step, evaluate, c, config.kl_limit), policy.parameters()
        )

        # Our understanding: as in adaptive conformal inference, kappa rises while too much is
        # spent and falls while too little is.
        kappa = min(max(kappa + config.kappa_rate * c, 0.0), 1.0)

    policy.requires_grad_(False)
    stored = asdict(config) | {"seed": seed, "kappa": kappa}
    protocol = first.observations.protocol
    return MLPPolicy(name, protocol, standardiser, policy, config.width, config.activation, stored)


@dataclass(frozen=True, slots=True, eq=False)
class _Surrogate:
    """What a change of the policy is worth, to first order in its decisions (CPO, eq. 10).

    ``inputs`` (V, F) and ``actions`` (V,) of the decisions met; ``gains`` (V, 2) their rho times
    advantage, of reward and of cost, over the number of rollouts; ``log_old`` (V, 2) the
    log-probabilities of pi_k.
    """

    policy: torch.nn.Sequential
    inputs: torch.Tensor
    actions: torch.Tensor
    gains: torch.Tensor
    log_old: torch.Tensor
    kappa: float
    set_width: float

    def _compute_log_new(self) -> torch.Tensor:
        return compute_log_decisions(self.policy(self.inputs), self.kappa, self.set_width)

    def _compute_changes(self, log_new: torch.Tensor) -> torch.Tensor:
        """Sum over decisions of (pi / pi_k - 1) rho A, of reward and of cost: (2,)."""
        ratio = torch.exp((log_new - self.log_old).gather(1, self.actions[:, None]))
        return ((ratio - 1.0) * self.gains).sum(dim=0)

    def _compute_kl(self, log_new: torch.Tensor) -> torch.Tensor:
        """KL(pi || pi_k) in the mean over the decisions met, nats."""
        return (log_new.exp() * (log_new - self.log_old)).sum(dim=1).mean()

    def _differentiate(
        self, value: torch.Tensor, *, keep: bool = False, again: bool = False
    ) -> torch.Tensor:
        """Gradient (n,) of a value; ``keep`` its graph, or make the gradient's own (``again``)."""
        parts = torch.autograd.grad(
            value, tuple(self.policy.parameters()), retain_graph=keep or again, create_graph=again
        )
        return torch.cat([part.reshape(-1) for part in parts])

    def compute_gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """g of the reward and b of the cost at theta_k."""
        reward, cost = self._compute_changes(self._compute_log_new())
        return self._differentiate(reward, keep=True), self._differentiate(cost)

    def make_hessian_product(self, damping: float) -> Callable[[torch.Tensor], torch.Tensor]:
        """v -> (H + ``damping``) v, H the Hessian of the KL divergence at theta_k."""
        slope = self._differentiate(self._compute_kl(self._compute_log_new()), again=True)
        return lambda v: self._differentiate(slope @ v, keep=True) + damping * v

    def evaluate(self, theta: torch.Tensor, x: torch.Tensor) -> tuple[float, float, float]:
        """Change of reward, change of cost and KL at theta + x; leaves the policy there."""
        vector_to_parameters(theta + x, self.policy.parameters())
        with torch.no_grad():
            log_new = self._compute_log_new()
            reward, cost = self._compute_changes(log_new).tolist()
            return reward, cost, float(self._compute_kl(log_new))
