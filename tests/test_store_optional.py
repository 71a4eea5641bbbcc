"""A column that came later: files without it are read as if it were there, and none is written
for nothing."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny import add_records, make_tiny_records, write_tiny_store

from routerlib.records import Step
from routerlib.store import (
    TraceIndex,
    TraceWriter,
    build_database,
    compact,
    load_table,
    query,
    verify,
)
from routerlib.store.files import list_files
from routerlib.store.reading import iterate_table
from routerlib.store.schema import Record, make_record

SUM = "SELECT count(*) AS steps, sum(reasoning_tokens) AS thought FROM steps"


def think(records: list[Record], tokens: int = 1) -> list[Record]:
    """The records as if every step had been thought about."""
    return [replace(r, reasoning_tokens=tokens) if isinstance(r, Step) else r for r in records]


def write_two_shards(root: Path) -> Path:
    """A store whose first problem was recorded before the column, the others with it."""
    records = make_tiny_records()
    first = [r for r in records if getattr(r, "problem_id", "tiny/test/0") == "tiny/test/0"]
    later = [r for r in records if r not in first]
    for part in (first, think(later)):
        with TraceWriter(root) as writer:
            add_records(writer, part)
    return root


def list_columns(root: Path) -> list[bool]:
    """Whether each file of the steps has the column."""
    return ["reasoning_tokens" in pq.read_schema(p).names for p in list_files(root, "steps")]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write_two_shards(tmp_path / "mixed")


def test_nothing_is_written_where_no_model_tells(tiny_store: Path) -> None:
    assert list_columns(tiny_store) == [False]
    steps = load_table(tiny_store, "steps")
    assert steps["reasoning_tokens"].null_count == steps.num_rows == 20
    assert query(tiny_store, SUM).isna()["thought"].tolist() == [True]
    columns = ["id", "reasoning_tokens"]
    assert load_table(tiny_store, "steps", columns=columns)["reasoning_tokens"].null_count == 20


def test_files_with_and_without_it_are_one_table(mixed: Path) -> None:
    assert list_columns(mixed) == [False, True]
    found = load_table(mixed, "steps", columns=["problem_id", "reasoning_tokens"]).to_pylist()
    assert len(found) == 20
    for row in found:
        thought = None if row["problem_id"] == "tiny/test/0" else 1
        assert row["reasoning_tokens"] == thought
    assert query(mixed, SUM).values.tolist() == [[20, 14]]
    assert sum(table.num_rows for table in iterate_table(mixed, "steps")) == 20
    assert verify(mixed) == []
    assert TraceIndex(mixed).summarise_tokens() is not None


def test_files_with_one_of_two_such_columns_each_are_one_table(tmp_path: Path) -> None:
    records = make_tiny_records()
    first = [r for r in records if getattr(r, "problem_id", "tiny/test/0") == "tiny/test/0"]
    later = [r for r in records if r not in first]
    lost = [replace(r, doubtful_tries=2) if isinstance(r, Step) else r for r in first]
    for part in (lost, think(later)):
        with TraceWriter(tmp_path) as writer:
            add_records(writer, part)
    wanted = {(None, 2): 6, (1, None): 14}
    for columns in (None, ["doubtful_tries", "reasoning_tokens"]):
        rows = load_table(tmp_path, "steps", columns=columns).to_pylist()
        assert Counter((r["reasoning_tokens"], r["doubtful_tries"]) for r in rows) == wanted
    sums = "SELECT sum(reasoning_tokens), sum(doubtful_tries) FROM steps"
    assert query(tmp_path, sums).values.tolist() == [[14, 12]]
    compact(tmp_path)
    assert len(list_files(tmp_path, "steps")) == 1
    assert query(tmp_path, sums).values.tolist() == [[14, 12]]
    assert verify(tmp_path) == []


def test_compaction_keeps_what_is_known(mixed: Path) -> None:
    before = load_table(mixed, "steps").to_pylist()
    compact(mixed)
    assert list_columns(mixed) == [True]
    assert load_table(mixed, "steps").to_pylist() == before
    assert {make_record("steps", row).reasoning_tokens for row in before} == {None, 1}
    assert query(mixed, SUM).values.tolist() == [[20, 14]]
    assert verify(mixed) == []


def test_files_from_before_the_column_are_what_would_be_written_today(tmp_path: Path) -> None:
    root = write_tiny_store(tmp_path / "store")
    path = root / "steps" / "steps-000.parquet"
    before = path.read_bytes()
    compact(root)
    assert path.read_bytes() == before


def test_a_journal_of_rows_with_thought_is_recovered(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "store", flush_rows=10**6) as writer:
        add_records(writer, think(make_tiny_records(), 2))
        shutil.copytree(tmp_path / "store", tmp_path / "killed")  # before any flush
    with TraceWriter(tmp_path / "killed"):
        pass
    assert query(tmp_path / "killed", SUM).values.tolist() == [[20, 40]]


def test_a_database_that_was_built_before_the_column_still_answers(tmp_path: Path) -> None:
    import duckdb

    root = tmp_path / "store"
    records = make_tiny_records()
    with TraceWriter(root) as writer:
        add_records(writer, records)
    path = build_database(root)
    other = make_tiny_records("train")
    with TraceWriter(root) as writer:
        add_records(writer, think([r for r in other if r not in records]))
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM steps").fetchall() == [(40,)]
    with duckdb.connect(str(build_database(root)), read_only=True) as connection:
        assert connection.execute(SUM).fetchall() == [(40, 20)]


@pytest.mark.parametrize("thought", [-1, 10**6])
def test_thought_that_cannot_be_is_found(tmp_path: Path, thought: int) -> None:
    with TraceWriter(tmp_path) as writer:
        add_records(writer, think(make_tiny_records(), thought))
    lines = [line for line in verify(tmp_path) if f"has {thought} reasoning of" in line]
    assert len(lines) == 20
