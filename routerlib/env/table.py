"""The look-up tables and the order of problems that both environments share.

Nothing is computed anew: fields and costs are those of the lattice. Invariant: what the protocol
hides is not in the table, and neither is a probe or draft where one action is left: there nothing
is decided, so nothing is asked or billed, and those fields are unknown (0, the training mean).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import InvalidAction

from routerlib.costs import Lens
from routerlib.features import FIELDS, DecisionProtocol, Standardiser, is_visible
from routerlib.lattice import (
    FORBIDDEN,
    Lattice,
    add_spending,
    compute_edge_costs,
    restrict_one_way,
)
from routerlib.lattice.replay import make_off_record_error

END = -1  # the node of an episode that has ended

Observed = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, slots=True)
class DecisionTable:
    """What both environments look up at each of N nodes, and at ``END``, the last row.

    ``observations`` (N + 1, F), all 0 at the end; ``allowed`` (N + 1, K), all true at the end;
    ``cost`` (N, K) in the lens's unit, NaN where it is not recorded.
    """

    lattice: Lattice
    observations: Observed
    allowed: Booleans
    cost: Floats

    def take(self, nodes: Integers, actions: Integers) -> tuple[Floats, Floats, Integers]:
        """Return the cost, the reward and the next node, (n,) each, of n actions.

        Raises ``InvalidAction`` for an action that is no model or that the mode forbids, and
        ``OffRecordError`` for one whose calls are not all recorded.
        """
        lattice = self.lattice
        unknown = (actions < 0) | (actions >= lattice.n_models)
        if unknown.any():
            action = actions[np.argmax(unknown)]
            raise InvalidAction(
                f"action is {action}: give a model's number, 0..{lattice.n_models - 1}"
            )
        next_nodes = lattice.next_node[nodes, actions]
        forbidden = next_nodes == FORBIDDEN
        if forbidden.any():
            first = np.argmax(forbidden)
            model_id = lattice.model_ids[actions[first]]
            raise InvalidAction(
                f"action {actions[first]} goes back to model {model_id!r}, which one-way mode "
                "forbids: choose among action_masks() (sb3-contrib's MaskablePPO does), or use "
                "one_way=False"
            )
        costs = self.cost[nodes, actions]
        off = np.isnan(costs)
        if off.any():
            first = np.argmax(off)
            raise make_off_record_error(lattice, int(nodes[first]), int(actions[first]))
        rewards = np.nan_to_num(lattice.outcome[nodes, actions])
        return costs, rewards, np.maximum(next_nodes, END)

    def find_problem(self, problem_id: object) -> int:
        """Return the number of a problem, which is its root's. ``ValueError`` if unknown."""
        if problem_id not in self.lattice.problem_ids:
            raise ValueError(
                f"problem {problem_id!r} is not among the {self.lattice.n_problems} of this "
                f"lattice, such as {self.lattice.problem_ids[0]!r}"
            )
        return self.lattice.problem_ids.index(str(problem_id))


def build_table(
    lattice: Lattice,
    lens: Lens,
    protocol: DecisionProtocol,
    standardiser: Standardiser,
    *,
    one_way: bool = False,
    budget: float | None = None,
) -> DecisionTable:
    """Return the look-up table of a lattice under a lens and a protocol.

    The observation is the standardiser's fields, in its order; ``spent_<protocol>`` and, with a
    budget, ``budget_left_<protocol>`` may be among them. Raises ``HiddenFieldError`` for fields
    that the protocol hides.
    """
    lattice = restrict_one_way(lattice) if one_way else lattice
    seen = add_spending(lattice, lens, protocol, budget=budget).observe(protocol)
    values = standardiser.transform(seen)
    forced = lattice.allowed.sum(axis=1) == 1
    values[np.ix_(forced, [_is_of_probe(name) for name in standardiser.names])] = 0.0
    return DecisionTable(
        lattice,
        np.vstack([values, np.zeros(values.shape[1])]).astype(np.float32),
        np.vstack([lattice.allowed, np.ones(lattice.n_models, dtype=np.bool_)]),
        compute_edge_costs(lattice, lens, protocol),
    )


def make_observation_space(n_fields: int) -> gymnasium.spaces.Box[np.float32]:
    """Return the space of F standardised fields: any finite number, so that the environments of
    training and test problems have the same space."""
    limit = float(np.finfo(np.float32).max)
    return gymnasium.spaces.Box(-limit, limit, (n_fields,), np.float32)


class Epochs:
    """Numbers of P problems, each once per epoch, in an order drawn anew for every epoch."""

    def __init__(self, n_problems: int, generator: np.random.Generator) -> None:
        self.n_problems, self.generator = n_problems, generator
        self.left: list[int] = []

    def draw(self) -> int:
        """Return the next problem."""
        if not self.left:
            self.left = self.generator.permutation(self.n_problems).tolist()
        return self.left.pop()


def get_problem_option(options: dict[str, Any] | None) -> object:
    """Return the option ``problem_id`` or None. Raises ``ValueError`` for another option."""
    unknown = set(options or {}) - {"problem_id"}
    if unknown:
        raise ValueError(f"unknown options {sorted(unknown)}: there is problem_id")
    return (options or {}).get("problem_id")


def _is_of_probe(name: str) -> bool:
    """Say whether a field is known only where a probe or a draft is paid for."""
    field = FIELDS[name]
    return field.group != "spending" and not is_visible(field, "before")
