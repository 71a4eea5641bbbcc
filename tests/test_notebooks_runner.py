"""The strict runner, on small notebooks written here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from routerlib import paths
from routerlib.errors import NotebookError
from routerlib.notebook_parameters import (
    check_values,
    compute_kind,
    load_parameters,
    parse_assignments,
    parse_parameters,
)
from routerlib.notebooks import KERNEL_ENVIRONMENT, run_notebook, run_notebooks

PARAMETERS = """\
benchmark = "gsm8k"  # which problems
seed = 1  # of the generator
rate = 0.5  # step size
quick = True  # fewer seeds
routers = ["a", "b"]  # which routers
results_dir = "build"  # where results go"""


def write_notebook(
    path: Path, *code: str, parameters: str | None = PARAMETERS, kernel: str = "python3"
) -> Path:
    """Write a notebook whose cells are the parameters cell and these code cells."""
    sources = ([] if parameters is None else [parameters]) + list(code)
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"c{i}",
            "metadata": {"tags": ["parameters"]} if i == 0 and parameters is not None else {},
            "outputs": [],
            "source": source,
        }
        for i, source in enumerate(sources)
    ]
    metadata = {
        "kernelspec": {"display_name": "x", "language": "python", "name": kernel},
        "language_info": {"name": "python"},
    }
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def read_stream(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "".join(
        "".join(output["text"])
        for cell in cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    )


REPORT = """\
import json, os, sys
report = dict(seed=seed, rate=rate, routers=routers, cwd=os.getcwd(), python=sys.executable)
report |= {name: os.environ.get(name) for name in ("PYTHONHASHSEED", "OMP_NUM_THREADS", "EXTRA")}
print(json.dumps(report))"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run from another folder, and with a misleading kernel installed under the name python3."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/nonexistent/python"], "display_name": "trap", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_runs_with_own_python_root_folder_and_fixed_environment(tmp_path: Path) -> None:
    import sys

    source = write_notebook(tmp_path / "01_report.ipynb", REPORT)
    stored = source.read_text()
    executed = run_notebook(
        Path("01_report.ipynb"),
        Path("out"),
        {"seed": 7, "rate": 2, "routers": ["z"]},
        environment={"EXTRA": "yes"},
        show_progress=False,
    )
    report = json.loads(read_stream(executed))
    assert executed == (tmp_path / "out" / "01_report.ipynb").resolve()
    assert report == {
        "seed": 7,
        "rate": 2.0,
        "routers": ["z"],
        "cwd": str(paths.ROOT),
        "python": sys.executable,
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": KERNEL_ENVIRONMENT["OMP_NUM_THREADS"],
        "EXTRA": "yes",
    }
    assert isinstance(report["rate"], float)
    assert source.read_text() == stored, "the stored notebook was written to"
    html = executed.with_suffix(".html").read_text(encoding="utf-8")
    assert "PYTHONHASHSEED" in html
    assert str(paths.ROOT) in html
    assert not list(executed.parent.glob("*.failed.*"))


@pytest.mark.slow
def test_failing_cell_is_named_and_the_copy_is_kept(tmp_path: Path) -> None:
    source = write_notebook(tmp_path / "02_fail.ipynb", "print('before')", "\n1 / 0  # oh", "x = 1")
    with pytest.raises(NotebookError) as caught:
        run_notebook(source, tmp_path / "out", show_progress=False)
    message = str(caught.value)
    kept = tmp_path / "out" / "02_fail.failed.ipynb"
    assert "02_fail.ipynb failed in cell [3]" in message
    assert "1 / 0  # oh" in message
    assert "ZeroDivisionError: division by zero" in message
    assert str(kept) in message
    assert read_stream(kept) == "before\n"
    assert kept.with_suffix(".html").exists()
    assert not (tmp_path / "out" / "02_fail.ipynb").exists(), "make would take it for done"


@pytest.mark.slow
def test_dead_kernel_is_a_named_error(tmp_path: Path) -> None:
    source = write_notebook(tmp_path / "03_dead.ipynb", "import os\nos._exit(1)")
    with pytest.raises(NotebookError, match=r"03_dead\.ipynb: its kernel died"):
        run_notebook(source, tmp_path / "out", show_progress=False)


def test_unknown_parameter_lists_the_known_ones(tmp_path: Path) -> None:
    source = write_notebook(tmp_path / "n.ipynb")
    with pytest.raises(NotebookError, match=r"unknown parameter 'sead'.*seed \(int\)"):
        run_notebook(source, tmp_path / "out", {"sead": 1})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("benchmark", 1),
        ("seed", "1"),
        ("seed", True),
        ("seed", 1.0),
        ("rate", "0.5"),
        ("rate", True),
        ("quick", 1),
        ("routers", "a"),
        ("routers", [1]),
        ("routers", ("a",)),
        ("benchmark", None),
    ],
)
def test_value_of_another_type_is_an_error(name: str, value: object) -> None:
    declared, _ = parse_parameters(PARAMETERS)
    with pytest.raises(NotebookError, match=f"parameter {name} is "):
        check_values(declared, {name: value}, "n.ipynb")


def test_parameters_are_read_with_kind_and_help() -> None:
    parameters, problems = parse_parameters(PARAMETERS)
    assert not problems
    assert {p.name: p.kind for p in parameters.values()} == {
        "benchmark": "str",
        "seed": "int",
        "rate": "float",
        "quick": "bool",
        "routers": "list[str]",
        "results_dir": "str",
    }
    assert parameters["routers"].value == ["a", "b"]
    assert parameters["seed"].help == "of the generator"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("seed = 1", "has no trailing"),
        ("seed = 1  #", "has no trailing"),
        ("seed = 1 + 1  # derived", "not one literal"),
        ("seed = other  # derived", "not one literal"),
        ("path = f'{1}'  # derived", "not one literal"),
        ("import os  # no", "not one literal"),
        ("a = b = 1  # two", "not one literal"),
        ("a = 1; b = 2  # two", "one line of its own"),
        ("a = [\n'x',\n]  # long", "one line of its own"),
        ("a = None  # absent", "is a NoneType"),
        ("a = {'x': 1}  # map", "is a dict"),
        ("a = [1]  # ints", "is a list"),
        ("a = 1  # x\na = 2  # y", "set twice"),
        ("a = ", "not Python"),
    ],
)
def test_bad_parameter_lines_are_named(line: str, problem: str) -> None:
    _, problems = parse_parameters(line)
    assert problems
    assert all(problem in found for found in problems)


def test_kinds_of_values() -> None:
    assert [compute_kind(v) for v in ("a", 1, 1.0, True, [], ["a"], [1], None, {})] == [
        "str",
        "int",
        "float",
        "bool",
        "list[str]",
        "list[str]",
        None,
        None,
        None,
    ]


def test_command_line_texts_become_typed_values(tmp_path: Path) -> None:
    source = write_notebook(tmp_path / "n.ipynb")
    texts = ["seed=3", "rate=1", "quick=False", "routers=a,c", "benchmark=1=2"]
    assert parse_assignments(source, texts) == {
        "seed": 3,
        "rate": 1.0,
        "quick": False,
        "routers": ["a", "c"],
        "benchmark": "1=2",
    }
    for text, message in [
        ("seed", "not name=value"),
        ("seed=many", "not a int"),
        ("seed=1.5", "give a int"),
        ("sead=1", "unknown parameter"),
    ]:
        with pytest.raises(NotebookError, match=message):
            parse_assignments(source, [text])


def test_notebook_without_one_parameters_cell_is_an_error(tmp_path: Path) -> None:
    source = write_notebook(tmp_path / "n.ipynb", "x = 1", parameters=None)
    with pytest.raises(NotebookError, match="0 cells are tagged"):
        load_parameters(source)
    with pytest.raises(NotebookError, match=r"parameters cell: line 1: x has no trailing"):
        load_parameters(write_notebook(tmp_path / "m.ipynb", parameters="x = 1"))


@pytest.mark.parametrize("content", ["", "[]", '{"nbformat": 3, "cells": []}', '{"nbformat": 4}'])
def test_what_is_no_notebook_is_a_named_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "n.ipynb"
    path.write_text(content)
    with pytest.raises(NotebookError, match=r"n\.ipynb"):
        load_parameters(path)
    with pytest.raises(NotebookError, match=r"absent\.ipynb"):
        load_parameters(tmp_path / "absent.ipynb")


@pytest.mark.slow
def test_chain_gives_each_notebook_what_it_declares(tmp_path: Path) -> None:
    first = write_notebook(tmp_path / "01.ipynb", "print(seed)", parameters="seed = 1  # seed")
    second = write_notebook(tmp_path / "02.ipynb", "print(lens)", parameters="lens = 'a'  # lens")
    with pytest.raises(NotebookError, match=r"unknown parameters \['lenz'\].*\['lens', 'seed'\]"):
        run_notebooks([first, second], tmp_path / "out", {"seed": 2, "lenz": "b"})
    assert not (tmp_path / "out").exists()
    done = run_notebooks(
        [first, second], tmp_path / "out", {"seed": 2, "lens": "b"}, show_progress=False
    )
    assert [read_stream(path) for path in done] == ["2\n", "b\n"]
