"""The figures of the recorded traces, on invented frames that stand for no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from routerlib.figure_style import get_author_style, save_figure
from routerlib.trace_plots import (
    plot_by_depth,
    plot_continuations,
    plot_frontiers,
    plot_solo_accuracy,
    plot_step_lengths,
    plot_substitutions,
)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def make_accuracy() -> pd.DataFrame:
    rows = [
        {"split": split, "author": author, "accuracy": value, "low": value - 0.1,
         "high": value + 0.1, "n": n}
        for split, n in (("train", 30), ("test", 20))
        for author, value in (("small", 0.2), ("large", 0.6))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def make_lengths() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "author": ["small", "small", "large"],
            "tokens": [3, 9, 5],
            "share": [0.25, 1.0, 1.0],
        }
    )


def make_depths() -> pd.DataFrame:
    depth = np.arange(3)
    frames = [
        pd.DataFrame(
            {
                "author": author,
                "depth": depth,
                "value": start - 0.1 * depth,
                "low": start - 0.1 * depth - 0.05,
                "high": start - 0.1 * depth + 0.05,
                "n": 100 * (depth + 1),
            }
        )
        for author, start in (("small", 0.3), ("large", 0.6))
    ]
    return pd.concat(frames, ignore_index=True)


def make_substitutions() -> pd.DataFrame:
    rescued, spoiled = np.array([0.2, 0.1]), np.array([0.05, 0.15])
    gain = rescued - spoiled
    return pd.DataFrame(
        {"depth": [0, 1], "rescued": rescued, "spoiled": spoiled, "gain": gain,
         "low": gain - 0.02, "high": gain + 0.02}
    )  # fmt: skip


def make_frontiers() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "author": ["small", "large", "small + large", "small + large"],
            "cost": [1.0, 3.0, 1.0, 2.0],
            "accuracy": [0.2, 0.5, 0.2, 0.6],
        }
    )


def make_continuations() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "author": ["small", "small", "large"],
            "continuation": ["prefill", "one_shot", "prefill"],
            "tokens": [40.0, 90.0, 60.0],
            "accuracy": [0.2, 0.15, 0.5],
            "low": [0.1, 0.05, 0.4],
            "high": [0.3, 0.25, 0.6],
        }
    )


FIGURES: list[tuple[Callable[[pd.DataFrame], Axes], Callable[[], pd.DataFrame]]] = [
    (plot_solo_accuracy, make_accuracy),
    (plot_step_lengths, make_lengths),
    (plot_by_depth, make_depths),
    (plot_substitutions, make_substitutions),
    (plot_frontiers, make_frontiers),
    (plot_continuations, make_continuations),
]


@pytest.mark.parametrize(("plot", "make"), FIGURES)
def test_saved_twice_is_the_same_bytes_and_the_frame_is_left_alone(
    tmp_path: Path, plot: Callable[[pd.DataFrame], Axes], make: Callable[[], pd.DataFrame]
) -> None:
    contents = []
    for rc in ({}, {"font.size": 30.0, "axes.grid": False}):
        frame = make()
        with plt.rc_context(rc):  # a user's settings must not show
            figure = plot(frame).get_figure(root=True)
            contents.append(save_figure(figure, frame, "x", tmp_path)[0].read_bytes())
        pd.testing.assert_frame_equal(frame, make())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("plot", "make"), FIGURES)
def test_each_column_is_needed_and_authors_are_known(
    plot: Callable[[pd.DataFrame], Axes], make: Callable[[], pd.DataFrame]
) -> None:
    for column in make():
        with pytest.raises(ValueError, match=f"lacks the columns .*{column}"):
            plot(make().drop(columns=column))
    with pytest.raises(ValueError, match="no rows"):
        plot(make().iloc[:0])
    if "author" in make():
        with pytest.raises(ValueError, match="author 'nobody' has no style; use one of "):
            plot(make().replace({"author": {"large": "nobody"}}))


def test_accuracies_stand_at_their_split_with_their_value() -> None:
    axes = plot_solo_accuracy(make_accuracy())
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "train\n30 problems",
        "test\n20 problems",
    ]
    small, large = axes.get_lines()
    assert small.get_color() == get_author_style("small").color
    assert small.get_ydata() == pytest.approx([0.2, 0.2])
    assert (np.round(large.get_xdata()) == [0, 1]).all()
    assert sorted(text.get_text() for text in axes.texts) == ["20.0%", "20.0%", "60.0%", "60.0%"]


def test_lengths_rise_in_steps() -> None:
    small, _ = plot_step_lengths(make_lengths()).get_lines()
    assert small.get_drawstyle() == "steps-post"
    assert small.get_xydata().tolist() == [[3.0, 0.25], [9.0, 1.0]]


def test_depths_have_markers_of_the_number_of_states() -> None:
    axes = plot_by_depth(make_depths(), ylabel="right")
    assert axes.get_ylabel() == "right"
    assert axes.get_ylim()[0] == 0.0
    assert axes.get_ylim()[1] > 0.65
    small = next(c for c in axes.collections if len(c.get_sizes()) == 3)
    assert small.get_sizes() / small.get_sizes()[0] == pytest.approx([1.0, 2.0, 3.0])


def test_rescued_stands_above_spoiled_below_and_the_difference_between() -> None:
    axes = plot_substitutions(make_substitutions(), title="one large step", limit=0.5)
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([0.2, 0.1, -0.05, -0.15])
    assert axes.get_lines()[-1].get_ydata() == pytest.approx([0.15, -0.05])
    assert axes.get_title("left") == "one large step"
    assert axes.get_ylim() == (-0.5, 0.5)


def test_models_alone_are_points_and_several_are_lines() -> None:
    axes = plot_frontiers(make_frontiers(), unit="GFLOP")
    small, large, both = axes.get_lines()
    assert (small.get_linestyle(), small.get_marker()) == ("None", "o")
    assert large.get_xydata().tolist() == [[3.0, 0.5]]
    assert both.get_xydata().tolist() == [[1.0, 0.2], [2.0, 0.6]]
    assert axes.get_xlabel() == "cost per problem (GFLOP)"
    assert axes.get_xlim()[0] == 0.0


def test_protocols_are_named_points_joined_by_model() -> None:
    axes = plot_continuations(make_continuations())
    points = [line for line in axes.get_lines() if line.get_label() == "small model"]
    assert points[0].get_xydata().tolist() == [[40.0, 0.2], [90.0, 0.15]]
    assert sorted(text.get_text() for text in axes.texts) == ["one_shot", "prefill", "prefill"]
    assert axes.get_xlim()[0] == axes.get_ylim()[0] == 0.0
