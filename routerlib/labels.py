"""Direct labels: writes the name of each curve beside it, where the least is in the way.

Invariants: the same axes give the same places (nothing is random); a label stays inside the axes
whenever it fits there; single points choose first, for they have the fewest places. Positions are
in pixels of the figure's canvas, distances in points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SPACING_PX = 4.0
PADDING_PX = 2.0
CROWD_PX = 8.0
N_ANCHORS = 32
N_REFINED = 80
LEADER_FROM_PT = 8.0
DISTANCES_PT = np.array([4.0, 8.0, 14.0, 22.0, 32.0, 44.0])
ANGLES = np.arange(12) * np.pi / 6.0

# What one point of a curve, one pixel outside or one other label costs, in points of distance.
COVERED_COST, CROWDED_COST, CROSSED_COST = 60.0, 5.0, 8.0
OVERLAP_COST, OUTSIDE_COST = 2e3, 1e4


@dataclass(frozen=True, slots=True)
class Label:
    """A text and the curve (n, 2), in data coordinates and free of NaN, that it names; a single
    point is a curve of n = 1."""

    text: str
    color: str
    points: Floats


@dataclass(frozen=True, slots=True)
class _Place:
    box: Floats  # x0, y0, x1, y1
    anchor: Floats  # x, y: the point of the curve that the label belongs to


def place_labels(
    axes: Axes, labels: Sequence[Label], obstacles: Sequence[Floats] = (), size: float = 7.0
) -> None:
    """Annotate ``axes`` with the labels; call it last, when the axes' limits are final.

    ``obstacles`` are further curves (n, 2) in data coordinates that no label should cover. A
    label that stands off its curve gets a thin line to it.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes are in no figure; make them with make_figure")
    figure.draw_without_rendering()
    scale = figure.dpi / 72.0
    frame = np.asarray(axes.get_window_extent().extents)
    curves = [_trace(axes, label.points) for label in labels]
    in_the_way = [_trace(axes, points) for points in obstacles]
    placed: list[Floats] = []
    for index in sorted(range(len(labels)), key=lambda index: len(labels[index].points) > 1):
        label, curve = labels[index], curves[index]
        others = np.concatenate(
            [*curves[:index], *curves[index + 1 :], *in_the_way, np.empty((0, 2))]
        )
        place = _find_place(
            curve, _measure(axes, label.text, size), others, frame, placed=placed, scale=scale
        )
        placed.append(place.box)
        in_the_way.append(_compute_leader(place.box, place.anchor))
        _draw(axes, label, place, size=size, scale=scale)


def _trace(axes: Axes, points: Floats) -> Floats:
    """Points every few pixels along a curve: (m, 2) in pixels."""
    pixels = np.asarray(axes.transData.transform(points), dtype=np.float64)
    if len(pixels) < 2:
        return pixels
    along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(pixels, axis=0).T))))
    at = np.linspace(0.0, along[-1], max(2, int(along[-1] / SPACING_PX) + 1))
    return np.column_stack([np.interp(at, along, pixels[:, k]) for k in (0, 1)])


def _measure(axes: Axes, text: str, size: float) -> Floats:
    """Width and height of a text in pixels."""
    probe = axes.text(0.0, 0.0, text, fontsize=size, transform=None)
    extent = probe.get_window_extent()
    probe.remove()
    return np.array([extent.width, extent.height])


def _find_place(
    curve: Floats,
    text_size: Floats,
    others: Floats,
    frame: Floats,
    *,
    placed: Sequence[Floats],
    scale: float,
) -> _Place:
    """Return the cheapest of all anchors x distances x directions."""
    picks = np.unique(np.linspace(0, len(curve) - 1, N_ANCHORS).round().astype(int))
    anchors = np.repeat(curve[picks], len(DISTANCES_PT) * len(ANGLES), axis=0)
    distances = np.tile(np.repeat(DISTANCES_PT, len(ANGLES)), len(picks))
    angles = np.tile(ANGLES, len(picks) * len(DISTANCES_PT))
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    centres = anchors + directions * (distances[:, None] * scale + text_size / 2.0)
    boxes = np.column_stack([centres - text_size / 2.0, centres + text_size / 2.0])
    cost = distances + COVERED_COST * _count_covered(np.concatenate([curve, others]), boxes)
    cost += CROWDED_COST * np.repeat(
        _count_near(curve[picks], others, CROWD_PX), len(DISTANCES_PT) * len(ANGLES)
    )
    outside = np.column_stack([frame[:2] + PADDING_PX - boxes[:, :2], boxes[:, 2:] - frame[2:]])
    cost += OUTSIDE_COST * (outside > 0.0).any(axis=1)
    for other in placed:
        apart = (boxes[:, :2] > other[2:] + PADDING_PX) | (boxes[:, 2:] < other[:2] - PADDING_PX)
        cost += OVERLAP_COST * ~apart.any(axis=1)
    # Leaders are costly to compare with every curve, so only the best places are refined.
    best = np.argsort(cost, kind="stable")[:N_REFINED]
    for i in best:
        leader = _compute_leader(boxes[i], anchors[i])
        leader = leader[len(leader) // 4 :]  # it starts on its own curve
        cost[i] += CROSSED_COST * _count_near(leader, others, SPACING_PX).sum()
        cost[i] += COVERED_COST * sum(_count_covered(leader, box[None])[0] for box in placed)
    choice = best[np.argmin(cost[best])]
    return _Place(boxes[choice], anchors[choice])


def _count_covered(points: Floats, boxes: Floats) -> Floats:
    """How many of the points (m, 2) lie in each of the boxes (c, 4): (c,)."""
    x, y = points.T
    x0, y0, x1, y1 = (boxes + PADDING_PX * np.array([-1, -1, 1, 1])).T[:, :, None]
    inside = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    return np.asarray(inside.sum(axis=1), dtype=np.float64)


def _count_near(points: Floats, others: Floats, distance: float) -> Floats:
    """How many of ``others`` (m, 2) are near each of ``points`` (n, 2): (n,)."""
    gaps = np.hypot(*(others[None, :, :] - points[:, None, :]).transpose(2, 0, 1))
    return np.asarray((gaps < distance).sum(axis=1), dtype=np.float64)


def _compute_leader(box: Floats, anchor: Floats) -> Floats:
    """Points every few pixels from the anchor to the nearest point of the box, 11 at least, so
    that none slips between them: (n, 2)."""
    nearest = np.clip(anchor, box[:2], box[2:])
    n_points = max(11, int(np.hypot(*(nearest - anchor)) / SPACING_PX) + 1)
    return np.asarray(anchor + np.linspace(0.0, 1.0, n_points)[:, None] * (nearest - anchor))


def _draw(axes: Axes, label: Label, place: _Place, *, size: float, scale: float) -> None:
    x, y = axes.transData.inverted().transform(place.anchor)
    dx, dy = (_compute_leader(place.box, place.anchor)[-1] - place.anchor) / scale
    if np.hypot(dx, dy) > LEADER_FROM_PT:
        line = {"arrowstyle": "-", "color": label.color, "lw": 0.6, "shrinkA": 0, "shrinkB": 1}
        axes.annotate("", (x, y), (dx, dy), textcoords="offset points", arrowprops=line)
    dx, dy = ((place.box[:2] + place.box[2:]) / 2.0 - place.anchor) / scale
    text = axes.annotate(label.text, (x, y), (dx, dy), textcoords="offset points")
    text.set(ha="center", va="center", fontsize=size, color=label.color)
