"""The figures of bills, on invented frames that stand for no result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from routerlib.bill_plots import ITEM_STYLES, plot_bill, plot_ranking
from routerlib.figure_style import save_figure

ROUTERS = ("random", "learned (before)", "process reward")


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def make_ranking() -> pd.DataFrame:
    ranks = {"flops": (2, 1, 3), "usd": (3, 2, 1)}
    return pd.DataFrame(
        [
            {"lens": lens, "router": router, "rank": rank,
             "verdict": "higher" if router == "learned (before)" else "lower"}
            for lens, row in ranks.items()
            for router, rank in zip(ROUTERS, row, strict=True)
        ]
    )  # fmt: skip


def make_bill() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"router": "learned (before)", "item": "large model writes", "share": 0.25},
            {"router": "learned (before)", "item": "small model", "share": 0.5},
            {"router": "process reward", "item": "small model", "share": 0.5},
            {"router": "process reward", "item": "reward model", "share": 1.0},
        ]
    )


@pytest.mark.parametrize(("plot", "make"), [(plot_ranking, make_ranking), (plot_bill, make_bill)])
def test_saved_twice_is_the_same_bytes_and_the_frame_is_left_alone(plot, make, tmp_path) -> None:  # type: ignore[no-untyped-def]
    contents = []
    for folder in ("a", "b"):
        frame = make()
        files = save_figure(plot(frame).figure, frame, "figure", Path(tmp_path) / folder)
        contents.append([file.read_bytes() for file in files])
        pd.testing.assert_frame_equal(frame, make())
    assert contents[0] == contents[1]
    with pytest.raises(ValueError, match=r"lacks the columns \['router'\]"):
        plot(make().drop(columns="router"))


def test_a_ranking_has_the_best_on_top_and_fills_what_is_above_the_coin() -> None:
    axes = plot_ranking(make_ranking())
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    lines = [line.get_ydata().tolist() for line in axes.lines if line.get_linestyle() != "None"]
    assert lines == [[2, 3], [1, 2], [3, 1]]
    filled = {
        tuple(np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
        if line.get_linestyle() == "None" and line.get_markerfacecolor() != "white"
    }
    assert (1.0, 2.0) in filled
    assert (3.0, 1.0) not in filled
    names = [text.get_text() for text in axes.texts]
    assert names == [
        name for r in ("random", "learned, before", "process reward") for name in (r, r)
    ]


def test_a_bill_stacks_its_items_and_writes_their_sum() -> None:
    axes = plot_bill(make_bill())
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_width()]
    drawn = sorted((bar.get_y(), bar.get_x(), bar.get_width()) for bar in bars)
    assert [(x, width) for _, x, width in drawn] == [(0, 0.25), (0.25, 0.5), (0, 0.5), (0.5, 1.0)]
    assert [text.get_text() for text in axes.texts] == ["0.75", "1.50"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [
        "learned, before",
        "process reward",
    ]
    with pytest.raises(ValueError, match=r"items \['tax'\] have no style"):
        plot_bill(make_bill().replace("reward model", "tax"))
    assert len({color for color, _ in ITEM_STYLES.values()}) == len(ITEM_STYLES)
