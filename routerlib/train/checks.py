"""Checks of training configurations: what is wrong, its value, and what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from routerlib.policies.network import ACTIVATIONS

Wanted = Literal[
    "a whole number >= 1",
    "a whole number >= 2",
    "a number > 0",
    "a number >= 0",
    "a share in [0, 1)",
    "a share in (0, 1]",
    "a share in [0, 1]",
]

# NaN fails every comparison, so it passes none of these.
_IS_GOOD: dict[Wanted, Callable[[float], bool]] = {
    "a whole number >= 1": lambda value: value >= 1,
    "a whole number >= 2": lambda value: value >= 2,
    "a number > 0": lambda value: value > 0.0,
    "a number >= 0": lambda value: value >= 0.0,
    "a share in [0, 1)": lambda value: 0.0 <= value < 1.0,
    "a share in (0, 1]": lambda value: 0.0 < value <= 1.0,
    "a share in [0, 1]": lambda value: 0.0 <= value <= 1.0,
}


def check_fields(config: object, wanted: Wanted, *names: str) -> None:
    """Raise ``ValueError`` for the first of a configuration's fields that is not as wanted.

    >>> from types import SimpleNamespace
    >>> check_fields(SimpleNamespace(n_steps=0), "a whole number >= 1", "n_steps")
    Traceback (most recent call last):
    ValueError: n_steps is 0; give a whole number >= 1
    """
    for name in names:
        value = getattr(config, name)
        if not _IS_GOOD[wanted](value):
            raise ValueError(f"{name} is {value}; give {wanted}")


def check_activation(activation: str) -> None:
    """Raise ``ValueError`` unless the networks know this activation."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; one of {sorted(ACTIVATIONS)}")


def check_features(features: tuple[str, ...] | None) -> None:
    """Raise ``ValueError`` for an empty choice of inputs."""
    if features is not None and not features:
        raise ValueError("features is empty; name some, or give None for all that are shown")
