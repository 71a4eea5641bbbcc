"""Many recorded problems at a time, as a Gymnasium vector environment over the lattice's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from routerlib.costs import Lens
from routerlib.env.table import (
    END,
    Booleans,
    Epochs,
    Floats,
    Integers,
    Observed,
    build_table,
    get_problem_option,
    make_observation_space,
)
from routerlib.features import DecisionProtocol, Standardiser
from routerlib.lattice import Lattice

Info = dict[str, Any]


class RoutingVectorEnv(VectorEnv[Observed, Integers, npt.NDArray[Any]]):
    """``num_envs`` problems at a time, all stepped by one look-up in the lattice's arrays.

    Equal, number by number and info by info, to Gymnasium's ``SyncVectorEnv`` of ``RoutingEnv``:
    episode i draws its problems from seed + i, and ``metadata["autoreset_mode"]`` is
    ``NEXT_STEP`` (an ended episode ignores the next action and starts anew) or ``SAME_STEP`` (it
    starts anew at once; the end is in ``final_obs`` and ``final_info``).
    ``reset(options={"problem_id": ...})`` takes one problem for all or one for each episode.
    """

    def __init__(
        self,
        num_envs: int,
        lattice: Lattice,
        lens: Lens,
        protocol: DecisionProtocol,
        standardiser: Standardiser,
        *,
        one_way: bool = False,
        budget: float | None = None,
        cost_weight: float = 0.0,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}: give a whole number >= 1")
        if autoreset_mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise ValueError(f"autoreset_mode is {autoreset_mode}: give NEXT_STEP or SAME_STEP")
        self._table = build_table(
            lattice, lens, protocol, standardiser, one_way=one_way, budget=budget
        )
        self._ids = np.array(lattice.problem_ids, dtype=object)
        self._cost_weight = cost_weight
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.single_observation_space = make_observation_space(len(standardiser.names))
        self.single_action_space = gymnasium.spaces.Discrete(lattice.n_models)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._epochs: list[Epochs] = []
        self._problem = np.zeros(num_envs, dtype=np.intp)
        self._node = np.full(num_envs, END, dtype=np.intp)
        self._total_cost = np.zeros(num_envs)
        self._n_decisions = np.zeros(num_envs, dtype=np.intp)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, Info]:
        """Start ``num_envs`` problems; as ``RoutingEnv.reset``."""
        self._check_open()
        super().reset(seed=seed)
        chosen = get_problem_option(options)
        if seed is not None or not self._epochs:
            seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
            n_problems = self._table.lattice.n_problems
            self._epochs = [Epochs(n_problems, np_random(s)[0]) for s in seeds]
        every = np.ones(self.num_envs, dtype=np.bool_)
        if chosen is None:
            self._start(every)
        else:
            self._start(every, self._find_problems(chosen))
        info: Info = {}
        self._describe(info, every)
        return self._table.observations[self._node], info

    def step(self, actions: npt.ArrayLike) -> tuple[Observed, Floats, Booleans, Booleans, Info]:
        """Let the models of ``actions`` (num_envs,) write.

        Returns observations (num_envs, F), rewards, terminations, truncations (num_envs,), infos.
        Raises as ``RoutingEnv.step``; a refused action changes nothing of any episode.
        """
        self._check_open()
        if not self._epochs:
            raise ResetNeeded("no solution is under way: call reset() before step()")
        chosen = np.asarray(actions)
        if chosen.shape != (self.num_envs,) or chosen.dtype.kind not in "iu":
            raise InvalidAction(
                f"actions have shape {chosen.shape} and type {chosen.dtype}: give "
                f"({self.num_envs},) whole numbers"
            )
        going = self._node != END
        cost, reward = np.zeros(self.num_envs), np.zeros(self.num_envs)
        cost[going], reward[going], self._node[going] = self._table.take(
            self._node[going], chosen[going]
        )
        self._total_cost += cost
        self._n_decisions += going
        ended = going & (self._node == END)
        of_step: dict[str, npt.NDArray[Any]] = {"cost": cost}
        of_end = {
            "total_cost": self._total_cost.copy(),
            "n_decisions": self._n_decisions.copy(),
            "is_correct": reward == 1.0,
        }
        info: Info = {}
        fresh = ~going
        if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP:
            fresh = ended
            if ended.any():
                final: Info = {}
                self._describe(final, ended, of_step | of_end)
                rows = np.full(self.num_envs, None, dtype=object)
                for i in np.flatnonzero(ended):
                    rows[i] = self._table.observations[END].copy()
                info |= {"final_obs": rows, "_final_obs": ended.copy()}
                info |= {"final_info": final, "_final_info": ended.copy()}
        else:
            _add_info(info, ended, of_end)
        _add_info(info, going & ~fresh, of_step)
        self._start(fresh)
        self._describe(info, np.ones(self.num_envs, dtype=np.bool_))
        rewards = reward - self._cost_weight * cost
        observations = self._table.observations[self._node]
        return observations, rewards, ended, np.zeros_like(ended), info

    def action_masks(self) -> Booleans:
        """Return (num_envs, K): which actions are allowed now; all where an episode has ended and
        the next action is ignored."""
        return self._table.allowed[self._node]

    def _find_problems(self, chosen: object) -> list[int]:
        """Return the roots (num_envs,) of one problem id, or of one for each episode."""
        ids = [chosen] * self.num_envs if isinstance(chosen, str) else chosen
        if not isinstance(ids, Sequence) or len(ids) != self.num_envs:
            raise ValueError(f"give one problem_id, or one for each of {self.num_envs} episodes")
        return [self._table.find_problem(problem_id) for problem_id in ids]

    def _start(self, where: Booleans, problems: list[int] | None = None) -> None:
        """Start the next problem of their epochs, or the given ones, in some episodes."""
        if problems is None:
            problems = [self._epochs[i].draw() for i in np.flatnonzero(where)]
        self._problem[where] = self._node[where] = problems
        self._total_cost[where] = 0.0
        self._n_decisions[where] = 0

    def _describe(
        self, info: Info, where: Booleans, more: dict[str, npt.NDArray[Any]] | None = None
    ) -> None:
        found = {"problem_id": self._ids[self._problem], "node": self._node}
        _add_info(info, where, found | (more or {}))

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError("this environment is closed: make another")


def _add_info(info: Info, where: Booleans, values: dict[str, npt.NDArray[Any]]) -> None:
    """Add arrays (num_envs,) with the mask of the episodes that they are of, as Gymnasium does."""
    if not where.any():
        return
    for name, value in values.items():
        known = np.full(len(where), None if value.dtype == object else 0, dtype=value.dtype)
        known[where] = value[where]
        info[name], info[f"_{name}"] = known, where.copy()
