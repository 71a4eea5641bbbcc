"""Recorded steps as a lattice of flat arrays: exact replay of any policy, the oracle, coverage.

``build_lattice`` / ``load_lattice`` make it; ``evaluate_probabilities`` and ``follow_thresholds``
score policies; ``oracle`` and ``frontier`` say what the record allows;
``coverage`` and ``missing_expansions`` say what it lacks; ``restrict_one_way`` masks it to
policies that escalate once, ``restrict_depth`` to those that decide at the first steps only;
``add_spending`` shows a policy what it has paid; ``hide_logprobs`` closes a model;
``bill_reward_model`` bills what scores every draft.
"""

from routerlib.lattice.arrays import FORBIDDEN, MISSING, TERMINAL, Lattice, LatticePlan
from routerlib.lattice.build import (
    build_lattice,
    load_frame,
    load_lattice,
    load_model_cards,
    load_tables,
)
from routerlib.lattice.clairvoyant import Frontier, frontier, oracle
from routerlib.lattice.completeness import Coverage, coverage, missing_expansions
from routerlib.lattice.labels import compute_process_labels
from routerlib.lattice.masking import hide_logprobs
from routerlib.lattice.modes import restrict_depth, restrict_one_way
from routerlib.lattice.replay import (
    Values,
    compute_edge_costs,
    evaluate_probabilities,
    follow_thresholds,
    mask_probabilities,
)
from routerlib.lattice.reward_model import bill_reward_model
from routerlib.lattice.rows import TraceTables
from routerlib.lattice.spending import add_spending, compute_spent

__all__ = [
    "FORBIDDEN",
    "MISSING",
    "TERMINAL",
    "Coverage",
    "Frontier",
    "Lattice",
    "LatticePlan",
    "TraceTables",
    "Values",
    "add_spending",
    "bill_reward_model",
    "build_lattice",
    "compute_edge_costs",
    "compute_process_labels",
    "compute_spent",
    "coverage",
    "evaluate_probabilities",
    "follow_thresholds",
    "frontier",
    "hide_logprobs",
    "load_frame",
    "load_lattice",
    "load_model_cards",
    "load_tables",
    "mask_probabilities",
    "missing_expansions",
    "oracle",
    "restrict_depth",
    "restrict_one_way",
]
