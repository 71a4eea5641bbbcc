"""A table read range by range is the table; what was true of all rows at once stays true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import add_records, make_problems, make_tiny_records, write_tiny_store

from routerlib.errors import StoreError
from routerlib.records import Choice, Judgement, State, Step
from routerlib.store import TraceWriter, compact, compaction, contents, ranges, reading, verify
from routerlib.store.files import KeyRange, list_files, make_shard_name, write_parquet
from routerlib.store.ranges import RangedTable, count_file_keys, find_shared_keys, make_ranges
from routerlib.store.reading import read_table
from routerlib.store.schema import Record, make_row, make_table

STEPS = [record for record in make_tiny_records() if isinstance(record, Step)]
STATES = [record for record in make_tiny_records() if isinstance(record, State)]
IDS = [problem.id for problem in make_problems()]


@pytest.fixture(params=[1, 3, 1000])
def few_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Ranges of so many rows, wherever the store uses some."""
    monkeypatch.setattr(reading, "ROWS_PER_RANGE", request.param)
    monkeypatch.setattr(ranges, "ROWS_PER_RANGE", request.param)
    monkeypatch.setattr(ranges, "_IDS_PER_RANGE", request.param)
    monkeypatch.setattr(contents, "_ROWS_PER_RANGE", request.param)
    return int(request.param)


def write_shards(root: Path) -> Path:
    with TraceWriter(root, flush_rows=4) as writer:
        add_records(writer, make_tiny_records())
        for step in STEPS[::2]:
            writer.add_choice(Choice(step.id, "random", 0.5))
            writer.add_judgement(Judgement(step.id, step.model_id, "useful", 0.5, 1, 0, 1))
    return root


def add_shard(root: Path, name: str, *records: Record) -> None:
    rows = [make_row(record) for record in records]
    write_parquet(root / name / make_shard_name(), make_table(name, rows))


def read_bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob("*/*.parquet")}


@pytest.mark.parametrize(
    ("most", "starts"), [(1, ["", "b", "d"]), (4, ["", "d"]), (5, ["", "d"]), (9, [""])]
)
def test_ranges_cover_all_keys(most: int, starts: list[str]) -> None:
    found = make_ranges({"d": 5, "a": 2, "b": 2}, most)
    assert [keys.first for keys in found] == starts
    assert [keys.end for keys in found] == [*starts[1:], None]
    assert make_ranges({}, most) == [KeyRange("", None)]


def test_every_row_is_in_one_range(tmp_path: Path, few_rows: int) -> None:
    store = write_shards(tmp_path / "store")
    add_shard(store, "steps", STEPS[0])
    whole = write_tiny_store(tmp_path / "whole")
    for root, count in ((store, len(STEPS) + 1), (whole, len(STEPS))):
        paths = list_files(root, "steps")
        found = make_ranges(count_file_keys("steps", "problem_id", paths), few_rows)
        table = RangedTable("steps", paths, "problem_id", found, tmp_path)
        parts = [table.read(number, ["problem_id", "id"]) for number in range(len(found))]
        assert sum(part.num_rows for part in parts) == count
        problems = [set(part["problem_id"].to_pylist()) for part in parts]
        assert sum(map(len, problems)) == len(IDS)
        for path in tmp_path.glob("*.arrows"):
            path.unlink()


def test_compaction_range_by_range_gives_the_same_bytes(
    tmp_path: Path, few_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_shards(tmp_path / "store")
    add_shard(store, "steps", *STEPS[:7])
    add_shard(store, "states", *(replace(state, depth=state.depth + 3) for state in STATES))
    expected = {name: read_table(store, name) for name in ("states", "steps", "choices")}
    compact(store)
    for name, table in expected.items():
        assert read_table(store, name).equals(table)
    assert verify(store) == []
    assert {path.parent.name for path in store.glob("*/*")} >= {"judgements", "choices"}
    once = read_bytes(store)
    compact(store)
    assert read_bytes(store) == once
    monkeypatch.setattr(compaction, "MAX_ROWS_PER_FILE", few_rows)
    compact(store)
    assert read_table(store, "steps").equals(expected["steps"])
    assert verify(store) == []


def test_a_key_in_two_problems(tmp_path: Path, few_rows: int) -> None:
    """Each range by itself looks sound but for the id."""
    store = write_shards(tmp_path)
    other = next(state for state in STATES if state.problem_id == IDS[1])
    add_shard(store, "states", replace(other, problem_id=IDS[0]))
    line = f"states {other.id}: 2 rows have this key"
    assert any(found.startswith(line) for found in verify(store))
    assert list(find_shared_keys("states", list_files(store, "states"))) == [(other.id, 2)]
    with pytest.raises(StoreError, match=f"key {other.id} and differ in problem_id"):
        compact(store)


def test_remarks_of_missing_steps(tmp_path: Path, few_rows: int) -> None:
    store = write_shards(tmp_path)
    add_shard(store, "choices", Choice("0000", "random", 0.5), Choice("zzzz", "random", 0.5))
    add_shard(store, "judgements", Judgement("f", STEPS[0].model_id, "useful", 2.0, 1, 0, 1))
    compact(store)
    lines = verify(store)
    assert len(lines) == 4
    assert sum("which has no successful row" in line for line in lines) == 3
    assert sum("score 2.0" in line for line in lines) == 1
