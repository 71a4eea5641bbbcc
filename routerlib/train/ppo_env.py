"""The look-up table of a lattice as Stable-Baselines3's vector environment.

Stable-Baselines3 has a class of its own where Gymnasium has ``VectorEnv``, and ``RoutingVectorEnv``
shows the fields of a lattice only. Invariants: problems are drawn as in ``env``, each once per
epoch; the seed that Stable-Baselines3 sets decides their order.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from routerlib.env import END
from routerlib.env.table import DecisionTable, Epochs, Integers, make_observation_space


class LatticeVecEnv(VecEnv):
    """``n_envs`` problems at a time; where one ends, the next of the epoch starts at once.

    ``cost_weight`` is subtracted from the reward for each unit of cost.
    """

    def __init__(self, table: DecisionTable, n_envs: int, cost_weight: float) -> None:
        self._table, self._cost_weight = table, cost_weight
        self._node: Integers = np.zeros(n_envs, dtype=np.intp)
        self._actions: NDArray[np.int64] = np.zeros(n_envs, dtype=np.int64)
        n_fields, n_models = table.observations.shape[1], table.allowed.shape[1]
        space = gymnasium.spaces.Discrete(n_models)
        super().__init__(n_envs, make_observation_space(n_fields), space)

    def reset(self) -> NDArray[np.float32]:
        generator = np.random.default_rng(self._seeds[0])
        self._epochs = Epochs(self._table.lattice.n_problems, generator)
        self._node[:] = [self._epochs.draw() for _ in self._node]
        self._reset_seeds()
        return self._table.observations[self._node]

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        cost, reward, self._node = self._table.take(self._node, self._actions)
        ended = self._node == END
        self._node[ended] = [self._epochs.draw() for _ in range(int(ended.sum()))]
        paid = (reward - self._cost_weight * cost).astype(np.float32)
        return self._table.observations[self._node], paid, ended, [{} for _ in self._node]

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: object = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(f"the problems of a lattice have no attribute {attr_name!r}")
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: object, indices: object = None) -> None:
        raise AttributeError(f"the problems of a lattice have no attribute {attr_name!r}")

    def env_method(self, method_name: str, *args: Any, indices: object = None, **more: Any) -> Any:
        raise AttributeError(f"the problems of a lattice have no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: object, indices: object = None) -> list[bool]:
        return [False] * self.num_envs
