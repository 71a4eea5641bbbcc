"""Training of the process reward model behind ``ProcessRewardPolicy``.

Every node of the training lattices is an example: the features of the small model's draft there,
and whether the solution ends right when the draft is kept and the small model goes on. Invariants:
a node counts as often as a coin would come by it, so that the many deep nodes do not outweigh the
roots; the strength of the penalty is cross-validated over problems, not over nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routerlib.features import Standardiser
from routerlib.lattice import Lattice, compute_process_labels
from routerlib.policies.process_reward import ProcessRewardPolicy

REGULARISATION = (1.0, 10.0, 100.0, 1000.0)
N_FOLDS = 5


def train_process_reward(
    lattice: Lattice,
    *,
    regularisation: Sequence[float] = REGULARISATION,
    features: tuple[str, ...] | None = None,
) -> ProcessRewardPolicy:
    """Train the process reward model on a lattice of training problems with two models.

    ``regularisation`` holds the L2 strengths (scikit-learn's 1 / C, for weights whose mean is 1) to
    choose among by held-out log-likelihood; ``features`` names the inputs (None: all of the default
    set that are recorded of any draft). ValueError for strengths that are not > 0, for other than
    two models, for fewer than two problems, and where all labels are alike.
    """
    from sklearn.linear_model import LogisticRegression

    if not regularisation or not all(0.0 < strength < np.inf for strength in regularisation):
        raise ValueError(f"regularisation is {regularisation}; give one or more numbers > 0")
    if lattice.n_models != 2 or lattice.n_problems < 2:
        raise ValueError(
            f"the process reward needs two models and two problems or more; this lattice has "
            f"{lattice.n_models} and {lattice.n_problems}"
        )
    labels = compute_process_labels(lattice, 0)
    known = np.isfinite(labels)
    right = labels[known] == 1.0
    if right.all() or not right.any():
        raise ValueError(
            f"all {known.sum()} drafts of the training problems have the label {right.all():d}: "
            "there is nothing to tell apart; use more problems"
        )
    observations = lattice.observe("draft").rows(known).take_inputs(features)
    standardiser = Standardiser.fit(observations)
    inputs = standardiser.transform(observations)
    weights = 0.5 ** lattice.node_depth[known]
    weights /= weights.mean()
    fold = lattice.node_problem[known] % N_FOLDS

    def fit(strength: float, rows: NDArray[np.bool_]) -> LogisticRegression:
        model = LogisticRegression(C=1.0 / strength, max_iter=1000)
        return model.fit(inputs[rows], right[rows], sample_weight=weights[rows])

    def compute_loss(strength: float) -> float:
        losses = np.zeros(len(right))
        for held_out in np.unique(fold):
            rows = fold == held_out
            if len(np.unique(right[~rows])) < 2:
                continue
            log_odds = fit(strength, ~rows).decision_function(inputs[rows])
            losses[rows] = np.logaddexp(0.0, np.where(right[rows], -log_odds, log_odds))
        return float((weights * losses).mean())

    losses = {strength: compute_loss(strength) for strength in sorted(regularisation)[::-1]}
    best = min(losses, key=lambda strength: losses[strength])
    model = fit(best, np.ones(len(right), dtype=np.bool_))
    config: dict[str, object] = {
        "regularisation": best,
        "n_problems": lattice.n_problems,
        "n_drafts": len(right),
        "share_right": float((weights * right).mean()),
        "held_out_loss": losses[best],
    }
    return ProcessRewardPolicy(
        standardiser, np.array(model.coef_[0]), float(model.intercept_[0]), config=config
    )
