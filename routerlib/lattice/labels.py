"""Exact process labels: whether a solution ends right when one model writes all the rest."""

from __future__ import annotations

import numpy as np

from routerlib.lattice.arrays import FloatArray, Lattice


def compute_process_labels(lattice: Lattice, action: int) -> FloatArray:
    """Return (N,) 1 right or 0 wrong: the end that each node comes to when the model of ``action``
    decides nothing but itself from there on; NaN where that path was not recorded.

    Labels of process reward models are usually estimated from sampled completions (Wang et al.,
    Math-Shepherd, arXiv 2312.08935); here the completion is recorded, so they are exact.
    """
    labels = lattice.outcome[:, action].copy()
    for depth in range(lattice.depth - 1, -1, -1):
        nodes = np.arange(lattice.n_nodes)[lattice.level(depth)]
        child = lattice.next_node[nodes, action]
        labels[nodes[child >= 0]] = labels[child[child >= 0]]
    return labels
