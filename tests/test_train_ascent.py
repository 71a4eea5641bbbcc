"""The ascent keeps its best look, hides inputs only when asked to, and deals problems once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from routerlib.train.ascent import AscentConfig, climb, split_problems

PLAIN = {"learning_rate": 0.1, "weight_decay": 0.0, "check_every": 1, "n_steps": 30}


def make_point() -> torch.nn.Linear:
    """One weight, which starts at 0."""
    point = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(point.weight)
    return point


def climb_to_two(config: AscentConfig, held_optimum: float) -> tuple[float, list[float], list[int]]:
    """Climb -(w - 2)^2 and look at -(w - ``held_optimum``)^2: the weight at the end, the weights
    that were looked at, and how many of 10 inputs were shown at each step."""
    point, looks, shown = make_point(), [], []

    def compute_objective(mask: torch.Tensor) -> torch.Tensor:
        shown.append(int(mask.sum()))
        return -(point.weight - 2.0).square().sum()

    def compute_held_value() -> float:
        looks.append(point.weight.item())
        return -((looks[-1] - held_optimum) ** 2)

    generator = torch.Generator().manual_seed(0)
    climb(point, config, generator, compute_objective, compute_held_value, n_features=10)
    assert not point.weight.requires_grad
    return point.weight.item(), looks, shown


def test_ends_at_the_best_look_and_gives_up_after_it() -> None:
    config = AscentConfig(**PLAIN, patience=4)  # type: ignore[arg-type]
    end, looks, _ = climb_to_two(config, held_optimum=1.0)
    best = int(np.argmin(np.abs(np.array(looks) - 1.0)))
    assert end == looks[best]
    assert len(looks) == best + 1 + 4
    assert max(looks) > 1.0, "it went on to where the held value falls again"


def test_looks_as_often_as_asked() -> None:
    config = AscentConfig(**PLAIN | {"check_every": 7})  # type: ignore[arg-type]
    assert len(climb_to_two(config, held_optimum=2.0)[1]) == 30 // 7


def test_nothing_kept_apart_is_never_looked_at() -> None:
    config = AscentConfig(**PLAIN, validation_share=0.0)  # type: ignore[arg-type]
    end, looks, shown = climb_to_two(config, held_optimum=0.0)
    assert looks == []
    assert len(shown) == 30
    assert end > 1.5


@pytest.mark.parametrize(("dropout", "least", "most"), [(0.0, 10, 10), (0.5, 3, 7)])
def test_dropout_hides_its_share_of_the_inputs(dropout: float, least: int, most: int) -> None:
    config = AscentConfig(**PLAIN, dropout=dropout, validation_share=0.0)  # type: ignore[arg-type]
    _, _, shown = climb_to_two(config, held_optimum=0.0)
    assert least <= np.mean(shown) <= most
    assert (len(set(shown)) > 1) == (dropout > 0.0)


@given(st.integers(5, 60), st.floats(0.2, 0.8), st.integers(0, 3))
def test_split_deals_every_problem_once(n_problems: int, share: float, seed: int) -> None:
    fit, held = split_problems(n_problems, share, torch.Generator().manual_seed(seed))
    assert sorted([*fit, *held]) == list(range(n_problems))
    assert len(held) == round(share * n_problems)
    assert (np.diff(fit) > 0).all()
    assert (np.diff(held) > 0).all()


def test_split_keeps_none_apart_when_asked() -> None:
    fit, held = split_problems(3, 0.0, torch.Generator())
    assert (fit.tolist(), held.tolist()) == ([0, 1, 2], [])
    with pytest.raises(ValueError, match="2 training problems are too few to keep 20% of them"):
        split_problems(2, 0.2, torch.Generator())
