"""Gradient ascent on an exact objective: what the trainers that need no sampling share.

Invariants: early stopping looks at an inner part of the training problems and nothing else; all
randomness comes from the generator that is given; float64 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from routerlib.policies.network import Activation
from routerlib.train.checks import check_activation, check_features, check_fields

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AscentConfig:
    """How a network climbs.

    ``width`` units in each hidden layer; ``activation`` tanh or silu; ``learning_rate`` of Adam,
    ``n_steps`` steps at most; ``weight_decay`` the L2 penalty on the weights (AdamW);
    ``entropy_bonus`` accuracy paid per nat of mean entropy of the decisions met;
    ``validation_share`` of the training problems is kept apart for early stopping, which looks
    every ``check_every`` steps and gives up after ``patience`` looks without a better value (0
    keeps none apart and runs all steps); ``dropout`` is the share of inputs hidden at each step;
    ``features`` names the inputs (None: all of the default set that the protocol shows and that are
    recorded of any problem to fit).
    """

    width: int = 64
    activation: Activation = "tanh"
    learning_rate: float = 0.003
    n_steps: int = 200
    weight_decay: float = 1.0
    entropy_bonus: float = 0.01
    validation_share: float = 0.2
    check_every: int = 5
    patience: int = 8
    dropout: float = 0.3
    features: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "a whole number >= 1", "width", "n_steps", "check_every", "patience")
        check_fields(self, "a number > 0", "learning_rate")
        check_fields(self, "a number >= 0", "weight_decay", "entropy_bonus")
        check_fields(self, "a share in [0, 1)", "validation_share", "dropout")
        check_activation(self.activation)
        check_features(self.features)


def split_problems(
    n_problems: int, share: float, generator: torch.Generator
) -> tuple[Indices, Indices]:
    """Cut the problems into those to fit and those for early stopping, each in ascending order."""
    n_held = round(share * n_problems)
    if share > 0.0 and not 1 <= n_held < n_problems:
        raise ValueError(
            f"{n_problems} training problems are too few to keep {share:.0%} of them apart; train "
            "on more or set validation_share to 0"
        )
    order = torch.randperm(n_problems, generator=generator).numpy()
    return np.sort(order[n_held:]), np.sort(order[:n_held])


def climb(
    network: torch.nn.Module,
    config: AscentConfig,
    generator: torch.Generator,
    compute_objective: Callable[[torch.Tensor], torch.Tensor],
    compute_held_value: Callable[[], float],
    *,
    n_features: int,
) -> None:
    """Train ``network`` in place; it ends with the weights of the best look, and fixed.

    ``compute_objective`` is called once a step with the mask (F,) of the inputs that are shown and
    returns what to increase; ``compute_held_value`` is what early stopping looks at.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    shown = torch.ones(n_features, dtype=torch.bool)
    best, best_weights, waited = -np.inf, network.state_dict(), 0
    for step in range(1, config.n_steps + 1):
        if config.dropout > 0.0:
            shown = torch.rand(n_features, generator=generator) >= config.dropout
        optimiser.zero_grad()
        loss = -compute_objective(shown)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if config.validation_share == 0.0 or step % config.check_every != 0:
            continue
        with torch.no_grad():
            value = compute_held_value()
        waited += 1
        if value > best:
            best, waited = value, 0
            best_weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        if waited >= config.patience:
            break
    if np.isfinite(best):
        network.load_state_dict(best_weights)
    network.requires_grad_(False)
