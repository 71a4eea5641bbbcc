"""Read tables: check what is on the disk against the manifest, then merge the shards.

Invariant: a table reads the same, row by row, before and after compaction, and in one piece as in
many; readers change nothing on the disk.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from routerlib.errors import ManifestMismatchError, StoreError
from routerlib.records import Problem
from routerlib.store.files import is_shard, list_files, read_parquet
from routerlib.store.manifest import SamplingSetting, find_mismatches, load_manifest
from routerlib.store.ranges import (
    RANGE_KEYS,
    ROWS_PER_RANGE,
    RangedTable,
    count_file_keys,
    make_ranges,
)
from routerlib.store.schema import (
    PRIMARY_KEYS,
    Row,
    check_table_name,
    get_features,
    make_schema,
)

JOURNAL_NAME = "compaction.json"

_ORDER = {
    "problems": ("id",),
    "problem_texts": ("problem_id",),
    "models": ("id",),
    "prompt_scores": ("problem_id", "model_id"),
    "runs": ("started_at", "id"),
    "states": ("problem_id", "depth", "id"),
    "steps": (
        "problem_id",
        "depth",
        "state_id",
        "model_id",
        "kind",
        "sample_index",
        "id",
        "attempt",
    ),
    "choices": ("step_id", "behaviour"),
    "judgements": ("step_id", "judge_model_id", "question"),
}


SETTING_COLUMNS = ["prompt_version", "kind", "temperature", "max_tokens"]


def check_store(root: Path, names: Sequence[str], *, contents: bool = True) -> None:
    """Raise unless ``root`` holds a store whose files of these tables are those of its manifest,
    by name, size and SHA-256, or without ``contents`` by name and size.

    Raises StoreError (no folder, unfinished compaction), SchemaVersionError,
    ManifestMismatchError.
    """
    if not root.is_dir():
        raise StoreError(
            f"there is no store at {root}: record one with `routerlib collect`, or name its folder"
        )
    if (root / JOURNAL_NAME).exists():
        raise StoreError(
            f"{root} is in the middle of a compaction: when none is running, "
            "`routerlib compact` finishes it"
        )
    manifest = load_manifest(root)
    mismatches = [
        line for name in names for line in find_mismatches(root, name, manifest, contents=contents)
    ]
    if mismatches:
        more = f" (and {len(mismatches) - 1} more; `routerlib verify` lists them)"
        raise ManifestMismatchError(mismatches[0] + (more if len(mismatches) > 1 else ""))


def load_table(
    root: Path,
    name: str,
    *,
    columns: Sequence[str] | None = None,
    where: Any = None,
) -> pa.Table:
    """Return a table of the store, its rows ordered by problem, then depth, then key.

    ``columns`` names those wanted, all by default; ``where`` is a pyarrow expression on any
    column, such as ``pc.field("kind") == "tail"``. A table without rows has its schema.

    Raises StoreError (unknown table or column, no store, conflicting rows), SchemaVersionError,
    CorruptFileError, ManifestMismatchError.
    """
    check_table_name(name)
    check_store(root, [name])
    paths = list_files(root, name)
    if where is None and _can_skip_columns(name, columns, paths):
        return read_files(paths, name, columns)
    table = read_table(root, name)
    if where is not None:
        table = table.filter(where)
    if columns is None:
        return table
    unknown = [column for column in columns if column not in table.column_names]
    if unknown:
        raise StoreError(
            f"table {name} has no column {unknown[0]!r}: it has {', '.join(table.column_names)}"
        )
    return table.select(list(columns))


def load_problem_texts(root: Path, benchmark: str, split: str) -> list[Problem]:
    """Return the problems of one split whose texts are stored, those that were generated, in the
    order of their numbers, which is that of generation. Errors as ``load_table``."""
    wanted = (pc.field("benchmark") == benchmark) & (pc.field("split") == split)
    columns = ["id", "benchmark", "split", "subject", "level"]
    rows = load_table(root, "problems", columns=columns, where=wanted).to_pylist()
    texts = {row.pop("problem_id"): row for row in load_table(root, "problem_texts").to_pylist()}
    problems = [Problem(**row, **texts[row["id"]]) for row in rows if row["id"] in texts]
    return sorted(problems, key=lambda problem: _split_numbers(problem.id))


def _split_numbers(text: str) -> list[str | int]:
    """Words and whole numbers in turn, so that "x/9" comes before "x/10"."""
    parts = re.split(r"(\d+)", text)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _can_skip_columns(name: str, columns: Sequence[str] | None, paths: Sequence[Path]) -> bool:
    """Whether the files are merged already and their columns are known without opening them."""
    return (
        columns is not None
        and not any(is_shard(path) for path in paths)
        and set(columns) <= set(make_schema(name).names)
    )


def read_table(root: Path, name: str) -> pa.Table:
    """Return a table as the files on the disk give it, merged, whatever the manifest says."""
    paths = list_files(root, name)
    table = read_files(paths, name)
    if not any(is_shard(path) for path in paths):
        return table
    if name != "steps":
        return merge_rows(name, table)
    depths = read_files(list_files(root, "states"), "states", ["id", "depth"])
    return merge_rows(name, table, depths)


def iterate_table(root: Path, name: str) -> Iterator[pa.Table]:
    """Yield the rows of ``read_table``, some at a time, in its order.

    Of the tables of ``RANGE_KEYS`` it holds the rows of some problems or steps at a time; those of
    shards wait in a folder for temporary files. Errors as ``read_table``, and StoreError when that
    is full. It does not find rows of several problems that have one key.
    """
    paths = list_files(root, name)
    if name not in RANGE_KEYS:
        yield read_table(root, name)
    elif not any(is_shard(path) for path in paths):
        yield from (read_parquet(path, name) for path in paths)
    else:
        with tempfile.TemporaryDirectory(prefix="routerlib-") as folder:
            yield from _merge_ranges(root, name, Path(folder))


def _merge_ranges(root: Path, name: str, folder: Path) -> Iterator[pa.Table]:
    paths, key = list_files(root, name), RANGE_KEYS[name]
    ranges = make_ranges(count_file_keys(name, key, paths), ROWS_PER_RANGE)
    rows = RangedTable(name, paths, key, ranges, folder)
    if name != "steps":
        yield from (merge_rows(name, rows.read(number)) for number in range(len(ranges)))
        return
    states = RangedTable("states", list_files(root, "states"), key, ranges, folder)
    for number in range(len(ranges)):
        yield merge_rows(name, rows.read(number), states.read(number, ["id", "depth"]))


def read_files(paths: Sequence[Path], name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of some files of one table, one after the other, nothing merged. Errors as
    ``read_parquet``."""
    tables = [read_parquet(path, name, columns) for path in paths]
    features = {feature for table in tables for feature in get_features(table.column_names)}
    schema = make_schema(name, features)
    if columns is not None:
        schema = pa.schema([schema.field(c) for c in columns], metadata=schema.metadata)
    if not tables:
        return schema.empty_table()
    if name == "problems" and columns is None:
        return pa.concat_tables(tables, promote_options="default").select(schema.names).cast(schema)
    return pa.concat_tables(tables)


