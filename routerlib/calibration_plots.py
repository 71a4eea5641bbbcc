"""Figures of calibration: how often targets are missed, and whether probabilities are frequencies.

The rules are those of ``plots``: a tidy frame in, an ``Axes`` out, nothing is read or saved.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from routerlib.figure_style import (
    CHORD_LINE,
    GREY,
    PAGE_WIDTH_IN,
    get_map_style,
    get_method_style,
    make_figure,
    require_columns,
    to_points,
    use_percent,
    use_style,
)


def plot_miss_rates(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Share of re-splits in which each target was missed, by how the setting was chosen.

    ``frame`` is about one router and has one row per target and method: ``target`` (its label, in
    the order from top to bottom), ``method`` (a key of ``METHOD_STYLES``), ``missed`` with ``low``
    and ``high``, ``refused``, and ``delta``, the same everywhere, which is drawn as a line. Where a
    method refused, the share of refusals is written at the right end of its line; refused always,
    its point is hollow, for it has missed nothing by choosing nothing.
    """
    require_columns(frame, ["router", "target", "method", "missed", "low", "high", "refused"])
    require_columns(frame, ["delta"])
    for column in ("router", "delta"):
        if frame[column].nunique() != 1:
            raise ValueError(f"{column} is {sorted(set(frame[column]))}; give the rows of one")
    targets = list(dict.fromkeys(frame["target"]))
    methods = list(dict.fromkeys(frame["method"]))
    delta = float(frame["delta"].iloc[0])
    shifts = 0.24 * (np.arange(len(methods)) - (len(methods) - 1) / 2.0)
    with use_style():
        height = 0.9 + 0.52 * len(targets)
        axes = axes or make_figure(width_in=PAGE_WIDTH_IN / 1.4, height_in=height)[1][0]
        axes.axvline(delta, color=GREY, linewidth=1.0, linestyle=CHORD_LINE, zorder=1)
        for method, shift in zip(methods, shifts, strict=True):
            style = get_method_style(method)
            rows = frame[frame["method"] == method]
            y = np.array([targets.index(target) for target in rows["target"]]) + shift
            missed, low, high, refused = to_points(rows, "missed", "low", "high", "refused").T
            kept = refused < 1.0
            axes.hlines(y[kept], low[kept], high[kept], color=style.color, linewidth=0.9, zorder=3)
            for hollow, shown in ((False, kept), (True, ~kept)):
                if not shown.any():
                    continue  # the layout would make room for an empty line at the figure's corner
                axes.plot(
                    *(missed[shown], y[shown]),
                    style.marker,
                    color=style.color,
                    markerfacecolor="white" if hollow else style.color,
                    markersize=5.0,
                    zorder=4,
                    clip_on=False,
                )
            for at, share in zip(y, refused, strict=True):
                if share > 0.0:
                    axes.annotate(
                        f"refused {share:.0%}",
                        (1.0, at),
                        xycoords=axes.get_yaxis_transform(),
                        xytext=(6, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=6.5,
                        color=style.text_color,
                    )
        axes.set_yticks(range(len(targets)), targets)
        axes.set(ylim=(len(targets) - 0.45, -0.55), xlim=(0.0, 1.0))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("re-splits in which the other half missed the target")
        axes.text(
            delta + 0.01,
            0.995,
            rf"$\delta$ = {delta:g}",
            transform=axes.get_xaxis_transform(),
            va="top",
            color=GREY,
        )
        axes.xaxis.set_major_locator(MultipleLocator(0.2))
        use_percent(axes.xaxis)
        _place_legend(axes, methods)
    return axes


def _place_legend(axes: Axes, methods: list[str]) -> None:
    """Name the methods above the axes, with full markers also for those that refused always.

    They end where the axes end, for there is more room above the targets' labels.
    """
    handles = []
    for method in methods:
        style = get_method_style(method)
        handles += axes.plot([], [], style.marker, color=style.color, label=style.label)
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(methods),
        handletextpad=0.2,
        columnspacing=1.2,
    )


def plot_reliability(
    frame: pd.DataFrame, axes: Axes | None = None, *, event: str = "large helps"
) -> Axes:
    """Observed frequency of an event against the predicted one, with the diagonal.

    ``frame`` is about one router and has one row per map and bin: ``map`` (a key of
    ``MAP_STYLES``), ``predicted``, ``observed`` with ``low`` and ``high``, and ``share``, the bin's
    part of all decisions, which the area of the marker shows. ``event`` names what is predicted.
    """
    require_columns(frame, ["map", "predicted", "observed", "low", "high", "share"])
    most = float(frame["share"].max())
    with use_style():
        axes = axes or make_figure(height_in=3.4)[1][0]
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.0, linestyle=CHORD_LINE, zorder=1)
        for name in dict.fromkeys(frame["map"]):
            style = get_map_style(name)
            rows = frame[frame["map"] == name].sort_values("predicted")
            x, y, low, high, share = to_points(
                rows, "predicted", "observed", "low", "high", "share"
            ).T
            axes.vlines(x, low, high, color=style.color, linewidth=0.9, zorder=3)
            axes.plot(x, y, color=style.color, linestyle=style.line, linewidth=0.9, zorder=3)
            areas = 30.0 * share / most
            axes.scatter(x, y, areas, style.color, marker=style.marker, zorder=4, label=style.label)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set_xlabel(f"predicted: {event}")
        axes.set_ylabel(f"observed: {event}")
        axes.legend(loc="upper left", handletextpad=0.2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MultipleLocator(0.2))
            use_percent(axis)
    return axes
