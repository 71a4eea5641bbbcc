"""The rules of a stored notebook, and the form in which it is stored.

Invariants: the stored form is a function of the cells' kinds, sources and tags alone, so storing
twice changes nothing and two people's Jupyter settings make no difference; a check reads one file
and returns what is wrong with it, one sentence each, and never changes it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from routerlib.errors import NotebookError
from routerlib.notebook_parameters import (
    PARAMETERS_TAG,
    load_cells,
    load_notebook,
    parse_parameters,
)

MAX_CELL_LINES = 18
FIRST_CELL_WORDS = ("?", "inputs", "outputs", "run time")
STORED_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FORBIDDEN = {
    ast.FunctionDef: "def",
    ast.AsyncFunctionDef: "def",
    ast.ClassDef: "class",
    ast.Try: "try",
    ast.TryStar: "try",
}


def check_notebook(path: Path) -> list[str]:
    """Return every breach of the rules in a notebook, each naming file and cell; [] if none.

    A cell's number counts all cells from 1.
    """
    try:
        notebook, cells = load_notebook(path), load_cells(path)
    except NotebookError as error:
        return [str(error)]
    problems = [*_check_storage(notebook, cells), *_check_order(cells)]
    for number, cell in enumerate(cells, start=1):
        if cell["cell_type"] == "code":
            problems += [f"cell {number}: {problem}" for problem in _check_code(cell)]
    if not problems and path.read_text(encoding="utf-8") != compute_stored_text(notebook):
        problems.append("not in its stored form: run `routerlib notebooks strip`")
    return [f"{path.name}: {problem}" for problem in problems]


def strip_notebook(path: Path) -> bool:
    """Rewrite a notebook in its stored form and return whether that changed the file.

    Drops outputs, counts and all metadata but tags; sets the kernel; numbers the cells.
    """
    text = compute_stored_text(load_notebook(path))
    if path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


def compute_stored_text(notebook: dict[str, Any]) -> str:
    """Return the file content of a notebook without outputs, as JSON with sorted keys."""
    cells = []
    for number, cell in enumerate(notebook["cells"], start=1):
        tags = sorted(cell.get("metadata", {}).get("tags", []))
        stored = {
            "cell_type": cell["cell_type"],
            "id": f"cell-{number:02d}",
            "metadata": {"tags": tags} if tags else {},
            "source": "".join(cell["source"]).rstrip().splitlines(keepends=True),
        }
        if cell["cell_type"] == "code":
            stored |= {"execution_count": None, "outputs": []}
        cells.append(stored)
    stored_notebook = {
        "cells": cells,
        "metadata": STORED_METADATA,
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(stored_notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _check_storage(notebook: dict[str, Any], cells: list[dict[str, Any]]) -> Iterator[str]:
    kernel = notebook.get("metadata", {}).get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"the kernel is {kernel!r}; it has to be 'python3'"
    for number, cell in enumerate(cells, start=1):
        if cell.get("outputs"):
            yield f"cell {number} is stored with outputs"
        if cell.get("execution_count") is not None:
            yield f"cell {number} is stored with an execution count"


def _check_order(cells: list[dict[str, Any]]) -> Iterator[str]:
    """Question, imports, parameters, ..., saving and asserting."""
    if not cells or cells[0]["cell_type"] != "markdown":
        yield "cell 1 has to be text: the question, inputs, outputs and run time"
    else:
        text = cells[0]["source"].lower()
        for word in FIRST_CELL_WORDS:
            if word not in text:
                yield f"cell 1 does not say {word!r} (question, inputs, outputs, run time)"
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    tagged = [i for i, cell in enumerate(code) if PARAMETERS_TAG in _get_tags(cell)]
    if len(tagged) != 1:
        yield f"{len(tagged)} code cells are tagged {PARAMETERS_TAG!r}; tag exactly one"
    elif not all(_is_imports(cell["source"]) for cell in code[: tagged[0]]):
        yield "something other than imports stands before the parameters"
    if not cells or cells[-1]["cell_type"] != "code":
        yield "the last cell has to be code that saves and asserts"
        return
    last = _parse(cells[-1]["source"])
    if last is None:
        return
    if not any(isinstance(node, ast.Assert) for node in ast.walk(last)):
        yield "the last cell asserts nothing that a reader cares about"
    if not any(_get_called_name(node).startswith("save_") for node in ast.walk(last)):
        yield "the last cell does not save through the library (save_...)"


def _check_code(cell: dict[str, Any]) -> Iterator[str]:
    source = cell["source"]
    tree = _parse(source)
    if tree is None:
        yield "is not Python (no magics, no shell commands)"
        return
    if PARAMETERS_TAG in _get_tags(cell):
        yield from parse_parameters(source)[1]
        return
    for word in sorted({FORBIDDEN[type(n)] for n in ast.walk(tree) if type(n) in FORBIDDEN}):
        yield f"has a {word!r}; logic belongs in routerlib"
    lines = sum(1 for line in source.splitlines() if line.strip())
    if lines > MAX_CELL_LINES:
        yield f"has {lines} lines; split it, or move logic to routerlib (at most {MAX_CELL_LINES})"


def _parse(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except SyntaxError:
        return None


def _is_imports(source: str) -> bool:
    tree = _parse(source)
    return tree is not None and all(
        isinstance(statement, ast.Import | ast.ImportFrom) for statement in tree.body
    )


def _get_tags(cell: dict[str, Any]) -> list[str]:
    return list(cell.get("metadata", {}).get("tags", []))


def _get_called_name(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    called = node.func
    if isinstance(called, ast.Name):
        return called.id
    return called.attr if isinstance(called, ast.Attribute) else ""
