"""Training of the query-level router: which problems does only the large model solve?

A problem is positive when the large model's own path is right and the small model's is not; the
classifier is scikit-learn's logistic regression on the problem's features. Invariants: it sees each
training problem once, whatever its number of nodes, and nothing else; the strength of the penalty
is cross-validated on those problems; all randomness comes from ``seed``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routerlib.features import FIELDS, Standardiser
from routerlib.lattice import Lattice, compute_process_labels
from routerlib.lattice.replay import make_off_record_error
from routerlib.policies.query_level import QueryLevelPolicy

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

REGULARISATION = (0.1, 1.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
N_FOLDS = 5
N_REPEATS = 4


def train_query_level(
    lattice: Lattice, *, regularisation: Sequence[float] = REGULARISATION, seed: int = 0
) -> QueryLevelPolicy:
    """Train the query-level router on a lattice of training problems with two models.

    ``regularisation`` holds the L2 strengths (scikit-learn's 1 / C) to choose among; ``seed`` deals
    the problems to the folds. With fewer than two problems of either class nothing can be
    cross-validated and the strongest penalty is taken. With only one class the policy is a
    constant, the log-odds of that class's add-one share, and a threshold on it is always large or
    always small. Raises ValueError for strengths that are not > 0, for other than two models and
    for no problem or no problem field, OffRecordError where a model's own path is missing.
    """
    strengths = sorted(regularisation, reverse=True)
    if not strengths or not all(0.0 < strength < np.inf for strength in strengths):
        raise ValueError(f"regularisation is {regularisation}; give one or more numbers > 0")
    if lattice.n_models != 2:
        raise ValueError(
            f"the query-level router chooses between two models and this lattice has "
            f"{lattice.n_models}: build it with a pair"
        )
    observations = lattice.observe("before")
    names = tuple(name for name in observations.names if FIELDS[name].group == "problem")
    if not names or lattice.n_problems == 0:
        raise ValueError(
            f"{lattice.n_problems} problems with {len(names)} problem_* fields: give at least one "
            "of each"
        )
    roots = observations.rows(np.arange(lattice.n_problems)).take(names)
    standardiser = Standardiser.fit(roots)
    outcomes = compute_own_outcomes(lattice)
    needed = (outcomes[:, 1] == 1.0) & (outcomes[:, 0] == 0.0)
    coefficients, intercept, strength = _fit(standardiser.transform(roots), needed, strengths, seed)
    config: dict[str, object] = {
        "seed": seed,
        "regularisation": strength,
        "n_problems": lattice.n_problems,
        "n_positive": int(needed.sum()),
    }
    return QueryLevelPolicy(standardiser, coefficients, intercept, config=config)


def compute_own_outcomes(lattice: Lattice) -> Floats:
    """Outcome (P, K), 1 right or 0 wrong, of each model's own path, on which it writes everything.

    Raises OffRecordError where such a path was not recorded to its end.
    """
    outcomes = np.empty((lattice.n_problems, lattice.n_models))
    for action in range(lattice.n_models):
        outcomes[:, action] = compute_process_labels(lattice, action)[: lattice.n_problems]
        if (lost := np.flatnonzero(np.isnan(outcomes[:, action]))).size:
            node = int(lost[0])
            while (child := lattice.next_node[node, action]) >= 0:
                node = int(child)
            raise make_off_record_error(lattice, node, action)
    return outcomes


def _fit(
    inputs: Floats, needed: Labels, strengths: list[float], seed: int
) -> tuple[Floats, float, float | None]:
    """Coefficients (F,), intercept and the strength taken (None for a constant).

    The strength has the best held-out area under the ROC curve: a threshold is swept afterwards, so
    only the order counts. For the same reason classes are not weighted, which moves the intercept.
    """
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import RepeatedStratifiedKFold

    n_problems, n_positive = len(needed), int(needed.sum())
    if n_positive in {0, n_problems}:
        intercept = float(np.log((n_positive + 1.0) / (n_problems - n_positive + 1.0)))
        return np.zeros(inputs.shape[1]), intercept, None
    n_folds = min(N_FOLDS, n_positive, n_problems - n_positive)
    if n_folds < 2:
        strengths = strengths[:1]
        model = LogisticRegression(C=1.0 / strengths[0], max_iter=1000)
    else:
        dealer = RepeatedStratifiedKFold(n_splits=n_folds, n_repeats=N_REPEATS, random_state=seed)
        model = LogisticRegressionCV(
            Cs=[1.0 / strength for strength in strengths],
            cv=list(dealer.split(inputs, needed)),
            l1_ratios=(0.0,),  # L2 alone
            scoring="roc_auc",
            max_iter=1000,
            use_legacy_attributes=False,
        )
    model.fit(inputs, needed)
    chosen = float(1.0 / (model.C_ if n_folds >= 2 else model.C))
    return np.array(model.coef_[0]), float(model.intercept_[0]), chosen
