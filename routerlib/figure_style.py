"""How every figure looks and is saved: one style sheet, one look for each router, one way out.

Invariants: no two routers share a colour or a marker, so nothing rests on colour alone; saving the
same figure twice gives the same bytes; only functions read the style sheet, importing does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

STYLE_SHEET = Path(__file__).with_name("style.mplstyle")
COLUMN_WIDTH_IN = 3.5
PAGE_WIDTH_IN = 7.0
GREY = "#666666"
CHORD_LINE = (0, (4, 2))


@dataclass(frozen=True, slots=True)
class RouterStyle:
    """How one router looks in every figure; ``label`` is its short name there."""

    label: str
    color: str
    marker: str
    line: str = "-"

    @property
    def text_color(self) -> str:
        """The colour as dark as text needs to be on white."""
        red, green, blue = to_rgb(self.color)
        return to_hex((0.8 * red, 0.8 * green, 0.8 * blue))


# Hues tell the protocol (warm: before, blue: probe, green: draft, violet: judge), starting from
# Okabe and Ito, Color Universal Design (2008). Learned routers have solid lines, rules have broken
# ones.
ROUTER_STYLES = {
    "always small": RouterStyle("always small", "#4D4D4D", "v"),
    "always large": RouterStyle("always large", "#5D5D5D", "^"),
    "random": RouterStyle("random", "#999999", "x", ":"),
    "oracle": RouterStyle("oracle", "#000000", "*", "-"),
    "learned (before)": RouterStyle("learned, before", "#D55E00", "o"),
    "learned (probe)": RouterStyle("learned, probe", "#0072B2", "s"),
    "learned (draft)": RouterStyle("learned, draft", "#009E73", "D"),
    "first k steps large": RouterStyle("first k large", "#E69F00", ">", "--"),
    "last steps large": RouterStyle("last steps large", "#8A5A2B", "<", "--"),
    "problem length": RouterStyle("problem length", "#CC79A7", "P", "--"),
    "query-level classifier": RouterStyle("query-level", "#882255", "p"),
    "first-token entropy": RouterStyle("first-token entropy", "#56B4E9", "h", "--"),
    "confidence mixture": RouterStyle("confidence mixture", "#1B4F72", "H", "--"),
    "process reward": RouterStyle("process reward", "#117733", "8", "-."),
    "draft mean log-probability": RouterStyle("draft, mean log p", "#77AA33", "X", "--"),
    "draft min log-probability": RouterStyle("draft, min log p", "#3B6E22", "d", ":"),
    "TRIM-Agg": RouterStyle("TRIM-Agg", "#2E8B57", "1", "-."),
    "TRIM-POMDP": RouterStyle("TRIM-POMDP", "#66A61E", "2", "-."),
    "judge score": RouterStyle("judge score", "#8E6BBF", "+", "--"),
}

# Who wrote or would write a step, in the figures of the recorded traces.
AUTHOR_STYLES = {
    "tiny": RouterStyle("tiny model", "#C0841A", "^"),
    "small": RouterStyle("small model", "#1F8A8C", "o"),
    "large": RouterStyle("large model", "#7A3B8F", "s"),
    "both": RouterStyle("both models", "#4D4D4D", "D"),
    "tiny + small": RouterStyle("tiny + small", "#7A9A2E", "v", ":"),
    "tiny + large": RouterStyle("tiny + large", "#C44E52", "<", "--"),
    "small + large": RouterStyle("small + large", "#4878A8", ">", "-."),
    "all three": RouterStyle("all three", "#000000", "*"),
}

# How a setting was chosen, and how a probability was mapped, in the figures of calibration.
METHOD_STYLES = {
    "picked": RouterStyle("without certificate", "#D55E00", "X"),
    "hoeffding_bentkus": RouterStyle("Hoeffding-Bentkus", "#0072B2", "o"),
    "betting": RouterStyle("betting", "#009E73", "D"),
}
MAP_STYLES = {
    "as it is": RouterStyle("as it is", "#999999", "X", ":"),
    "Platt": RouterStyle("Platt", "#0072B2", "o"),
    "isotonic": RouterStyle("isotonic", "#D55E00", "s", "--"),
}

# How a variant compares with the reference of its factor.
VERDICT_STYLES = {
    "reference": RouterStyle("the reference of its group", "#000000", "D"),
    "higher": RouterStyle("higher than it", "#009E73", "^"),
    "lower": RouterStyle("lower than it", "#D55E00", "v"),
    "not distinguishable": RouterStyle("not distinguishable from it", "#4878A8", "o"),
    "not compared": RouterStyle("other problems or prices", "#999999", "s"),
}


def get_router_style(router: str) -> RouterStyle:
    """Return a router's look, or raise ``ValueError`` for a name without one: no figure may give
    a router a look of its own."""
    if router not in ROUTER_STYLES:
        raise ValueError(
            f"router {router!r} has no style; add it to ROUTER_STYLES in figure_style.py "
            f"(known: {', '.join(ROUTER_STYLES)})"
        )
    return ROUTER_STYLES[router]


def get_author_style(author: str) -> RouterStyle:
    """Return an author's look, or raise ``ValueError`` for a name without one."""
    if author not in AUTHOR_STYLES:
        raise ValueError(f"author {author!r} has no style; use one of {', '.join(AUTHOR_STYLES)}")
    return AUTHOR_STYLES[author]


