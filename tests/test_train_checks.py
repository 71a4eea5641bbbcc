"""Each wish is told apart at its edge, and the message names field, value and wish."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pytest

from routerlib.train.checks import Wanted, check_activation, check_features, check_fields

# The wish, a value just within and one just outside.
EDGES: list[tuple[Wanted, float, float]] = [
    ("a whole number >= 1", 1, 0),
    ("a whole number >= 2", 2, 1),
    ("a number > 0", 1e-9, 0.0),
    ("a number >= 0", 0.0, -1e-9),
    ("a share in [0, 1)", 0.0, 1.0),
    ("a share in [0, 1)", 0.999, -0.001),
    ("a share in (0, 1]", 1.0, 0.0),
    ("a share in [0, 1]", 1.0, 1.001),
]


def test_every_wish_has_an_edge() -> None:
    assert {wanted for wanted, _, _ in EDGES} == set(get_args(Wanted))


@pytest.mark.parametrize(("wanted", "good", "bad"), EDGES)
def test_edges(wanted: Wanted, good: float, bad: float) -> None:
    config = SimpleNamespace(fine=good, other=good)
    check_fields(config, wanted, "fine", "other")
    for value in (bad, float("nan")):
        config.other = value
        with pytest.raises(ValueError, match="other") as raised:
            check_fields(config, wanted, "fine", "other")
        assert str(raised.value) == f"other is {value}; give {wanted}"


def test_activation_and_features() -> None:
    check_activation("silu")
    with pytest.raises(ValueError, match=r"'relu'; one of \['silu', 'tanh'\]"):
        check_activation("relu")
    check_features(None)
    check_features(("depth",))
    with pytest.raises(ValueError, match="features is empty"):
        check_features(())
