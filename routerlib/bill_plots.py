"""Figures of what a bill counts: a tidy frame in, an ``Axes`` out.

The rules are those of ``plots``: nothing is read or saved, the frame is left alone, a wrong column,
router or item is a ``ValueError``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from routerlib.figure_style import (
    CHORD_LINE,
    GREY,
    PAGE_WIDTH_IN,
    get_router_style,
    make_figure,
    require_columns,
    use_percent,
    use_style,
)

# What is on a bill, from the first item that is counted to the last: colour and hatch.
ITEM_STYLES = {
    "large model writes": ("#7A3B8F", ""),
    "large model reads": ("#C3A1D1", ""),
    "small model": ("#1F8A8C", ""),
    "reward model": ("#E69F00", "///"),
}
ABOVE = "higher"


def plot_ranking(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """Rank of each router under each lens, best on top.

    ``frame`` has one row per lens and router, lenses in the order to draw: ``lens``, ``router``,
    ``rank`` (1 is best) and ``verdict`` against the coin: a router that is above it has a filled
    marker, any other an empty one.
    """
    require_columns(frame, ["lens", "router", "rank", "verdict"])
    lenses = list(dict.fromkeys(frame["lens"]))
    with use_style():
        n_routers = frame["router"].nunique()
        axes = axes or make_figure(width_in=PAGE_WIDTH_IN, height_in=0.9 + 0.21 * n_routers)[1][0]
        for router, rows in frame.groupby("router", sort=False):
            style = get_router_style(str(router))
            x = np.array([lenses.index(lens) for lens in rows["lens"]], dtype=np.float64)
            rank = rows["rank"].to_numpy(dtype=np.float64)
            axes.plot(x, rank, style.line, color=style.color, linewidth=1.1, zorder=2)
            above = (rows["verdict"] == ABOVE).to_numpy()
            for shown, face in ((above, style.color), (~above, "white")):
                axes.plot(
                    x[shown], rank[shown], style.marker, color=style.color, mfc=face, zorder=3
                )
            for place, side, gap in ((0, "right", -8), (-1, "left", 8)):
                axes.annotate(
                    style.label, (x[place], rank[place]), (gap, 0), textcoords="offset points",
                    color=style.text_color, ha=side, va="center",
                )  # fmt: skip
        axes.set_xticks(range(len(lenses)), lenses)
        axes.set(xlim=(-1.3, len(lenses) + 0.3), ylim=(n_routers + 0.6, 0.4), ylabel="rank")
        axes.set_yticks([1, n_routers])
        axes.grid(visible=False, axis="y")
    return axes


def plot_bill(frame: pd.DataFrame, axes: Axes | None = None) -> Axes:
    """What each router spends as a share of the large model alone, item on item.

    ``frame`` has one row per router and item, routers in the order to draw: ``router``, ``item`` (a
    key of ``ITEM_STYLES``) and ``share``. The line at 100% is the large model alone.
    """
    require_columns(frame, ["router", "item", "share"])
    if unknown := sorted(set(frame["item"]) - set(ITEM_STYLES)):
        raise ValueError(f"items {unknown} have no style; use some of {', '.join(ITEM_STYLES)}")
    shares = frame.pivot(index="router", columns="item", values="share").fillna(0.0)
    shares = shares.reindex(list(dict.fromkeys(frame["router"])))
    with use_style():
        axes = axes or make_figure(width_in=PAGE_WIDTH_IN / 1.3, height_in=2.6)[1][0]
        y, left = np.arange(len(shares)), np.zeros(len(shares))
        for item, (color, hatch) in ITEM_STYLES.items():
            if item not in shares:
                continue
            width = shares[item].to_numpy(dtype=np.float64)
            axes.barh(y, width, 0.62, left, color=color, hatch=hatch, edgecolor="white", label=item)
            left += width
        for place, total in zip(y, left, strict=True):
            axes.annotate(
                f"{total:.2f}", (total, place), (4, 0), textcoords="offset points", va="center"
            )
        axes.axvline(1.0, color=GREY, linewidth=1.0, linestyle=CHORD_LINE)
        axes.set_yticks(y, [get_router_style(router).label for router in shares.index])
        axes.set(xlabel="cost, the large model alone is 100%", xlim=(0.0, 1.1 * left.max()))
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        use_percent(axes.xaxis)
        axes.figure.legend(loc="outside lower center", ncols=4)
    return axes