def get_method_style(method: str) -> RouterStyle:
    """Return the look of a way to choose settings, or raise ``ValueError`` for an unknown one."""
    if method not in METHOD_STYLES:
        raise ValueError(f"method {method!r} has no style; use one of {', '.join(METHOD_STYLES)}")
    return METHOD_STYLES[method]


def get_verdict_style(verdict: str) -> RouterStyle:
    """Return the look of a comparison's outcome, or raise ``ValueError`` for an unknown one."""
    if verdict not in VERDICT_STYLES:
        raise ValueError(
            f"verdict {verdict!r} has no style; use one of {', '.join(VERDICT_STYLES)}"
        )
    return VERDICT_STYLES[verdict]


def get_map_style(name: str) -> RouterStyle:
    """Return the look of a calibration map, or raise ``ValueError`` for an unknown one."""
    if name not in MAP_STYLES:
        raise ValueError(f"map {name!r} has no style; use one of {', '.join(MAP_STYLES)}")
    return MAP_STYLES[name]


def require_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise ``ValueError`` unless the frame has these columns, and rows."""
    if missing := [column for column in columns if column not in frame]:
        raise ValueError(f"the frame lacks the columns {missing}; it has {list(frame)}")
    if frame.empty:
        raise ValueError("the frame has no rows: nothing to plot")


def to_points(rows: pd.DataFrame, *columns: str) -> NDArray[np.float64]:
    """Return columns of n rows as numbers: (n, columns)."""
    return rows[list(columns)].to_numpy(dtype=np.float64)


def use_percent(axis: Axis) -> None:
    """Write the shares along an axis as whole percents."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


@contextmanager
def use_style() -> Iterator[None]:
    """Let matplotlib use the style sheet, and nothing of the user's, while the context is open.

    The first figure loads the backend, which in a notebook turns interactive mode on. That stays:
    turned off again with the other settings, no later figure would be shown.
    """
    with plt.style.context(["default", STYLE_SHEET]):
        yield
        is_interactive = plt.isinteractive()
    matplotlib.interactive(is_interactive)


def make_figure(
    n_panels: int = 1, *, width_in: float = COLUMN_WIDTH_IN, height_in: float = 2.8
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels side by side, left to right, in the style of all figures."""
    with use_style():
        figure, grid = plt.subplots(1, n_panels, figsize=(width_in, height_in), squeeze=False)
    return figure, list(grid[0])


def save_figure(figure: Figure, frame: pd.DataFrame, stem: str, directory: Path) -> list[Path]:
    """Write ``stem``.png, ``stem``.pdf and the plotted numbers as ``stem``.csv; return the paths.

    The files carry no date and no version, so the same figure is the same bytes. The CSV has ten
    significant digits and no index.
    """
    directory.mkdir(parents=True, exist_ok=True)
    png, pdf, csv = (directory / f"{stem}.{suffix}" for suffix in ("png", "pdf", "csv"))
    with use_style():
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    frame.to_csv(csv, index=False, float_format="%.10g", lineterminator="\n")
    return [png, pdf, csv]
