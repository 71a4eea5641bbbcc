"""The figure functions, on invented frames that stand for no result.

These numbers are test data and never go to figures/.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.text import Annotation

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from routerlib import policies
from routerlib.figure_style import (
    ROUTER_STYLES,
    get_router_style,
    make_figure,
    save_figure,
    use_style,
)
from routerlib.labels import Label, place_labels
from routerlib.plots import plot_accuracy_cost, plot_calibration, plot_routing_behaviour

ENDS = ["cost_low", "cost_high", "accuracy_low", "accuracy_high"]


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def make_accuracy_cost() -> pd.DataFrame:
    rows: list[dict[str, object]] = []

    def add(router: str, kind: str, cost: float, accuracy: float) -> None:
        interval = dict(
            zip(ENDS, (cost - 5, cost + 5, accuracy - 0.05, accuracy + 0.05), strict=True)
        )
        rows.append({"router": router, "kind": kind, "cost": cost, "accuracy": accuracy} | interval)

    add("always small", "reference", 80.0, 0.2)
    add("always large", "reference", 220.0, 0.5)
    for router, bump in [
        ("learned (before)", 0.06),
        ("learned (probe)", 0.08),
        ("random", 0.0),
        ("first k steps large", 0.03),
        ("draft mean log-probability", -0.03),
    ]:
        for t in np.linspace(0.0, 1.0, 21):
            add(router, "sweep", 80.0 + 140.0 * t, 0.2 + 0.3 * t + bump * np.sin(np.pi * t))
    for t in np.linspace(0.0, 1.0, 9):
        add("oracle", "sweep", 60.0 + 50.0 * t, 0.2 + 0.45 * t**0.5)
    add("learned (before)", "operating_point", 150.0, 0.41)
    frame = pd.DataFrame(rows)
    frame.loc[frame["router"] == "oracle", ENDS] = np.nan
    return frame


def make_calibration(kind: str = "max_cost") -> pd.DataFrame:
    rows = [
        {"router": router, "target": t, "achieved": t + off, "low": t + off - 0.1,
         "high": t + off + 0.1, "target_kind": kind}
        for router, off in [("learned (before)", 0.02), ("first-token entropy", -0.03)]
        for t in (0.2, 0.4, 0.6, 0.8)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def make_behaviour() -> pd.DataFrame:
    rows = [
        {"router": router, "step": step, "share_large": share, "low": share - 0.1,
         "high": share + 0.1, "n": 100.0 - 10 * step}
        for router, shares in [("learned (before)", (0.8, 0.5, 0.2)), ("random", (0.4, 0.4, 0.4))]
        for step, share in enumerate(shares, start=1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


FIGURES: list[tuple[Callable[[pd.DataFrame], Axes], Callable[[], pd.DataFrame]]] = [
    (plot_accuracy_cost, make_accuracy_cost),
    (plot_calibration, make_calibration),
    (plot_routing_behaviour, make_behaviour),
]


@pytest.mark.parametrize(("plot", "make"), FIGURES)
def test_saved_twice_is_the_same_bytes_and_the_frame_is_left_alone(
    tmp_path: Path,
    plot: Callable[[pd.DataFrame], Axes],
    make: Callable[[], pd.DataFrame],
) -> None:
    contents = []
    for folder in ("a", "b"):
        frame = make()
        axes = plot(frame)
        pd.testing.assert_frame_equal(frame, make())
        paths = save_figure(axes.get_figure(root=True), frame, "test-data", tmp_path / folder)
        assert [path.name for path in paths] == ["test-data.png", "test-data.pdf", "test-data.csv"]
        contents.append([path.read_bytes() for path in paths])
        plt.close("all")
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG")
    assert b"CreationDate" not in contents[0][1]
    back = pd.read_csv(tmp_path / "a" / "test-data.csv")
    pd.testing.assert_frame_equal(back, make(), check_dtype=False)


@pytest.mark.parametrize(("plot", "make"), FIGURES)
def test_the_users_settings_do_not_show(
    tmp_path: Path,
    plot: Callable[[pd.DataFrame], Axes],
    make: Callable[[], pd.DataFrame],
) -> None:
    settings = [{}, {"font.size": 30.0, "axes.grid": False, "savefig.dpi": 40.0}]
    pictures = []
    for rc in settings:
        with plt.rc_context(rc):
            axes = plot(make())
            png = save_figure(axes.get_figure(root=True), make(), "x", tmp_path)[0]
        pictures.append(png.read_bytes())
        plt.close("all")
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(("plot", "make"), FIGURES)
def test_each_column_is_needed_and_an_empty_frame_is_refused(
    plot: Callable[[pd.DataFrame], Axes], make: Callable[[], pd.DataFrame]
) -> None:
    for column in make():
        with pytest.raises(ValueError, match=f"lacks the columns .*{column}"):
            plot(make().drop(columns=column))
    with pytest.raises(ValueError, match="no rows"):
        plot(make().iloc[:0])
    with pytest.raises(ValueError, match=r"router 'nobody' has no style; add it to ROUTER_STYLES"):
        plot(make().replace({"router": {"learned (before)": "nobody"}}))


def get_colours(axes: Axes) -> set[str]:
    return {str(line.get_color()) for line in axes.get_lines()}


@pytest.mark.parametrize(("plot", "make"), FIGURES)
def test_a_router_has_its_own_colour_in_every_figure(
    plot: Callable[[pd.DataFrame], Axes], make: Callable[[], pd.DataFrame]
) -> None:
    frame = make()
    assert {get_router_style(router).color for router in frame["router"]} <= get_colours(
        plot(frame)
    )


def test_interactive_mode_that_the_first_figure_turns_on_stays_on() -> None:
    before = plt.isinteractive()
    try:
        with use_style():
            matplotlib.interactive(True)  # as a notebook's backend does when it is loaded
        assert plt.isinteractive()
    finally:
        matplotlib.interactive(before)


def test_chord_joins_the_two_ends_and_points_have_both_bars() -> None:
    axes = plot_accuracy_cost(make_accuracy_cost(), unit="large-model tokens")
    lines = [np.column_stack(line.get_data()) for line in axes.get_lines()]
    assert lines[0].tolist() == [[80.0, 0.2], [220.0, 0.5]]
    bars = [line.tolist() for line in lines if len(line) == 2]
    assert [[150.0, pytest.approx(0.36)], [150.0, pytest.approx(0.46)]] in bars
    assert [[145.0, 0.41], [155.0, 0.41]] in bars
    assert axes.get_xlabel() == "cost per problem (large-model tokens)"


def test_chord_needs_its_two_ends_and_kinds_are_known() -> None:
    frame = make_accuracy_cost()
    with pytest.raises(ValueError, match="0 reference rows for 'always large'"):
        plot_accuracy_cost(frame[frame["router"] != "always large"])
    with pytest.raises(ValueError, match=r"kind \['line'\] is unknown"):
        plot_accuracy_cost(frame.replace({"kind": {"sweep": "line"}}))


@pytest.mark.parametrize(
    ("kind", "miss", "x_label"),
    [
        ("max_cost", "over budget", "target: cost at most"),
        ("keep_accuracy", "below target", "target: accuracy kept at least"),
    ],
)
def test_calibration_says_which_side_of_the_diagonal_is_bad(
    kind: str, miss: str, x_label: str
) -> None:
    axes = plot_calibration(make_calibration(kind))
    diagonal = np.column_stack(axes.get_lines()[0].get_data())
    assert (diagonal[:, 0] == diagonal[:, 1]).all()
    assert miss in [text.get_text() for text in axes.texts]
    assert axes.get_xlabel() == x_label
    assert axes.get_xlim() == axes.get_ylim()


def test_calibration_takes_one_kind_of_target() -> None:
    both = pd.concat([make_calibration("max_cost"), make_calibration("keep_accuracy")])
    for frame in (both, make_calibration("other")):
        with pytest.raises(ValueError, match="give rows of 'max_cost' or of 'keep_accuracy'"):
            plot_calibration(frame)


def test_panels_are_drawn_where_asked() -> None:
    figure, panels = make_figure(2, width_in=7.0, height_in=3.0)
    assert plot_calibration(make_calibration(), panels[1]) is panels[1]
    assert not panels[0].lines
    assert figure.get_size_inches().tolist() == [7.0, 3.0]


def test_behaviour_marker_area_is_the_number_of_decisions() -> None:
    axes = plot_routing_behaviour(make_behaviour())
    (first, _) = (
        c for c in axes.collections if hasattr(c, "get_sizes") and len(c.get_sizes()) == 3
    )
    assert first.get_sizes() / first.get_sizes()[0] == pytest.approx([1.0, 80 / 90, 70 / 90])
    assert first.get_offsets().tolist() == [[1.0, 0.8], [2.0, 0.5], [3.0, 0.2]]


def get_label_boxes(axes: Axes) -> dict[str, np.ndarray]:
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    return {
        text.get_text(): text.get_window_extent().extents
        for text in axes.texts
        if isinstance(text, Annotation) and text.get_text()
    }


@pytest.mark.parametrize(("plot", "make"), [FIGURES[0], FIGURES[2]])
def test_labels_overlap_neither_each_other_nor_the_frame(
    plot: Callable[[pd.DataFrame], Axes], make: Callable[[], pd.DataFrame]
) -> None:
    axes = plot(make())
    boxes = get_label_boxes(axes)
    assert {get_router_style(router).label for router in make()["router"]} <= set(boxes)
    for a, b in itertools.combinations(boxes.values(), 2):
        assert (a[2:] < b[:2]).any() or (b[2:] < a[:2]).any()
    frame = axes.get_window_extent().extents
    for box in boxes.values():
        assert (box[:2] >= frame[:2]).all()
        assert (box[2:] <= frame[2:]).all()


def test_label_stands_beside_its_curve_and_covers_no_other() -> None:
    _, (axes,) = make_figure()
    axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0))
    low, high = np.array([[0.0, 0.3], [1.0, 0.3]]), np.array([[0.0, 0.7], [1.0, 0.7]])
    place_labels(axes, [Label("low", "#000000", low), Label("high", "#000000", high)])
    for name, box in get_label_boxes(axes).items():
        y = axes.transData.inverted().transform(box.reshape(2, 2))[:, 1]
        own, other = (0.3, 0.7) if name == "low" else (0.7, 0.3)
        assert abs(y.mean() - own) < abs(y.mean() - other)
        assert not y[0] < own < y[1]


def test_styles_are_told_apart_without_colour() -> None:
    styles = list(ROUTER_STYLES.values())
    for field in ("label", "color", "marker"):
        assert len({getattr(style, field) for style in styles}) == len(styles), field


# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
DEFICIENCIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
}  # fmt: skip


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_solid_lines_are_told_apart_by_colour_blind_readers(deficiency: str) -> None:
    solid = [s for s in ROUTER_STYLES.values() if s.line == "-" and not s.label.startswith("alw")]
    seen = {
        s.label: np.clip(
            np.array(DEFICIENCIES[deficiency]) @ np.array(to_rgb(s.color)) ** 2.2, 0, 1
        )
        ** (1 / 2.2)
        for s in solid
    }
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 0.2, (a, b)


def compute_luminance(color: str) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ np.array(to_rgb(color)) ** 2.2)


@pytest.mark.parametrize("style", ROUTER_STYLES.values(), ids=lambda style: style.label)
def test_colours_stand_out_on_white(style: object) -> None:
    assert 1.05 / (compute_luminance(style.color) + 0.05) > 2.0  # type: ignore[attr-defined]
    assert 1.05 / (compute_luminance(style.text_color) + 0.05) > 3.0  # type: ignore[attr-defined]


def test_every_baseline_has_a_style() -> None:
    for name in policies.__all__:
        default = getattr(getattr(policies, name), "__dataclass_fields__", {}).get("name")
        if default is not None and isinstance(default.default, str):
            get_router_style(default.default)
