"""The figures of the recorded traces: a tidy frame in, an ``Axes`` out.

Invariants as in ``plots``: nothing is read or saved, the frame is left alone, a wrong column or
author is a ``ValueError``; intervals are 95%. An ``author`` is a model ("small") or several of
them ("small + large"), by its name in ``AUTHOR_STYLES``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from routerlib.figure_style import (
    GREY,
    get_author_style,
    make_figure,
    require_columns,
    to_points,
    use_percent,
    use_style,
)
from routerlib.labels import Label, place_labels

RESCUED_COLOR, SPOILED_COLOR = "#3B8EC2", "#D1603D"
BAR_WIDTH = 0.62


def plot_solo_accuracy(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Accuracy of each model alone by split.

    ``frame`` has one row per split and author, splits in the order to draw: ``split``, ``author``,
    ``accuracy`` with ``low`` and ``high``, and ``n`` problems.
    """
    require_columns(frame, ["split", "author", "accuracy", "low", "high", "n"])
    splits = list(dict.fromkeys(frame["split"]))
    authors = list(dict.fromkeys(frame["author"]))
    with use_style():
        axes = axes or make_figure()[1][0]
        for number, author in enumerate(authors):
            style = get_author_style(author)
            rows = frame[frame["author"] == author]
            shift = 0.16 * (number - (len(authors) - 1) / 2.0)
            x = np.array([splits.index(split) for split in rows["split"]]) + shift
            value, low, high = to_points(rows, "accuracy", "low", "high").T
            axes.vlines(x, low, high, color=style.color, linewidth=1.6)
            axes.plot(x, value, style.marker, color=style.color, markersize=6, label=style.label)
            for place, share in zip(x, value, strict=True):
                side = 1 if shift > 0 else -1
                axes.annotate(
                    f"{share:.1%}", (place, share), (6 * side, 0), textcoords="offset points",
                    color=style.text_color, ha="left" if side > 0 else "right", va="center",
                )  # fmt: skip
        sizes = frame.groupby("split")["n"].max()
        axes.set_xticks(
            range(len(splits)), [f"{split}\n{sizes[split]} problems" for split in splits]
        )
        axes.set(xlim=(-0.65, len(splits) - 0.35), ylim=(0.0, 1.0), ylabel="accuracy, alone")
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper left")
        use_percent(axes.yaxis)
    return axes


