"""What a benchmark reports: one named number, its goal, and what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number. ``at_least`` and ``at_most`` are goals, None without one; ``detail`` holds the
    numbers behind it, with units in their names."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def is_met(self) -> bool | None:
        """Whether the goals are met, None without a goal.

        >>> Measurement("ratio", 1.2, at_most=1.3).is_met, Measurement("ratio", 1.2).is_met
        (True, None)
        """
        if self.at_least is None and self.at_most is None:
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


def render_table(measurements: Sequence[Measurement]) -> str:
    """Return the measurements as a text table: name, value, goal, and whether it is met."""
    rows = [("what", "value", "goal", "")]
    for measurement in measurements:
        goals = [
            f"{sign} {goal:g}"
            for sign, goal in ((">=", measurement.at_least), ("<=", measurement.at_most))
            if goal is not None
        ]
        verdict = {True: "met", False: "MISSED", None: ""}[measurement.is_met]
        rows.append((measurement.name, f"{measurement.value:.3f}", " ".join(goals), verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {goal:<{widths[2]}}  {verdict}".rstrip()
        for name, value, goal, verdict in rows
    )
