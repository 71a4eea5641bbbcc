"""Regenerates the figures into a scratch folder and compares them with the tracked ones.

Invariants: every difference is listed, not only the first; nothing outside the scratch folder is
written. Numbers (CSV, JSON) agree to 1e-6, absolute or relative; PNG files agree in bytes; of a
PDF only its presence is compared, for its compression depends on the system's zlib.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from routerlib import paths
from routerlib.errors import NotebookError
from routerlib.notebooks import run_notebooks

TOLERANCE = 1e-6
COMPARED_SUFFIXES = (".csv", ".json", ".png", ".pdf")


def verify_figures(
    scratch: Path,
    *,
    expected: Path = paths.FIGURES,
    notebooks: Sequence[Path] | None = None,
    show_progress: bool = True,
) -> list[str]:
    """Run all notebooks with their outputs in ``scratch`` and return every difference to
    ``expected``; [] means reproduced.

    ``scratch`` is emptied first, so it has to be inside the build folder or not exist yet
    (``NotebookError``). The notebooks declare ``results_dir`` and ``figures_dir``.
    """
    scratch = scratch.resolve()
    if scratch.exists():
        if paths.BUILD not in scratch.parents:
            raise NotebookError(f"{scratch} exists outside {paths.BUILD}; name a new folder")
        shutil.rmtree(scratch)
    if notebooks is None:
        notebooks = sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))
    run_notebooks(
        notebooks,
        scratch / "notebooks",
        {"results_dir": str(scratch / "results"), "figures_dir": str(scratch / "figures")},
        show_progress=show_progress,
    )
    return compare_figures(expected, scratch / "figures")


def compare_figures(expected: Path, actual: Path) -> list[str]:
    """Return every difference between two folders of figures, one sentence each."""
    names = {
        path.relative_to(folder).as_posix()
        for folder in (expected, actual)
        for path in folder.rglob("*")
        if path.suffix in COMPARED_SUFFIXES
    }
    if not names:
        return [f"neither {expected} nor {actual} holds a figure"]
    return [problem for name in sorted(names) for problem in _compare(name, expected, actual)]


def _compare(name: str, expected: Path, actual: Path) -> Iterator[str]:
    old, new = expected / name, actual / name
    if not old.exists():
        yield f"{name}: is made now but not tracked"
    elif not new.exists():
        yield f"{name}: is tracked but no longer made"
    elif name.endswith(".csv"):
        yield from (f"{name}: {problem}" for problem in _compare_csv(old, new))
    elif name.endswith(".json"):
        yield from (f"{name}: {problem}" for problem in _compare_json(old, new))
    elif name.endswith(".png") and old.read_bytes() != new.read_bytes():
        yield f"{name}: {_describe_pixels(old, new)}"


def _compare_csv(old: Path, new: Path) -> Iterator[str]:
    before, after = (
        list(csv.reader(path.read_text(encoding="utf-8").splitlines())) for path in (old, new)
    )
    if before[:1] != after[:1]:
        yield f"columns were {before[:1]} and are {after[:1]}"
        return
    if len(before) != len(after):
        yield f"had {len(before) - 1} rows and has {len(after) - 1}"
    for line, (row_before, row_after) in enumerate(zip(before, after, strict=False), start=1):
        if len(row_before) != len(row_after):
            yield f"line {line}: had {len(row_before)} values and has {len(row_after)}"
            continue
        for column, was, now in zip(before[0], row_before, row_after, strict=False):
            if not _is_same(_read_number(was), _read_number(now)):
                yield f"line {line}, {column}: was {was} and is {now}"


def _compare_json(old: Path, new: Path) -> Iterator[str]:
    before, after = (
        _flatten(json.loads(path.read_text(encoding="utf-8")), "") for path in (old, new)
    )
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            yield f"{key} is gone"
        elif key not in before:
            yield f"{key} is new"
        elif not _is_same(before[key], after[key]):
            yield f"{key}: was {before[key]} and is {after[key]}"


def _flatten(value: object, key: str) -> dict[str, object]:
    items: list[tuple[str, object]]
    if isinstance(value, dict):
        items = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {key: value}
    flat: dict[str, object] = {key: f"{type(value).__name__} of {len(items)}"} if not items else {}
    for name, item in items:
        flat |= _flatten(item, f"{key}.{name}" if key else name)
    return flat


def _read_number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _is_same(was: object, now: object) -> bool:
    numbers = (int, float)
    if isinstance(was, numbers) and isinstance(now, numbers) and bool not in {type(was), type(now)}:
        if math.isnan(was) or math.isnan(now):
            return math.isnan(was) and math.isnan(now)
        return math.isclose(was, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(was) is type(now) and was == now


def _describe_pixels(old: Path, new: Path) -> str:
    """Say how two PNG files differ: in size, in pixels, or only in bytes."""
    import matplotlib.image
    import numpy as np

    before, after = (np.asarray(matplotlib.image.imread(path)) for path in (old, new))
    if before.shape != after.shape:
        return (
            f"was {before.shape[1]} x {before.shape[0]} and is {after.shape[1]} x {after.shape[0]}"
        )
    changed = int(np.any(before != after, axis=-1).sum())
    if not changed:
        return "differs in bytes but in no pixel (another version of the image library?)"
    return f"{changed} of {before.shape[0] * before.shape[1]} pixels differ"
