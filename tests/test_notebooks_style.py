"""The rules for notebooks: each breach is found, and the tracked notebooks have none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib import paths
from routerlib.notebook_style import (
    MAX_CELL_LINES,
    check_notebook,
    compute_stored_text,
    strip_notebook,
)

Cell = dict[str, Any]
TRACKED = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
QUESTION = "# Is it so?\n\nInputs: traces. Outputs: a figure. Run time: seconds."


def make_cell(kind: str, source: str, *tags: str) -> Cell:
    cell: Cell = {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def make_notebook() -> Cell:
    cells = [
        make_cell("markdown", QUESTION),
        make_cell("code", "import json\nfrom pathlib import Path"),
        make_cell("code", 'seed = 0  # of the generator\nname = "x"  # of the run', "parameters"),
        make_cell("code", "value = seed + 1"),
        make_cell("code", "save_numbers({name: value}, Path('numbers.json'))\nassert value > seed"),
    ]
    metadata: Cell = {"kernelspec": {"name": "python3"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write_stored(path: Path, notebook: Cell) -> Path:
    path.write_text(compute_stored_text(notebook), encoding="utf-8")
    return path


def test_a_notebook_in_order_has_no_problem(tmp_path: Path) -> None:
    assert check_notebook(write_stored(tmp_path / "01_fine.ipynb", make_notebook())) == []


def set_source(index: int, source: str) -> Callable[[Cell], None]:
    return lambda notebook: notebook["cells"][index].update(source=source)


BREACHES: list[tuple[Callable[[Cell], object], str]] = [
    (lambda n: n["cells"].pop(0), "cell 1 has to be text"),
    (set_source(0, "# Is it so?\n\nInputs: x. Outputs: y."), "does not say 'run time'"),
    (set_source(0, "# It is.\n\nInputs, outputs, run time"), "does not say '?'"),
    (set_source(1, "import json\nx = 1"), "something other than imports"),
    (lambda n: n["cells"][2]["metadata"].clear(), "0 code cells are tagged"),
    (lambda n: n["cells"][3]["metadata"]["tags"].append("parameters"), "2 code cells are tagged"),
    (set_source(2, "seed = 1 + 1  # derived"), "cell 3: line 1 is not one literal"),
    (set_source(2, "seed = 1"), "cell 3: line 1: seed has no trailing"),
    (set_source(3, "def f():\n    return 1"), "cell 4: has a 'def'"),
    (set_source(3, "class A:\n    x = 1"), "cell 4: has a 'class'"),
    (set_source(3, "if seed:\n    try:\n        1\n    except ValueError:\n        2"), "a 'try'"),
    (set_source(3, "async def f():\n    return 1"), "cell 4: has a 'def'"),
    (set_source(3, "%matplotlib inline"), "cell 4: is not Python"),
    (set_source(3, "x = 1\n" * (MAX_CELL_LINES + 1)), f"has {MAX_CELL_LINES + 1} lines"),
    (set_source(4, "save_numbers({})"), "asserts nothing"),
    (set_source(4, "assert seed == 0"), "does not save through the library"),
    (lambda n: n["cells"].append(make_cell("markdown", "The end.")), "last cell has to be code"),
]


@pytest.mark.parametrize(("damage", "problem"), BREACHES, ids=[text for _, text in BREACHES])
def test_each_breach_is_found(
    tmp_path: Path, damage: Callable[[Cell], object], problem: str
) -> None:
    notebook = make_notebook()
    damage(notebook)
    found = check_notebook(write_stored(tmp_path / "01_bad.ipynb", notebook))
    assert any(problem in sentence for sentence in found), found
    assert all(sentence.startswith("01_bad.ipynb: ") for sentence in found)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda n: n["cells"][3].update(execution_count=3), "cell 4 is stored with an execution"),
        (lambda n: n["cells"][3].update(outputs=[{"output_type": "x"}]), "stored with outputs"),
        (lambda n: n["metadata"]["kernelspec"].update(name="mine"), "the kernel is 'mine'"),
        (lambda n: n["metadata"].update(extra=1), "not in its stored form"),
        (lambda n: n["cells"][3]["metadata"].update(papermill={"t": 1}), "not in its stored form"),
    ],
)
def test_what_running_leaves_behind_is_found_and_stripped(
    tmp_path: Path, damage: Callable[[Cell], object], problem: str
) -> None:
    path = write_stored(tmp_path / "01_ran.ipynb", make_notebook())
    stored = path.read_text()
    notebook = json.loads(stored)
    damage(notebook)
    path.write_text(json.dumps(notebook))
    assert any(problem in sentence for sentence in check_notebook(path))
    assert strip_notebook(path)
    assert path.read_text() == stored
    assert not strip_notebook(path)
    assert check_notebook(path) == []


def test_unreadable_file_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text("{")
    (problem,) = check_notebook(path)
    assert "broken.ipynb: cannot be read as a notebook" in problem


SOURCES = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@given(st.lists(st.tuples(st.sampled_from(["code", "markdown"]), SOURCES), max_size=5))
def test_stored_form_is_a_fixed_point_and_keeps_the_sources(cells: list[tuple[str, str]]) -> None:
    notebook = make_notebook()
    notebook["cells"] = [make_cell(kind, source) for kind, source in cells]
    before = copy.deepcopy(notebook)
    text = compute_stored_text(notebook)
    stored = json.loads(text)
    assert notebook == before
    assert compute_stored_text(stored) == text
    assert ["".join(c["source"]) for c in stored["cells"]] == [s.rstrip() for _, s in cells]


@pytest.mark.skipif(not TRACKED, reason="notebooks/ is empty")
@pytest.mark.parametrize("path", TRACKED, ids=lambda path: path.name)
def test_tracked_notebook_keeps_the_rules(path: Path) -> None:
    assert check_notebook(path) == []


@pytest.mark.parametrize("path", TRACKED, ids=lambda path: path.name)
def test_styled_texts_of_models_are_escaped(path: Path) -> None:
    """A pandas Styler shows markup as it is, unless told; a plain frame escapes it."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    styled = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    styled = [source for source in styled if ".style." in source and '"text"' in source]
    assert all('.style.format(escape="html")' in source for source in styled)
    assert bool(styled) is (path.name == "02_explore_store.ipynb")
