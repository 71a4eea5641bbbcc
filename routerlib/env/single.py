"""One recorded problem after the other, as a Gymnasium environment."""

from __future__ import annotations

from operator import index
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from routerlib.costs import Lens
from routerlib.env.table import (
    END,
    Booleans,
    Epochs,
    Observed,
    build_table,
    get_problem_option,
    make_observation_space,
)
from routerlib.features import DecisionProtocol, Standardiser
from routerlib.lattice import Lattice

Info = dict[str, Any]


class RoutingEnv(gymnasium.Env[Observed, np.int64]):
    """One problem at a time.

    - ``lattice`` holds the problems, ``lens`` prices their steps, ``protocol`` says what is seen
      and billed, and ``standardiser``, fitted on training problems, what the observation holds;
    - ``one_way`` forbids going back to a cheaper model; ``action_masks()`` says what is left;
    - ``budget``, a cost per problem, is for a standardiser that has ``budget_left_<protocol>``;
    - ``cost_weight`` is subtracted from the reward for each unit of cost.

    ``reset(options={"problem_id": ...})`` starts a problem of choice and leaves the epoch as it is.
    Every info has ``problem_id`` and ``node`` of the lattice (``END`` after the last step), each
    step's also ``cost``, and the last one's ``total_cost``, ``is_correct`` and ``n_decisions``.
    """

    def __init__(
        self,
        lattice: Lattice,
        lens: Lens,
        protocol: DecisionProtocol,
        standardiser: Standardiser,
        *,
        one_way: bool = False,
        budget: float | None = None,
        cost_weight: float = 0.0,
    ) -> None:
        self._table = build_table(
            lattice, lens, protocol, standardiser, one_way=one_way, budget=budget
        )
        self._cost_weight = cost_weight
        self.observation_space = make_observation_space(len(standardiser.names))
        self.action_space = gymnasium.spaces.Discrete(lattice.n_models)
        self._epochs: Epochs | None = None
        self._problem, self._node = 0, END
        self._total_cost, self._n_decisions = 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, Info]:
        """Start the next problem of the epoch, or ``options["problem_id"]``. A seed starts a new
        epoch. Raises ``ValueError`` for another option or an unknown problem."""
        super().reset(seed=seed)
        problem_id = get_problem_option(options)
        if self._epochs is None or seed is not None:
            self._epochs = Epochs(self._table.lattice.n_problems, self.np_random)
        drawn = problem_id is None
        self._problem = self._epochs.draw() if drawn else self._table.find_problem(problem_id)
        self._node = self._problem
        self._total_cost, self._n_decisions = 0.0, 0
        return self._observe(), self._describe()

    def step(self, action: np.int64 | int) -> tuple[Observed, float, bool, bool, Info]:
        """Let the model of ``action`` write. Raises ``ResetNeeded`` when no episode is running and
        what ``DecisionTable.take`` raises; a refused action changes nothing."""
        if self._node == END:
            raise ResetNeeded("no solution is under way: call reset() before step()")
        costs, rewards, nodes = self._table.take(np.array([self._node]), np.array([index(action)]))
        cost, reward, self._node = float(costs[0]), float(rewards[0]), int(nodes[0])
        self._total_cost += cost
        self._n_decisions += 1
        info = self._describe() | {"cost": cost}
        if self._node == END:
            info["total_cost"], info["n_decisions"] = self._total_cost, self._n_decisions
            info["is_correct"] = reward == 1.0
        return self._observe(), reward - self._cost_weight * cost, self._node == END, False, info

    def action_masks(self) -> Booleans:
        """Return (K,): which actions are allowed now; all of them when no episode is running."""
        masks: Booleans = self._table.allowed[self._node].copy()
        return masks

    def _observe(self) -> Observed:
        row: Observed = self._table.observations[self._node].copy()
        return row

    def _describe(self) -> Info:
        return {
            "problem_id": self._table.lattice.problem_ids[self._problem],
            "node": self._node,
        }