def list_settings(paths: Iterable[Path]) -> set[SamplingSetting]:
    """Return the sampling settings of the steps in some files. Errors as ``read_parquet``."""
    settings: set[SamplingSetting] = set()
    for path in paths:
        table = read_parquet(path, "steps", SETTING_COLUMNS)
        for row in table.group_by(SETTING_COLUMNS).aggregate([]).to_pylist():
            settings.add(tuple(row[column] for column in SETTING_COLUMNS))
    return settings


def merge_rows(name: str, table: pa.Table, depths: pa.Table | None = None) -> pa.Table:
    """Return the rows of a table with one row per primary key, in the store's order.

    Of rows with one key: equal ones are one; of a run's the latest counts; a successful step wins
    over a failed one; a state keeps its smallest depth. Raises StoreError for any other conflict,
    and when a step succeeded twice. ``depths`` (id, depth of states) is needed for steps.
    """
    table = table.take(pa.array(_choose_rows(name, table), pa.int64()))
    if name == "steps":
        _check_successes(table)
        assert depths is not None
        depths = depths.group_by("id").aggregate([("depth", "min")]).rename_columns(["id", "depth"])
        position = pc.index_in(table["state_id"], value_set=depths["id"].combine_chunks())
        ordered = table.append_column("depth", depths["depth"].take(position))
        return _sort(name, ordered).drop_columns(["depth"])
    return _sort(name, table)


def _sort(name: str, table: pa.Table) -> pa.Table:
    keys = [(column, "ascending") for column in _ORDER[name]]
    return table.take(pc.sort_indices(table, sort_keys=keys))


def _choose_rows(name: str, table: pa.Table) -> list[int]:
    """The index of the row that counts, for every key."""
    chosen: dict[tuple[Any, ...], int] = {}
    keys = zip(*(table[column].to_pylist() for column in PRIMARY_KEYS[name]), strict=True)
    for index, key in enumerate(keys):
        if key not in chosen:
            chosen[key] = index
            continue
        first, second = (table.slice(i, 1).to_pylist()[0] for i in (chosen[key], index))
        if _is_superseded(name, first, second):
            chosen[key] = index
    return list(chosen.values())


def _is_superseded(name: str, first: Row, second: Row) -> bool:
    """Whether ``second`` counts instead of ``first``, which has the same key."""
    if first == second:
        return False
    if name == "runs":
        return (second["ended_at"] or "") >= (first["ended_at"] or "")
    if name == "steps" and (first["error"] is None) != (second["error"] is None):
        return first["error"] is not None
    if name == "states" and first | {"depth": 0} == second | {"depth": 0}:
        return bool(second["depth"] < first["depth"])
    key = ", ".join(str(first[column]) for column in PRIMARY_KEYS[name])
    different = ", ".join(column for column in first if first[column] != second[column])
    raise StoreError(
        f"two rows of {name} have the key {key} and differ in {different}: "
        "delete the shard whose row is wrong"
    )


def _check_successes(steps: pa.Table) -> None:
    ids = steps.filter(pc.is_null(steps["error"]))["id"]
    if len(ids) != pc.count_distinct(ids).as_py():
        counts = ids.value_counts()
        twice = next(entry["values"] for entry in counts.to_pylist() if entry["counts"] > 1)
        raise StoreError(
            f"step {twice} succeeded more than once: delete the shard whose row is not wanted"
        )
