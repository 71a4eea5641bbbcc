"""The index knows of the problems it opened what the whole store says of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny import SMALL, add_records, make_problems, make_state, make_step, make_tiny_records

from routerlib.errors import StoreError
from routerlib.records import Judgement, State, Step
from routerlib.store import TraceIndex, TraceWriter, compact, files
from routerlib.store.files import iterate_tables, make_shard_name, write_parquet
from routerlib.store.schema import Record, make_row, make_table

RECORDS = make_tiny_records()
IDS = [problem.id for problem in make_problems()]


def list_steps(problem_ids: list[str]) -> dict[str, str | None]:
    return {
        record.id: record.next_state_id
        for record in RECORDS
        if isinstance(record, Step) and record.problem_id in problem_ids
    }


def open_index(root: Path, problem_ids: list[str]) -> TraceIndex:
    index = TraceIndex(root)
    index.open_problems(problem_ids)
    return index


def add_shard(root: Path, name: str, *records: Record) -> None:
    rows = [make_row(record) for record in records]
    write_parquet(root / name / make_shard_name(), make_table(name, rows))


@pytest.fixture(params=["compacted", "shards"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    root = tmp_path / "traces"
    with TraceWriter(root, flush_rows=3) as writer:
        add_records(writer, RECORDS)
    if request.param == "compacted":
        compact(root)
    return root


@pytest.mark.parametrize("problem_ids", [[], IDS[:1], IDS[1:2], IDS[::2], IDS, ["unknown"]])
def test_of_the_opened_problems_everything_is_known(store: Path, problem_ids: list[str]) -> None:
    index = open_index(store, problem_ids)
    assert index.next_state_ids == list_steps(problem_ids)
    assert index.problems.keys() == set(problem_ids) - {"unknown"}
    assert index.states == {
        record.id: record
        for record in RECORDS
        if isinstance(record, State) and record.problem_id in problem_ids
    }
    for step_id, state_id in index.next_state_ids.items():
        reached = index.get_next_state(step_id)
        assert reached is not None
        assert reached.id == state_id
    assert index.get_next_state("unknown") is None


def test_problems_may_be_opened_one_by_one(store: Path) -> None:
    index = TraceIndex(store)
    for problem_id in [*IDS, *IDS]:
        index.open_problems([problem_id])
    assert index.next_state_ids == list_steps(IDS)


def test_tokens_are_those_of_the_whole_store(store: Path) -> None:
    steps = [record for record in RECORDS if isinstance(record, Step)]
    assert TraceIndex(store).summarise_tokens() == (
        sum(step.completion_tokens for step in steps) / len(steps),
        sum(step.prompt_tokens for step in steps) / len(steps),
    )


def test_where_there_is_no_store_nothing_is_recorded(tmp_path: Path) -> None:
    index = open_index(tmp_path / "traces", IDS)
    assert (index.next_state_ids, index.summarise_tokens()) == ({}, None)
    assert list(tmp_path.iterdir()) == []


def test_failures_and_judgements_are_known(tmp_path: Path) -> None:
    before, after = make_state(make_problems()[0], ""), make_state(make_problems()[0], "2\n")
    failed = replace(make_step(before, None, SMALL), error="ModelError: no")
    step = replace(make_step(before, after, SMALL), attempt=2)
    judgement = Judgement(step.id, SMALL, "useful", 0.5, 10, 0, 1)
    with TraceWriter(tmp_path) as writer:
        add_records(writer, [*RECORDS[:7], after, failed, replace(failed, attempt=1), step])
        writer.add_judgement(judgement)
    for root in (tmp_path, tmp_path):
        index = open_index(root, IDS[:1])
        assert index.failures == Counter({step.id: 2})
        assert index.next_state_ids == {step.id: after.id}
        assert index.remarks["judgements"] == {(step.id, SMALL, "useful"): judgement}
        assert not open_index(root, IDS[1:]).remarks["judgements"]
        compact(root)


def test_rows_that_were_put_together_by_hand(store: Path) -> None:
    """Equal rows are one, a state keeps its smallest depth, a success wins; the rest conflicts."""
    step = next(r for r in RECORDS if isinstance(r, Step))
    state = next(r for r in RECORDS if isinstance(r, State) and r.depth == 1)
    failed = replace(step, error="x", text=None, next_state_id=None)
    add_shard(store, "steps", step, failed)
    add_shard(store, "states", replace(state, depth=5), state)
    index = open_index(store, IDS)
    assert index.next_state_ids == list_steps(IDS)
    assert index.failures == Counter()
    assert index.states[state.id] == state
    add_shard(store, "states", replace(state, extracted_answer="7"))
    with pytest.raises(StoreError, match=f"two rows of states have the key {state.id} and differ"):
        open_index(store, IDS)
    add_shard(store, "steps", replace(step, attempt=1))
    assert open_index(store, IDS[1:]).next_state_ids == list_steps(IDS[1:])
    for shard in (store / "states").glob("part-*"):
        if pq.read_metadata(shard).num_rows == 1:
            shard.unlink()
    with pytest.raises(StoreError, match=f"{step.id} succeeded more than once"):
        open_index(store, IDS)


def test_row_groups_of_other_problems_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [make_row(make_state(p, f"{n}\n")) for p in make_problems() for n in range(10)]
    path = tmp_path / "states.parquet"
    pq.write_table(make_table("states", rows), path, row_group_size=10)
    read: list[list[int]] = []
    iterate = pq.ParquetFile.iter_batches

    def watch(file: pq.ParquetFile, size: int, *, row_groups: list[int], **more: object) -> object:
        read.append(row_groups)
        return iterate(file, size, row_groups=row_groups, **more)

    monkeypatch.setattr(files.pq.ParquetFile, "iter_batches", watch)
    for problem_ids, count in ((IDS[1:2], 10), (IDS[::2], 20), (["a", "z"], 0), ([], 0)):
        found = list(iterate_tables(path, "states", ["text"], "problem_id", problem_ids))
        assert sum(table.num_rows for table in found) == count
    assert read == [[1], [0, 2], [], []]
