"""Training of TRIM-POMDP (Kapoor et al., arXiv 2601.10245): routing on a belief about the path.

Our understanding: hidden is whether the path with its draft is right, lost through an earlier step,
or wrong in the draft alone, so that the large model can still save it; the rewards of a process
reward model are noisy observations of that; the decision is the best one at the belief, by an
offline solver. Changed to fit: the states are exact (where each model alone would come to from
here), transitions and observations are frequencies in the training lattices at each depth, the
observation is discrete, cost is all-in under a lens at the chord's exchange rate, and a few lines
of point-based value iteration (Pineau et al. 2003) stand for the solver. It plans with beliefs that
remember every observation; a policy sees one node, so its own belief starts from the frequency of
the states after as many steps by the large model (theirs from equal shares) and takes in the
observation of that node alone. What the model gets wrong on recorded problems: the rewards along a
path resemble each other more than the hidden state explains, so that beliefs are too sure.

Invariants: nothing is random; on the training problems a coin decides, so at each depth every node
counts the same.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from routerlib.costs import Lens
from routerlib.lattice import Lattice, compute_edge_costs, compute_process_labels
from routerlib.policies.process_reward import ProcessRewardPolicy
from routerlib.policies.trim import BeliefPolicy, compute_reward, count_large, get_path_score
from routerlib.train.process_reward import train_process_reward
from routerlib.train.tree import build_tree, compute_exchange_rate

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

RIGHT, SAVABLE, LOST = range(3)
N_STATES = 3


@dataclass(frozen=True, slots=True)
class TrimPOMDPConfig:
    """One training run.

    ``n_reward_bins`` of the draft's reward and ``n_path_bins`` of the path's score, of equal weight
    on the training problems; beliefs of the grid are multiples of 1 / ``grid_steps``;
    ``smoothing`` is the count that is added to every observation's; ``temperature`` in accuracy:
    where the advantage is this much, the odds of large are e to 1; ``exchange_rate_factor``
    multiplies the chord's lambda.
    """

    n_reward_bins: int = 10
    n_path_bins: int = 3
    grid_steps: int = 20
    smoothing: float = 1.0
    temperature: float = 0.05
    exchange_rate_factor: float = 1.0

    def __post_init__(self) -> None:
        for name in ("n_reward_bins", "n_path_bins", "grid_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a whole number >= 1")
        for name in ("smoothing", "temperature", "exchange_rate_factor"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number > 0")


@dataclass(frozen=True, slots=True, eq=False)
class HiddenProcess:
    """What decisions do to S hidden states, and what is seen of them, at depths 0..D, D being the
    deepest of a node.

    - ``prior`` (D + 1, D + 1, S): share of each state, by depth and steps by the large model;
    - ``transition`` (D + 1, K, S, S): probability that the solution goes on and in which state;
    - ``gain`` (D + 1, K, S): probability of ending right at once, minus the price of the action;
    - ``likelihood`` (D + 1, S, O): probability of each observation.
    """

    prior: Floats
    transition: Floats
    gain: Floats
    likelihood: Floats


def label_states(lattice: Lattice) -> Indices:
    """The hidden state (N,) of each node: RIGHT where the small model alone ends right from there,
    SAVABLE where only the large one does, LOST where neither does."""
    small, large = (compute_process_labels(lattice, action) for action in (0, 1))
    return np.where(small == 1.0, RIGHT, np.where(large == 1.0, SAVABLE, LOST))


def count_process(
    lattice: Lattice,
    states: Indices,
    observed: Indices,
    n_large: Indices,
    *,
    n_observations: int,
    price: Floats,
    smoothing: float,
) -> HiddenProcess:
    """Frequencies in a complete lattice, given each node's state, observation and how many steps
    before it the large model wrote (N,).

    ``price`` (N, K) of each action is in accuracy. What follows a state that no node of a depth is
    in counts as nothing; the prior after a number of steps that no node has is that of the depth.
    """
    n_depths, n_models = int(lattice.node_depth.max()) + 1, lattice.n_models
    prior = np.zeros((n_depths, n_depths, N_STATES))
    transition = np.zeros((n_depths, n_models, N_STATES, N_STATES))
    gain = np.zeros((n_depths, n_models, N_STATES))
    likelihood = np.full((n_depths, N_STATES, n_observations), smoothing)
    depth = lattice.node_depth
    np.add.at(prior, (depth, n_large, states), 1.0)
    np.add.at(likelihood, (depth, states, observed), 1.0)
    for action in range(n_models):
        child = lattice.next_node[:, action]
        goes_on = child >= 0
        index = (depth[goes_on], states[goes_on], states[child[goes_on]])
        np.add.at(transition[:, action], index, 1.0)
        ends_right = np.nan_to_num(lattice.outcome[:, action])
        np.add.at(gain[:, action], (depth, states), ends_right - price[:, action])
    of_depth = prior.sum(axis=1, keepdims=True)
    prior = np.where(prior.sum(axis=2, keepdims=True) > 0.0, prior, of_depth)
    n_nodes = np.maximum(of_depth, 1.0)
    return HiddenProcess(
        prior / prior.sum(axis=2, keepdims=True),
        transition / n_nodes[..., None],
        gain / n_nodes,
        likelihood / likelihood.sum(axis=2, keepdims=True),
    )


def compute_beliefs(prior: Floats, likelihood: Floats) -> Floats:
    """Bayes: beliefs (O, S) after each observation, from prior (S,) and likelihood (S, O).

    >>> compute_beliefs(np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.3, 0.7]]))[0].tolist()
    [0.75, 0.25]
    """
    joint = (prior[:, None] * likelihood).T
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def list_beliefs(n_states: int, n_steps: int) -> Floats:
    """The grid (G, S) of all beliefs whose entries are multiples of 1 / ``n_steps``."""
    counts = np.stack(np.meshgrid(*[np.arange(n_steps + 1)] * (n_states - 1)), axis=-1)
    counts = counts.reshape(-1, n_states - 1)
    counts = counts[counts.sum(axis=1) <= n_steps]
    return np.column_stack((counts, n_steps - counts.sum(axis=1))) / n_steps


def look_ahead(process: HiddenProcess, depth: int, alphas: Floats, beliefs: Floats) -> Floats:
    """Vectors (n, K, S): value in each state of taking an action at a belief (n, S) and then going
    on, after each observation, with the best of ``alphas`` (A, S), those of the next depth.

    Q(b, a) = b . g_a + sum_o max_alpha sum_s' alpha(s') P(o | s') (b T_a)(s').
    """
    following = min(depth + 1, len(process.prior) - 1)  # at depth D nothing goes on
    weighted = alphas[:, :, None] * process.likelihood[following]  # (A, S, O)
    ahead = np.einsum("kst,ato->kaos", process.transition[depth], weighted)
    best = np.einsum("ns,kaos->nkoa", beliefs, ahead).argmax(axis=3)  # (n, K, O)
    n_models, n_observations = best.shape[1:]
    models, seen = np.arange(n_models)[:, None], np.arange(n_observations)
    return np.asarray(process.gain[depth] + ahead[models, best, seen].sum(axis=2))


def solve_process(process: HiddenProcess, grid: Floats) -> list[Floats]:
    """The vectors (A, S) of the best value at each depth, by point-based value iteration on the
    grid (G, S) of beliefs: max over them of alpha . b is a lower bound, exact at the grid as far
    as the next depth's is."""
    solved = [np.zeros((1, grid.shape[1]))]
    for depth in range(len(process.prior) - 1, -1, -1):
        vectors = look_ahead(process, depth, solved[-1], grid)
        best = (vectors * grid[:, None, :]).sum(axis=2).argmax(axis=1)
        solved.append(np.unique(vectors[np.arange(len(grid)), best], axis=0))
    return solved[:0:-1]


