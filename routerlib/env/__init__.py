"""Recorded problems as a Gymnasium environment: one episode solves one problem.

The observation is what the protocol shows at the current node of the decision tree, standardised
with constants of the training problems; the action is the number of the model that writes the next
step; the reward is 1 at the end of a right solution and 0 elsewhere. What a step costs under the
lens is in ``info["cost"]``, apart from the reward, unless ``cost_weight`` makes one number of them.

A policy's mean reward and cost over all problems are what ``lattice.evaluate_probabilities`` says.
Invariants: every epoch takes each problem once, in an order drawn from the seed; a forbidden
action, an episode that has ended and a step that was never recorded are errors, never a silent
change. ``gymnasium.make(ENV_ID, ...)`` gives a ``RoutingEnv``, ``gymnasium.make_vec(ENV_ID, ...)``
the ``RoutingVectorEnv``.
"""

import gymnasium

from routerlib.env.single import RoutingEnv
from routerlib.env.table import END
from routerlib.env.vector import RoutingVectorEnv

ENV_ID = "routerlib/Routing-v0"

if ENV_ID not in gymnasium.registry:
    gymnasium.register(
        ENV_ID,
        entry_point="routerlib.env:RoutingEnv",
        vector_entry_point="routerlib.env:RoutingVectorEnv",
    )

__all__ = ["END", "ENV_ID", "RoutingEnv", "RoutingVectorEnv"]
