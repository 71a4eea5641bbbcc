"""The figures of calibration, on invented frames that stand for no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from matplotlib.axes import Axes

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from routerlib.calibration_plots import plot_miss_rates, plot_reliability
from routerlib.evaluate.reliability import MAPS
from routerlib.evaluate.resplits import METHODS
from routerlib.figure_style import MAP_STYLES, METHOD_STYLES, save_figure


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def make_misses() -> pd.DataFrame:
    rows = [
        {"router": "learned (before)", "target": target, "method": method, "delta": 0.1,
         "missed": missed, "low": max(missed - 0.05, 0.0), "high": missed + 0.07,
         "refused": refused}
        for target, base in [("accuracy >= 80% of large", 0.4), ("cost <= 40%", 0.5)]
        for method, missed, refused in [
            ("picked", base, 0.0), ("hoeffding_bentkus", 0.0, 1.0), ("betting", 0.05, 0.3),
        ]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def make_reliability() -> pd.DataFrame:
    rows = [
        {"map": name, "predicted": x, "observed": x + off, "low": x + off - 0.1,
         "high": x + off + 0.1, "share": 0.25}
        for name, off in [("as it is", -0.1), ("Platt", 0.02), ("isotonic", 0.0)]
        for x in (0.2, 0.4, 0.6, 0.8)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("plot", "make"), [(plot_miss_rates, make_misses), (plot_reliability, make_reliability)]
)
def test_saved_twice_is_the_same_bytes_and_the_frame_is_left_alone(
    tmp_path: Path, plot: Callable[[pd.DataFrame], Axes], make: Callable[[], pd.DataFrame]
) -> None:
    contents = []
    for folder in ("a", "b"):
        frame = make()
        figure = plot(frame).get_figure(root=True)
        pd.testing.assert_frame_equal(frame, make())
        paths = save_figure(figure, frame, "test-data", tmp_path / folder)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]


def test_every_method_and_map_has_a_look_of_its_own() -> None:
    assert set(METHOD_STYLES) == set(METHODS)
    assert set(MAP_STYLES) == set(MAPS)
    for styles in (METHOD_STYLES, MAP_STYLES):
        for part in ("color", "marker", "label"):
            assert len({getattr(style, part) for style in styles.values()}) == len(styles)


def test_misses_are_shown_with_delta_and_refusals() -> None:
    axes = plot_miss_rates(make_misses())
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("refused 100%") == 2
    assert texts.count("refused 30%") == 2
    assert r"$\delta$ = 0.1" in texts
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "accuracy >= 80% of large",
        "cost <= 40%",
    ]
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 3
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first target is at the top"


@pytest.mark.parametrize("refused", [0.0, 0.3, 1.0])
def test_nothing_of_the_misses_is_cut_off_or_crossed_and_no_room_is_lost(refused: float) -> None:
    axes = plot_miss_rates(make_misses().assign(refused=refused))
    figure = axes.get_figure(root=True)
    figure.draw_without_rendering()
    legend = axes.get_legend()
    assert legend is not None
    inner, outer = axes.get_window_extent(), figure.bbox
    refusals = [t.get_window_extent() for t in axes.texts if t.get_text().startswith("refused")]
    assert len(refusals) == (0 if refused == 0.0 else 6)
    assert all(inner.x1 < text.x0 and text.x1 < outer.x1 for text in refusals)
    names = legend.get_window_extent()
    assert outer.x0 <= names.x0 < names.x1 <= outer.x1
    assert axes.xaxis.label.get_window_extent().y0 < 0.1 * figure.dpi, "at the bottom, to 0.1 in"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="refused"), "lacks the columns"),
        (lambda f: f.iloc[:0], "no rows"),
        (lambda f: f.assign(router=["a", "b"] * 3), "router is .* rows of one"),
        (lambda f: f.assign(method="other"), "method 'other' has no style"),
    ],
)
def test_wrong_misses_are_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plot_miss_rates(change(make_misses()))


def test_wrong_reliability_is_refused() -> None:
    with pytest.raises(ValueError, match="map 'other' has no style"):
        plot_reliability(make_reliability().assign(map="other"))
    with pytest.raises(ValueError, match="lacks the columns"):
        plot_reliability(make_reliability().drop(columns="share"))


def test_reliability_names_its_event() -> None:
    axes = plot_reliability(make_reliability(), event="small fails")
    assert axes.get_xlabel() == "predicted: small fails"
    assert axes.get_xlim() == axes.get_ylim()