def plot_step_lengths(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Share of steps with at most so many tokens.

    ``frame`` has one row per author and length that occurs, by increasing length: ``author``,
    ``tokens`` and ``share``, the cumulative share of the author's steps.
    """
    require_columns(frame, ["author", "tokens", "share"])
    with use_style():
        axes = axes or make_figure()[1][0]
        for author in dict.fromkeys(frame["author"]):
            style = get_author_style(author)
            points = to_points(frame[frame["author"] == author], "tokens", "share")
            axes.step(*points.T, where="post", color=style.color, label=style.label)
        axes.set(xlabel="tokens of a step", ylabel="share of steps up to there", ylim=(0.0, 1.02))
        axes.set_xlim(left=0)
        axes.legend(loc="lower right")
        use_percent(axes.yaxis)
    return axes


def plot_by_depth(
    frame: pd.DataFrame, axes: Axes | None = None, *, ylabel: str = "share of states"
) -> Axes:
    """A share against the number of steps so far, with its band.

    ``frame`` has one row per author and depth: ``author``, ``depth``, ``value`` with ``low`` and
    ``high``, and ``n`` states, which the area of the marker shows.
    """
    require_columns(frame, ["author", "depth", "value", "low", "high", "n"])
    most = float(frame["n"].max())
    authors = list(dict.fromkeys(frame["author"]))
    with use_style():
        axes = axes or make_figure()[1][0]
        for author in authors:
            style = get_author_style(author)
            rows = frame[frame["author"] == author].sort_values("depth")
            depth, value, low, high, n = to_points(rows, "depth", "value", "low", "high", "n").T
            axes.fill_between(depth, low, high, color=style.color, alpha=0.16, linewidth=0)
            axes.plot(depth, value, color=style.color)
            axes.scatter(
                depth, value, 42.0 * n / most, style.color, marker=style.marker, label=style.label
            )
        axes.set(xlabel="steps so far", ylabel=ylabel)
        axes.margins(y=0.12)
        axes.set_ylim(bottom=0.0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(authors) > 1:
            axes.legend()
        use_percent(axes.yaxis)
    return axes


def plot_substitutions(
    frame: pd.DataFrame, axes: Axes | None = None, *, title: str = "", limit: float | None = None
) -> Axes:
    """What one step of another model changes: rescued above, spoiled below, the difference.

    ``frame`` has one row per depth: ``depth``, the shares of all states ``rescued`` and
    ``spoiled``, and their difference ``gain`` with ``low`` and ``high``. ``limit`` is the share at
    both ends of the axis, to compare panels.
    """
    require_columns(frame, ["depth", "rescued", "spoiled", "gain", "low", "high"])
    with use_style():
        axes = axes or make_figure()[1][0]
        depth, rescued, spoiled, gain, low, high = to_points(
            frame, "depth", "rescued", "spoiled", "gain", "low", "high"
        ).T
        axes.bar(depth, rescued, BAR_WIDTH, color=RESCUED_COLOR, alpha=0.75, label="rescued")
        axes.bar(depth, -spoiled, BAR_WIDTH, color=SPOILED_COLOR, alpha=0.75, label="spoiled")
        axes.axhline(0.0, color=GREY, linewidth=0.8)
        axes.vlines(depth, low, high, color="black", linewidth=1.3, zorder=4)
        axes.plot(depth, gain, "o", color="black", markersize=4.5, label="difference", zorder=5)
        axes.set(xlabel="steps so far", ylabel="share of states")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.12)
        axes.set_title(title)
        if limit is not None:
            axes.set_ylim(-limit, limit)
        axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2), handletextpad=0.4)
        use_percent(axes.yaxis)
    return axes


def plot_frontiers(frame: pd.DataFrame, axes: Axes | None = None, *, unit: str = "GFLOP") -> Axes:
    """What each choice of models could reach: models alone as points, several as frontiers.

    ``frame`` has one row per point, frontiers by increasing cost: ``author``, ``cost`` per problem
    in ``unit``, and ``accuracy``.
    """
    require_columns(frame, ["author", "cost", "accuracy"])
    labels = []
    with use_style():
        axes = axes or make_figure(height_in=3.3)[1][0]
        for author in dict.fromkeys(frame["author"]):
            style = get_author_style(author)
            points = to_points(frame[frame["author"] == author], "cost", "accuracy")
            if len(points) > 1:
                axes.plot(*points.T, color=style.color, linestyle=style.line)
            else:
                axes.plot(*points.T, style.marker, color=style.color, markersize=6)
            labels.append(Label(style.label, style.text_color, points))
        axes.set(xlabel=f"cost per problem ({unit})", ylabel="accuracy")
        axes.set_xlim(left=0.0)
        axes.set_ylim(bottom=0.0)
        use_percent(axes.yaxis)
        place_labels(axes, labels)
    return axes


def plot_continuations(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Accuracy against the tokens written, for each model alone and each protocol that makes it go
    on from the steps so far.

    ``frame`` has one row per author and protocol: ``author``, ``continuation``, ``tokens`` a
    problem, ``accuracy`` with ``low`` and ``high``. Points of one model are joined, in the frame's
    order.
    """
    require_columns(frame, ["author", "continuation", "tokens", "accuracy", "low", "high"])
    with use_style():
        axes = axes or make_figure()[1][0]
        labels = []
        for author in dict.fromkeys(frame["author"]):
            style = get_author_style(author)
            rows = frame[frame["author"] == author]
            tokens, value, low, high = to_points(rows, "tokens", "accuracy", "low", "high").T
            axes.plot(tokens, value, color=style.color, linewidth=0.7, linestyle=":")
            axes.vlines(tokens, low, high, color=style.color, linewidth=1.6)
            axes.plot(
                tokens, value, style.marker, color=style.color, markersize=6, label=style.label,
                clip_on=False,
            )  # fmt: skip
            labels += [
                Label(str(name), style.text_color, np.array([[x, y]]))
                for name, x, y in zip(rows["continuation"], tokens, value, strict=True)
            ]
        axes.set(xlabel="tokens written per problem", ylabel="accuracy, alone")
        axes.margins(0.1)
        axes.set_xlim(left=0.0)
        axes.set_ylim(bottom=0.0)
        axes.legend(loc="upper right")
        use_percent(axes.yaxis)
        place_labels(axes, labels)
    return axes
