"""The parameters that a notebook declares: one literal per line in the cell tagged ``parameters``.

Invariants: papermill injects values *after* that cell, so nothing in it may be derived; a value
keeps the type of its default; what is unknown or of another type is an error, never a warning.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routerlib.errors import NotebookError

PARAMETERS_TAG = "parameters"
ALLOWED_KINDS = ("str", "int", "float", "bool", "list[str]")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line of the cell tagged ``parameters``: ``name = value  # help``."""

    name: str
    value: object
    kind: str
    help: str


def load_parameters(path: Path) -> dict[str, Parameter]:
    """Read the declared parameters of a notebook, in order.

    Raises ``NotebookError`` when the file cannot be read, when not exactly one cell is tagged
    ``parameters``, or when a line of it is not ``name = literal  # help``.
    """
    cells = [
        cell
        for cell in load_cells(path)
        if PARAMETERS_TAG in cell.get("metadata", {}).get("tags", [])
    ]
    if len(cells) != 1:
        raise NotebookError(
            f"{path.name}: {len(cells)} cells are tagged {PARAMETERS_TAG!r}; tag exactly one"
        )
    parameters, problems = parse_parameters(str(cells[0]["source"]))
    if problems:
        raise NotebookError(f"{path.name}: parameters cell: " + "; ".join(problems))
    return parameters


def load_cells(path: Path) -> list[dict[str, Any]]:
    """Read a notebook's cells, each with its ``source`` as one text.

    Raises ``NotebookError`` when the file is missing or is no notebook of format 4.
    """
    notebook = load_notebook(path)
    return [{**cell, "source": "".join(cell["source"])} for cell in notebook["cells"]]


def load_notebook(path: Path) -> dict[str, Any]:
    """Read a notebook as it is stored; ``NotebookError`` when it is none of format 4."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotebookError(f"{path}: cannot be read as a notebook: {error}") from error
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or "cells" not in notebook:
        raise NotebookError(f"{path}: is no notebook of format 4; save it anew in JupyterLab")
    return notebook


def parse_parameters(source: str) -> tuple[dict[str, Parameter], list[str]]:
    """Parse a parameters cell: the parameters, and what is wrong with the other lines.

    >>> parameters, problems = parse_parameters("seed = 1  # of the generator")
    >>> parameters["seed"].kind, problems
    ('int', [])
    """
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        return {}, [f"line {error.lineno} is not Python: {error.msg}"]
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = [statement.lineno for statement in body]
    parameters: dict[str, Parameter] = {}
    problems: list[str] = []
    for statement in body:
        where = f"line {statement.lineno}"
        name, value = _read_assignment(statement)
        if name is None:
            problems.append(f"{where} is not one literal: write name = literal  # help")
        elif lines.count(statement.lineno) > 1 or statement.end_lineno != statement.lineno:
            problems.append(f"{where}: {name} does not stand on one line of its own")
        elif name in parameters:
            problems.append(f"{where}: {name} is set twice")
        elif (kind := compute_kind(value)) is None:
            problems.append(
                f"{where}: {name} is a {type(value).__name__}; allowed are "
                + ", ".join(ALLOWED_KINDS)
            )
        elif not comments.get(statement.lineno):
            problems.append(f"{where}: {name} has no trailing '# help'")
        else:
            parameters[name] = Parameter(name, value, kind, comments[statement.lineno])
    return parameters, problems


def compute_kind(value: object) -> str | None:
    """Return which of the allowed parameter types a value has, or None."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, list):
        return "list[str]" if all(isinstance(item, str) for item in value) else None
    return {str: "str", int: "int", float: "float"}.get(type(value))


def check_values(
    declared: Mapping[str, Parameter], values: Mapping[str, object], where: str
) -> dict[str, object]:
    """Return the values as their parameters' types, or raise ``NotebookError``.

    An int is taken for a float, and nothing else is converted.
    """
    checked: dict[str, object] = {}
    for name, value in values.items():
        if name not in declared:
            known = ", ".join(f"{p.name} ({p.kind})" for p in declared.values()) or "none"
            raise NotebookError(f"{where}: unknown parameter {name!r}; known: {known}")
        wanted, kind = declared[name].kind, compute_kind(value)
        if wanted == "float" and isinstance(value, int) and kind == "int":
            checked[name] = float(value)
        elif kind == wanted:
            checked[name] = value
        else:
            raise NotebookError(
                f"{where}: parameter {name} is {value!r} ({type(value).__name__}); give a {wanted}"
            )
    return checked


def parse_assignments(path: Path, assignments: Sequence[str]) -> dict[str, object]:
    """Turn ``name=value`` texts of a command line into values for ``run_notebook``.

    A ``str`` parameter takes the text as it is, a ``list[str]`` is split at commas, others are
    Python literals. Raises ``NotebookError`` for an unknown name or an unreadable value.
    """
    declared = load_parameters(path)
    values: dict[str, object] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise NotebookError(f"{assignment!r} is not name=value")
        kind = declared[name].kind if name in declared else "str"
        if kind == "str":
            values[name] = text
        elif kind == "list[str]":
            values[name] = [item for item in text.split(",") if item]
        else:
            try:
                values[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError) as error:
                raise NotebookError(f"{path.name}: {name}={text!r} is not a {kind}") from error
    return check_values(declared, values, path.name)


def _read_assignment(statement: ast.stmt) -> tuple[str | None, object]:
    """Return the name and value of ``name = literal``, or (None, None) for anything else."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None, None
    target = statement.targets[0]
    try:
        value = ast.literal_eval(statement.value)
    except (ValueError, TypeError):
        return None, None
    return (target.id, value) if isinstance(target, ast.Name) else (None, None)
