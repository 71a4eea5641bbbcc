"""Figures that compare variants of a router, grouped by what was varied.

The rules are those of ``plots``: a tidy frame in, an ``Axes`` out, nothing is read or saved.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from routerlib.figure_style import (
    CHORD_LINE,
    GREY,
    PAGE_WIDTH_IN,
    VERDICT_STYLES,
    get_verdict_style,
    make_figure,
    require_columns,
    to_points,
    use_style,
)

ROW_IN = 0.19
SEED_OFFSET = 0.26


def plot_variants(
    frame: pd.DataFrame,
    axes: Axes | None = None,
    *,
    label: str = "area over the coin's chord",
) -> Axes:
    """Value with its interval for each variant, one row each, factor by factor from the top.

    ``frame`` has one row per variant: ``factor``, ``level`` (written beside its row), ``value``,
    ``low``, ``high``, ``verdict`` (a key of ``VERDICT_STYLES``), and ``seed_low``, ``seed_mean``,
    ``seed_high`` of single seeds, NaN where there are none, drawn thin below the row's own value.
    Zero is marked: the coin. Factors and levels keep the frame's order.
    """
    columns = ["factor", "level", "value", "low", "high", "verdict"]
    require_columns(frame, [*columns, "seed_low", "seed_mean", "seed_high"])
    factors = list(dict.fromkeys(frame["factor"]))
    y, titles, at = np.zeros(len(frame)), [], 0.0
    for factor in factors:
        rows = np.flatnonzero(frame["factor"] == factor)
        titles.append((factor, at))
        y[rows] = at + 1.0 + np.arange(len(rows))
        at += len(rows) + 1.6
    with use_style():
        height = 0.7 + ROW_IN * at
        axes = axes or make_figure(width_in=PAGE_WIDTH_IN / 1.3, height_in=height)[1][0]
        axes.axvline(0.0, color=GREY, linewidth=1.0, linestyle=CHORD_LINE, zorder=1)
        for verdict in VERDICT_STYLES:
            shown = (frame["verdict"] == verdict).to_numpy()
            if not shown.any():
                continue
            style = get_verdict_style(verdict)
            value, low, high = to_points(frame[shown], "value", "low", "high").T
            axes.hlines(y[shown], low, high, color=style.color, linewidth=1.2, zorder=3)
            axes.plot(value, y[shown], style.marker, color=style.color, zorder=4, label=style.label)
        if unknown := set(frame["verdict"]) - set(VERDICT_STYLES):
            get_verdict_style(sorted(unknown)[0])
        seeds = to_points(frame, "seed_low", "seed_mean", "seed_high")
        below = y + SEED_OFFSET
        axes.hlines(below, seeds[:, 0], seeds[:, 2], color="#aaaaaa", linewidth=1.0, zorder=2)
        if np.isfinite(seeds).any():
            axes.plot(seeds[:, 1], below, "|", color=GREY, zorder=2, label="single seeds, range")
        for factor, top in titles:
            axes.annotate(
                factor,
                (0.0, top),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                weight="bold",
            )
        axes.set_yticks(y, list(frame["level"]))
        axes.tick_params(axis="y", length=0)
        axes.set(ylim=(at - 0.6, -0.8), xlabel=label)
        axes.grid(visible=False, axis="y")
        axes.figure.legend(loc="outside lower center", ncols=3, handletextpad=0.2)
    return axes