def train_trim_pomdp(
    lattice: Lattice,
    config: TrimPOMDPConfig,
    lens: Lens,
    *,
    reward: ProcessRewardPolicy | None = None,
    name: str = "TRIM-POMDP",
) -> BeliefPolicy:
    """Train on a complete lattice of training problems with two models, under protocol ``draft``.

    ``reward`` is the process reward model (None: train one on the same problems). Raises
    OffRecordError on missing expansions, and ValueError for a one-way lattice and when large is no
    better or no dearer than small.
    """
    if not lattice.allowed.all():
        raise ValueError(
            "a one-way lattice has no path that returns to the small model: train on the whole "
            "lattice and restrict the one that is evaluated"
        )
    rate = compute_exchange_rate(build_tree(lattice, lens, "draft"))
    reward = train_process_reward(lattice) if reward is None else reward
    seen = lattice.observe("draft")
    draft, path = compute_reward(reward, seen), get_path_score(seen)
    coin = np.asarray(0.5**lattice.node_depth, dtype=np.float64)
    started = lattice.node_depth > 0
    reward_edges = cut_quantiles(draft, coin, config.n_reward_bins)
    path_edges = cut_quantiles(path[started], coin[started], config.n_path_bins)
    sizes = (len(path_edges) + 1, len(reward_edges) + 1)
    observed = np.ravel_multi_index(
        (np.digitize(path, path_edges), np.digitize(draft, reward_edges)), sizes
    )
    price = rate * config.exchange_rate_factor * compute_edge_costs(lattice, lens, "draft")
    process = count_process(
        lattice,
        label_states(lattice),
        observed,
        count_large(seen),
        n_observations=int(np.prod(sizes)),
        price=price,
        smoothing=config.smoothing,
    )
    solved = solve_process(process, list_beliefs(N_STATES, config.grid_steps))
    n_depths = len(process.prior)
    advantage = np.zeros((n_depths, n_depths, *sizes))
    for depth, n_large in np.ndindex(n_depths, n_depths):
        beliefs = compute_beliefs(process.prior[depth, n_large], process.likelihood[depth])
        alphas = solved[depth + 1] if depth + 1 < n_depths else np.zeros((1, N_STATES))
        vectors = look_ahead(process, depth, alphas, beliefs)
        values = (vectors * beliefs[:, None, :]).sum(axis=2)
        advantage[depth, n_large] = (values[:, 1] - values[:, 0]).reshape(sizes)
    stored = asdict(config) | {"lens": lens.name, "exchange_rate": rate}
    return BeliefPolicy(
        reward, path_edges, reward_edges, advantage, config.temperature, name, config=stored
    )


def cut_quantiles(values: Floats, weights: Floats, n_bins: int) -> Floats:
    """Edges that cut values (n,) into ``n_bins`` of equal weight, or fewer where values repeat."""
    shares = np.arange(1, n_bins) / n_bins
    if not len(values) or not len(shares):
        return np.zeros(0)
    return np.unique(np.quantile(values, shares, method="inverted_cdf", weights=weights))
