"""The figures: a tidy frame in, an ``Axes`` out.

Invariants: a figure function reads no file, saves nothing and leaves its frame alone; a wrong
column, an unknown kind or router is a ``ValueError``, never a figure with something missing. All
intervals in the frames are 95%; NaN means that there is none, and then none is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from routerlib.figure_style import (
    CHORD_LINE,
    GREY,
    PAGE_WIDTH_IN,
    RouterStyle,
    get_router_style,
    make_figure,
    require_columns,
    save_figure,
    to_points,
    use_percent,
    use_style,
)
from routerlib.labels import Floats, Label, place_labels

__all__ = [
    "get_router_style",
    "make_figure",
    "plot_accuracy_cost",
    "plot_calibration",
    "plot_routing_behaviour",
    "save_figure",
]

KINDS = ("sweep", "operating_point", "reference")
CHORD_ENDS = ("always small", "always large")
BAND_ALPHA = 0.13


def plot_accuracy_cost(
    frame: pd.DataFrame, axes: Axes | None = None, *, unit: str = "GFLOP"
) -> Axes:
    """Accuracy against cost: the routers' curves and calibrated points, the chord, the oracle.

    ``frame`` has one row per point: ``router``, ``kind`` (``sweep``: a point of a curve, in the
    order to draw; ``operating_point``: calibrated; ``reference``), ``cost`` and ``accuracy``, each
    with its ``_low`` and ``_high``. Curves get a band, points get bars. The chord joins the
    references "always small" and "always large", which have to be there. ``unit`` is the lens's.
    """
    ends = ["cost_low", "cost_high", "accuracy_low", "accuracy_high"]
    require_columns(frame, ["router", "kind", "cost", "accuracy", *ends])
    if unknown := sorted(set(frame["kind"]) - set(KINDS)):
        raise ValueError(f"kind {unknown} is unknown; use one of {KINDS}")
    with use_style():
        axes = axes or make_figure(width_in=PAGE_WIDTH_IN, height_in=4.2)[1][0]
        chord = _find_chord(frame)
        axes.plot(*chord.T, color=GREY, linewidth=1.0, linestyle=CHORD_LINE, zorder=2)
        labels = {"chord": Label("coin between the two", GREY, chord)}
        obstacles: list[Floats] = []
        for kind in KINDS:
            rows_of_kind = frame[frame["kind"] == kind]
            for router in dict.fromkeys(rows_of_kind["router"]):
                rows = rows_of_kind[rows_of_kind["router"] == router]
                style = get_router_style(router)
                points = to_points(rows, "cost", "accuracy")
                if kind == "sweep":
                    axes.plot(*points.T, color=style.color, linestyle=style.line, zorder=3)
                    _draw_band(axes, style, rows, ("cost", "accuracy_low", "accuracy_high"))
                else:
                    obstacles += _draw_crosses(axes, style, rows)
                if router in labels:
                    obstacles.append(points)
                else:
                    labels[router] = Label(style.label, style.text_color, points)
        axes.set(xlabel=f"cost per problem ({unit})", ylabel="accuracy")
        use_percent(axes.yaxis)
        place_labels(axes, [*labels.values()], obstacles)
    return axes


def plot_calibration(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Target asked for against the value achieved on test problems, with the diagonal.

    ``frame`` has one row per router and target: ``router``, ``target``, ``achieved``, ``low``,
    ``high``, ``target_kind``, which is ``max_cost`` (share of the way from always small to always
    large: above the diagonal is over budget) or ``keep_accuracy`` (share of always large's
    accuracy: below it is below target). One kind for each axes. Routers with the same target are
    set apart a little sideways.
    """
    require_columns(frame, ["router", "target", "achieved", "low", "high", "target_kind"])
    kinds = sorted(set(frame["target_kind"]))
    if kinds not in (["max_cost"], ["keep_accuracy"]):
        raise ValueError(f"target_kind is {kinds}; give rows of 'max_cost' or of 'keep_accuracy'")
    is_cost = kinds == ["max_cost"]
    values = to_points(frame, "target", "achieved", "low", "high")
    margin = 0.06 * float(np.nanmax(values) - np.nanmin(values)) or 0.05
    low, high = float(np.nanmin(values)) - margin, float(np.nanmax(values)) + margin
    routers = list(dict.fromkeys(frame["router"]))
    shifts = 0.018 * (high - low) * (np.arange(len(routers)) - (len(routers) - 1) / 2.0)
    with use_style():
        axes = axes or make_figure(height_in=3.3)[1][0]
        axes.fill_between([low, high], [low, high], high if is_cost else low, color="#f3f3f3")
        axes.plot([low, high], [low, high], color=GREY, linewidth=1.0, linestyle=CHORD_LINE)
        for router, shift in zip(routers, shifts, strict=True):
            style = get_router_style(router)
            rows = frame[frame["router"] == router]
            rows = rows.assign(target=rows["target"] + shift)
            _draw_bars(axes, style, rows, ("target", "achieved", "low", "high"))
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        what, miss = ("cost", "over budget") if is_cost else ("accuracy kept", "below target")
        axes.set_xlabel(f"target: {what} at {'most' if is_cost else 'least'}")
        axes.set_ylabel(f"{what} on test problems")
        corner = (0.03, 0.97) if is_cost else (0.97, 0.03)
        note = axes.text(*corner, miss, transform=axes.transAxes, color=GREY, style="italic")
        note.set(ha="left" if is_cost else "right", va="top" if is_cost else "bottom")
        # Points lie along the diagonal, so the corner across from the note is free.
        axes.legend(loc="lower right" if is_cost else "upper left", handletextpad=0.2)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6))
            use_percent(axis)
    return axes


