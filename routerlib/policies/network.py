"""The learned policy: observations -> two hidden layers -> probability of each model.

Invariants: inputs are standardised with constants of the *training* problems; a policy asks for its
features by name, so a field that its protocol hides raises; everything is float64, because ranks of
saturated probabilities and equal results on different processors need the digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from routerlib.features import Observations, Standardiser
from routerlib.policies.protocol import Floats, Policy

Activation = Literal["tanh", "silu"]
ACTIVATIONS: Mapping[str, type[torch.nn.Module]] = {"tanh": torch.nn.Tanh, "silu": torch.nn.SiLU}


def build_network(
    n_features: int, n_models: int, width: int, activation: Activation, generator: torch.Generator
) -> torch.nn.Sequential:
    """Two hidden layers of ``width``, (n, F) -> logits (n, K), float64, from ``generator`` alone.

    The last layer starts near 0, so that training starts near the coin, where no path is out of
    reach of the gradient.
    """
    sizes = (n_features, width, width, n_models)
    layers: list[torch.nn.Module] = []
    for i in range(3):
        linear = torch.nn.utils.skip_init(  # type: ignore[no-untyped-call]
            torch.nn.Linear, sizes[i], sizes[i + 1], dtype=torch.float64
        )  # the constructor's own initialisation would draw from the global generator
        gain = 0.1 if i == 2 else 1.0
        torch.nn.init.xavier_uniform_(linear.weight, gain=gain, generator=generator)
        torch.nn.init.zeros_(linear.bias)
        layers.extend([linear] if i == 2 else [linear, ACTIVATIONS[activation]()])
    return torch.nn.Sequential(*layers)


@dataclass(frozen=True, slots=True, eq=False)
class MLPPolicy:
    """A trained network with its standardiser. ``config`` is what it was trained with."""

    name: str
    protocol: str
    standardiser: Standardiser
    network: torch.nn.Sequential
    width: int
    activation: Activation
    config: dict[str, object] = field(default_factory=dict)

    def probabilities(self, observations: Observations) -> Floats:
        inputs = torch.from_numpy(self.standardiser.transform(observations))
        with torch.no_grad():
            logits = self.network(inputs)
        return np.asarray(torch.softmax(logits, dim=1).numpy(), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class EnsemblePolicy:
    """The mean of its members, all of one protocol.

    ``average`` "logits" is the normalised geometric mean of the probabilities: it still tells two
    nodes apart where members saturate. "probabilities" is the arithmetic mean.
    """

    name: str
    members: tuple[Policy, ...]
    average: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        protocols = {member.protocol for member in self.members}
        if len(protocols) != 1:
            raise ValueError(
                f"{self.name}: members need one common protocol, got {sorted(protocols)}"
            )

    @property
    def protocol(self) -> str:
        return self.members[0].protocol

    def probabilities(self, observations: Observations) -> Floats:
        stacked = np.stack([member.probabilities(observations) for member in self.members])
        if self.average == "probabilities":
            return np.asarray(stacked.mean(axis=0))
        logits = np.log(np.maximum(stacked, np.finfo(np.float64).tiny)).mean(axis=0)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
