"""The figure of variants, on an invented frame that stands for no result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from routerlib.comparison_plots import plot_variants
from routerlib.figure_style import VERDICT_STYLES, save_figure


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def make_variants() -> pd.DataFrame:
    rows = [
        {"factor": factor, "level": level, "value": value, "low": value - 0.02,
         "high": value + 0.02, "verdict": verdict, "seed_low": seed - 0.01, "seed_mean": seed,
         "seed_high": seed + 0.01}
        for factor, level, value, verdict, seed in [
            ("trainer", "exact", 0.02, "reference", 0.01),
            ("trainer", "trees", 0.03, "not distinguishable", 0.02),
            ("trainer", "none", -0.05, "lower", np.nan),
            ("data", "100", 0.0, "higher", 0.0),
            ("data", "all", 0.04, "not compared", 0.03),
        ]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_saved_twice_is_the_same_bytes_and_the_frame_is_left_alone(tmp_path: Path) -> None:
    contents = []
    for folder in ("a", "b"):
        frame = make_variants()
        files = save_figure(plot_variants(frame).figure, frame, "figure", tmp_path / folder)
        contents.append([file.read_bytes() for file in files])
        pd.testing.assert_frame_equal(frame, make_variants())
    assert contents[0] == contents[1]


def test_every_row_is_drawn_where_its_label_is() -> None:
    frame = make_variants()
    axes = plot_variants(frame)
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    levels = dict(zip(names, axes.get_yticks(), strict=True))
    assert list(levels) == list(frame["level"])
    assert len(set(levels.values())) == len(frame)
    drawn = {
        (round(float(x), 6), round(float(y), 6))
        for line in axes.lines
        if line.get_marker() not in ("None", "|")
        for x, y in zip(*line.get_data(), strict=True)
    }
    assert drawn == {(row.value, round(float(levels[row.level]), 6)) for row in frame.itertuples()}
    assert {text.get_text() for text in axes.texts} == {"trainer", "data"}
    below, above = axes.get_ylim()
    assert above < min(levels.values()) < max(levels.values()) < below  # the first row is on top


def test_the_legend_explains_what_is_shown_and_nothing_else() -> None:
    frame = make_variants()
    (legend,) = plot_variants(frame).figure.legends
    texts = {text.get_text() for text in legend.get_texts()}
    assert texts == {style.label for style in VERDICT_STYLES.values()} | {"single seeds, range"}
    plain = frame[frame["verdict"] == "lower"]
    (legend,) = plot_variants(plain).figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [VERDICT_STYLES["lower"].label]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the columns"):
        plot_variants(make_variants().drop(columns="seed_mean"))
    with pytest.raises(ValueError, match="verdict 'worse' has no style"):
        plot_variants(make_variants().assign(verdict="worse"))
