"""Find what is wrong with the rows of a store's files, some problems or steps at a time.

Invariant: the lines are those that ``find_row_problems`` has for all rows at once, each once; the
ranges that are read change only their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from routerlib.errors import StoreError
from routerlib.store.files import KeyRange, iterate_batches, iterate_tables
from routerlib.store.links import describe_duplicate, find_row_problems
from routerlib.store.ranges import (
    RangedTable,
    count_keys,
    find_shared_keys,
    iterate_ids,
    make_id_ranges,
    make_ranges,
)
from routerlib.store.reading import read_files
from routerlib.store.schema import TABLES, Row, make_schema

Paths = Mapping[str, Sequence[Path]]

_ROWS_PER_RANGE = 16_384  # as Python objects, some kilobytes each
_PROBLEM_KEYS = {
    "problems": "id",
    "problem_texts": "problem_id",
    "prompt_scores": "problem_id",
    "states": "problem_id",
    "steps": "problem_id",
}
_STEP_KEYS = {"steps": "id", "choices": "step_id", "judgements": "step_id"}
_WHOLE = ("models", "runs")
# Columns that no check of rows needs: they are read, to find damage, and not kept.
_UNCHECKED = {"token_logprobs", "latency_s", "finish_reason", "ended_by", "request_id"} | {
    "requested_model",
    "returned_model",
}


def find_content_problems(paths: Paths, folder: Path) -> list[str]:
    """Return a line for each problem of the rows in some files (table -> files). ``folder`` takes
    what is put aside meanwhile."""
    lines: dict[str, None] = {}  # a set in the order of finding
    counts: Counter[str] = Counter()
    unreadable: set[str] = set()
    for name in paths:
        for path in paths[name]:
            try:
                counts.update(_count_problems(name, path))
            except StoreError as error:
                lines[str(error)] = None
                unreadable.add(name)
    readable = {name: paths[name] for name in TABLES if name not in unreadable}
    for found in (
        _check_problems(readable, unreadable, make_ranges(counts, _ROWS_PER_RANGE), folder),
        _check_keys(readable),
        _check_remarks(readable),
    ):
        try:
            lines.update(dict.fromkeys(found))
        except StoreError as error:  # as when a compaction took a file away
            lines[str(error)] = None
    return list(lines)


def _count_problems(name: str, path: Path) -> Counter[str]:
    """The rows of each problem; every byte of the file is read and checked."""
    key = _PROBLEM_KEYS.get(name)
    if key is not None:
        return count_keys(name, key, iterate_batches(path, name))
    for _ in iterate_batches(path, name):
        pass
    return Counter()


def _check_problems(
    paths: Paths, unreadable: Set[str], ranges: Sequence[KeyRange], folder: Path
) -> Iterator[str]:
    """What is wrong with problems, their states and steps, and what is said of a problem."""
    small: dict[str, pa.Table] = {}
    large: dict[str, RangedTable] = {}
    for name, key in _PROBLEM_KEYS.items():
        if name in paths and name in ("states", "steps"):
            large[name] = RangedTable(name, paths[name], key, ranges, folder)
        elif name in paths:
            small[name] = read_files(paths[name], name, _get_checked(name))
    whole: dict[str, list[Row] | None] = {
        name: read_files(paths[name], name).to_pylist() for name in _WHOLE if name in paths
    }
    whole |= dict.fromkeys(unreadable)
    for number, keys in enumerate(ranges):
        rows = dict(whole)
        for name, table in large.items():
            rows[name] = table.read(number, _get_checked(name)).to_pylist()
        foreign = _read_foreign_states(rows, paths)
        rows["states"] = None if "states" in unreadable else [*(rows["states"] or ()), *foreign]
        others = pa.array({row["problem_id"] for row in foreign}, pa.string())
        for name, table in small.items():
            column = table[_PROBLEM_KEYS[name]]
            wanted = keys.find_in(column)
            if name == "problems":
                wanted = pc.or_(wanted, pc.is_in(column, others))
            rows[name] = table.filter(wanted).to_pylist()
        yield from find_row_problems({name: rows[name] for name in TABLES if name in rows})


def _read_foreign_states(rows: Mapping[str, Sequence[Row] | None], paths: Paths) -> list[Row]:
    """The states outside the range that its steps point at: a sound store has none."""
    steps, states = rows.get("steps"), rows.get("states")
    if not steps or states is None:
        return []
    pointed = {step[column] for step in steps for column in ("state_id", "next_state_id")}
    missing = pointed - {state["id"] for state in states} - {None}
    if not missing:
        return []
    return [
        row
        for path in paths["states"]
        for table in iterate_tables(path, "states", None, "id", missing)
        for row in table.to_pylist()
    ]


def _check_keys(paths: Paths) -> Iterator[str]:
    """Keys of states and steps that rows of several problems have."""
    for name in ("states", "steps"):
        if name in paths:
            for key, count in find_shared_keys(name, paths[name]):
                yield describe_duplicate(name, key, count)


def _check_remarks(paths: Paths) -> Iterator[str]:
    """What is wrong with what is said of steps."""
    if not (paths.get("choices") or paths.get("judgements")):
        return
    keys = {name: key for name, key in _STEP_KEYS.items() if name in paths}
    models = read_files(paths["models"], "models").to_pylist() if "models" in paths else None
    ranges = make_id_ranges(paths, keys)
    columns = {name: _get_checked(name) for name in keys} | {"steps": ["id", "error"]}
    tables = {
        name: iterate_ids(name, paths[name], columns[name], key, ranges)
        for name, key in keys.items()
    }
    for _ in ranges:
        read = {name: next(found) for name, found in tables.items()}
        successes: Set[str] | None = None
        if "steps" in read:
            steps = read.pop("steps")
            succeeded = steps.filter(pc.is_null(steps["error"]))
            successes = set(succeeded["id"].to_pylist())
        rows: dict[str, Sequence[Row] | None] = {n: t.to_pylist() for n, t in read.items()}
        if models is not None:
            rows["models"] = models
        yield from find_row_problems(rows, successes)


def _get_checked(name: str) -> list[str]:
    return [column for column in make_schema(name).names if column not in _UNCHECKED]