def plot_routing_behaviour(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Share of steps that the large model writes, by step.

    ``frame`` has one row per router and step: ``router``, ``step`` (from 1), ``share_large`` in
    [0, 1] with ``low`` and ``high``, and ``n``, how many decisions were taken at that step (one for
    each problem that is still open), which the area of the marker shows.
    """
    require_columns(frame, ["router", "step", "share_large", "low", "high", "n"])
    most = float(frame["n"].max())
    labels: list[Label] = []
    with use_style():
        axes = axes or make_figure()[1][0]
        for router in dict.fromkeys(frame["router"]):
            style = get_router_style(router)
            rows = frame[frame["router"] == router].sort_values("step")
            points = to_points(rows, "step", "share_large")
            axes.plot(*points.T, color=style.color, linestyle=style.line, zorder=3)
            areas = 42.0 * rows["n"].to_numpy(dtype=np.float64) / most
            x, y = points.T
            axes.scatter(x, y, areas, style.color, marker=style.marker, zorder=4)
            _draw_band(axes, style, rows, ("step", "low", "high"))
            labels.append(Label(style.label, style.text_color, points))
        axes.set(xlabel="step", ylabel="share written by the large model", ylim=(-0.04, 1.04))
        axes.set_title("marker area: problems still open", color=GREY, fontsize=7, weight="normal")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.08)
        use_percent(axes.yaxis)
        place_labels(axes, labels)
    return axes


def _find_chord(frame: pd.DataFrame) -> Floats:
    """(cost, accuracy) of always small and of always large: (2, 2)."""
    ends = []
    for router in CHORD_ENDS:
        rows = frame[(frame["kind"] == "reference") & (frame["router"] == router)]
        if len(rows) != 1:
            raise ValueError(f"{len(rows)} reference rows for {router!r}; the chord needs one")
        ends.append(to_points(rows, "cost", "accuracy")[0])
    return np.array(ends)


def _draw_band(axes: Axes, style: RouterStyle, rows: pd.DataFrame, columns: Sequence[str]) -> None:
    """Fill between the last two of three columns: x, low, high."""
    x, low, high = to_points(rows, *columns).T
    axes.fill_between(x, low, high, color=style.color, alpha=BAND_ALPHA, linewidth=0, zorder=1)


def _draw_crosses(axes: Axes, style: RouterStyle, rows: pd.DataFrame) -> list[Floats]:
    """Markers with bars in accuracy and in cost; returns the bars as curves."""
    bars = _draw_bars(axes, style, rows, ("cost", "accuracy", "accuracy_low", "accuracy_high"))
    for y, low, high in to_points(rows, "accuracy", "cost_low", "cost_high"):
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [y, y], color=style.color, linewidth=0.9, zorder=4)
            bars.append(np.array([[low, y], [high, y]]))
    return bars


def _draw_bars(
    axes: Axes, style: RouterStyle, rows: pd.DataFrame, columns: Sequence[str]
) -> list[Floats]:
    """Markers with upright bars from four columns (x, y, low, high); returns the bars as curves."""
    axes.plot(
        *to_points(rows, *columns[:2]).T,
        style.marker,
        color=style.color,
        markersize=8.0 if style.marker == "*" else 4.5,
        markeredgecolor=style.color if style.marker == "x" else "white",
        markeredgewidth=0.5,
        zorder=5,
        label=style.label,
    )
    bars = []
    for x, _, low, high in to_points(rows, *columns):
        if np.isfinite([low, high]).all():
            axes.plot([x, x], [low, high], color=style.color, linewidth=0.9, zorder=4)
            bars.append(np.array([[x, low], [x, high]]))
    return bars
