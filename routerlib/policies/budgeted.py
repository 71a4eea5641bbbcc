"""One network for the whole curve: what may be spent is an input.

The budget is a share b in [0, 1] of the way from always small's cost to always large's. The network
says how far the odds of large leave those of a coin that shows large with probability b:

    pi(large | o, b) = sigma(logit(b) + f(o, b)).

So b = 0 is always small, b = 1 always large, and a network that has learnt nothing spends about
what it may. The policy stays the stochastic one that it was trained to be: where a budget binds,
the best constrained policy mixes (Altman 1999, Constrained Markov Decision Processes), and a
threshold of 1/2 on a mixture spends another sum than the one that was asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from routerlib.features import Observations, Standardiser
from routerlib.policies.network import Activation
from routerlib.policies.protocol import Floats


def compute_budget_logits(
    network: torch.nn.Module, inputs: torch.Tensor, budget: float
) -> torch.Tensor:
    """Logits (n, 2) at standardised ``inputs`` (n, F) under one budget in [0, 1].

    The network takes F + 1 inputs; the last is the budget, with the mean 0 and the variance 1 of a
    budget that may be anything in [0, 1].
    """
    given = torch.full((len(inputs), 1), math.sqrt(12.0) * (budget - 0.5), dtype=inputs.dtype)
    coin = torch.log(torch.tensor([1.0 - budget, budget], dtype=inputs.dtype))
    logits: torch.Tensor = network(torch.cat((inputs, given), dim=1))
    return logits + coin


@dataclass(frozen=True, slots=True, eq=False)
class BudgetedPolicy:
    """A network of F + 1 inputs at one ``budget``, which is its setting.

    ``config`` is what it was trained with.
    """

    name: str
    protocol: str
    standardiser: Standardiser
    network: torch.nn.Sequential
    width: int
    activation: Activation
    config: dict[str, object] = field(default_factory=dict)
    budget: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.budget <= 1.0:
            raise ValueError(f"budget is {self.budget}; give a share in [0, 1]")

    def probabilities(self, observations: Observations) -> Floats:
        inputs = torch.from_numpy(self.standardiser.transform(observations))
        with torch.no_grad():
            logits = compute_budget_logits(self.network, inputs, self.budget)
        return np.asarray(torch.softmax(logits, dim=1).numpy(), dtype=np.float64)

    @property
    def setting_name(self) -> str:
        return "budget share"

    @property
    def settings(self) -> Floats:
        return np.linspace(0.0, 1.0, 41)[::-1]

    def with_setting(self, setting: float) -> BudgetedPolicy:
        return replace(self, budget=setting)
