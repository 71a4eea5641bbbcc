"""Comparing two folders of figures: what is equal, and every kind of difference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib import paths
from routerlib.errors import NotebookError
from routerlib.verification import TOLERANCE, compare_figures, verify_figures

CSV = "router,value,low\nrandom,0.5,nan\noracle,1000.0,\n"
NUMBERS = {"gsm8k": {"accuracy": 0.5, "n": 100, "routers": ["random", "oracle"], "certified": True}}


def write_png(path: Path, *, bright: bool = False, wide: int = 4) -> None:
    image = np.zeros((3, wide, 3))
    image[0, 0] = 1.0 if bright else 0.0
    matplotlib.image.imsave(path, image, metadata={"Software": None})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("tracked", "now"):
        folder = tmp_path / name / "sub"
        folder.mkdir(parents=True)
        (tmp_path / name / "a.csv").write_text(CSV)
        (tmp_path / name / "numbers.json").write_text(json.dumps(NUMBERS))
        (folder / "a.pdf").write_text("any")
        write_png(tmp_path / name / "a.png")
    return tmp_path / "tracked", tmp_path / "now"


def test_equal_folders_have_no_difference(folders: tuple[Path, Path]) -> None:
    tracked, now = folders
    (now / "sub" / "a.pdf").write_text("another compression")
    (now / "notes.txt").write_text("not compared")
    assert compare_figures(tracked, now) == []


def change_text(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (change_text("a.csv", "0.5", "0.50001"), "a.csv: line 2, value: was 0.5 and is 0.50001"),
        (change_text("a.csv", "random", "coin"), "a.csv: line 2, router: was random and is coin"),
        (change_text("a.csv", "nan", "0.1"), "a.csv: line 2, low: was nan and is 0.1"),
        (change_text("a.csv", "router,", "policy,"), "columns were"),
        (change_text("a.csv", "oracle,1000.0,\n", ""), "a.csv: had 2 rows and has 1"),
        (change_text("a.csv", ",nan", ""), "a.csv: line 2: had 3 values and has 2"),
        (change_text("numbers.json", "0.5", "0.6"), "gsm8k.accuracy: was 0.5 and is 0.6"),
        (change_text("numbers.json", '"n"', '"m"'), "numbers.json: gsm8k.n is gone"),
        (change_text("numbers.json", '"n"', '"m"'), "numbers.json: gsm8k.m is new"),
        (change_text("numbers.json", "true", "1"), "gsm8k.certified: was True and is 1"),
        (change_text("numbers.json", '["random", "oracle"]', "[]"), "gsm8k.routers is new"),
        (lambda f: write_png(f / "a.png", bright=True), "a.png: 1 of 12 pixels differ"),
        (lambda f: write_png(f / "a.png", wide=5), "a.png: was 4 x 3 and is 5 x 3"),
        (lambda f: (f / "sub" / "a.pdf").unlink(), "sub/a.pdf: is tracked but no longer made"),
        (lambda f: (f / "b.csv").write_text("x\n"), "b.csv: is made now but not tracked"),
    ],
)
def test_every_difference_is_described(
    folders: tuple[Path, Path], change: Callable[[Path], object], expected: str
) -> None:
    tracked, now = folders
    change(now)
    found = compare_figures(tracked, now)
    assert any(expected in problem for problem in found), found


def test_all_differences_are_listed_at_once(folders: tuple[Path, Path]) -> None:
    tracked, now = folders
    change_text("a.csv", "0.5", "0.6")(now)
    change_text("a.csv", "1000.0", "2000.0")(now)
    write_png(now / "a.png", bright=True)
    assert len(compare_figures(tracked, now)) == 3


def test_png_of_equal_pixels_but_other_bytes_is_a_difference(folders: tuple[Path, Path]) -> None:
    tracked, now = folders
    image = matplotlib.image.imread(now / "a.png")
    matplotlib.image.imsave(now / "a.png", image, metadata={"Software": "another"})
    assert compare_figures(tracked, now) == [
        "a.png: differs in bytes but in no pixel (another version of the image library?)"
    ]


def test_nothing_to_compare_is_a_difference(tmp_path: Path) -> None:
    assert len(compare_figures(tmp_path / "a", tmp_path / "b")) == 1


@given(st.floats(-1e6, 1e6), st.floats(0.1, 10.0).filter(lambda f: abs(f - 1.0) > 0.01))
def test_tolerance_is_absolute_below_one_and_relative_above(value: float, factor: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        tracked, now = Path(name) / "tracked", Path(name) / "now"
        for folder, shift in ((tracked, 0.0), (now, factor * TOLERANCE * max(1.0, abs(value)))):
            folder.mkdir()
            (folder / "a.csv").write_text(f"x\n{value + shift!r}\n")
        assert bool(compare_figures(tracked, now)) is (factor > 1.0)


def test_scratch_folder_that_is_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(NotebookError, match="outside"):
        verify_figures(tmp_path / "mine", notebooks=[])
    assert (tmp_path / "mine").exists()


@pytest.mark.slow
def test_verify_runs_the_notebooks_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    source = (
        "from pathlib import Path\n"
        "Path(results_dir).mkdir(parents=True)\n"
        "Path(figures_dir).mkdir(parents=True)\n"
        "(Path(figures_dir) / 'a.csv').write_text('x\\n' + str(seed) + '\\n')"
    )
    parameters = (
        "seed = 1  # seed\n"
        'results_dir = "build/results"  # results\n'
        'figures_dir = "figures"  # figures'
    )
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"c{i}",
            "metadata": {"tags": tags},
            "outputs": [],
            "source": text,
        }
        for i, (tags, text) in enumerate([(["parameters"], parameters), ([], source)])
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
    notebook = tmp_path / "01.ipynb"
    notebook.write_text(
        json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    )
    expected = tmp_path / "figures"
    expected.mkdir()
    (expected / "a.csv").write_text("x\n1.0000001\n")
    scratch = tmp_path / "build" / "verify"
    (scratch / "figures").mkdir(parents=True)
    (scratch / "figures" / "stale.csv").write_text("x\n")

    def verify() -> list[str]:
        return verify_figures(scratch, expected=expected, notebooks=[notebook], show_progress=False)

    assert verify() == []
    (expected / "a.csv").write_text("x\n2\n")
    assert verify() == ["a.csv: line 2, x: was 2 and is 1"]
    shutil.rmtree(scratch)
