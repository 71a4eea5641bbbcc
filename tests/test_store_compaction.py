"""Compaction changes no row, gives the same bytes for the same rows, and survives a crash."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import (
    LARGE,
    SMALL,
    add_records,
    make_card,
    make_problem_row,
    make_run,
    make_state,
    make_step,
    make_tiny_records,
    write_tiny_store,
)

from routerlib.errors import ManifestMismatchError, StoreError
from routerlib.records import Problem, Run, State, Step
from routerlib.store import TraceWriter, compact, compaction, files, load_table, verify
from routerlib.store.files import make_shard_name, write_parquet
from routerlib.store.index import REMARKS
from routerlib.store.reading import JOURNAL_NAME
from routerlib.store.schema import TABLES, Record, make_record, make_row, make_table


def read_all(root: Path) -> dict[str, list[Record]]:
    return {
        name: [make_record(name, row) for row in load_table(root, name).to_pylist()]
        for name in TABLES
    }


def read_bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob("*/*.parquet")}


def write_shards(root: Path, flush_rows: int = 4) -> Path:
    with TraceWriter(root, flush_rows=flush_rows) as writer:
        add_records(writer, make_tiny_records())
    return root


def add_shard(root: Path, name: str, *records: Record) -> None:
    """A shard that no writer would write, as when folders of two machines are put together."""
    rows = [make_row(record) for record in records]
    write_parquet(root / name / make_shard_name(), make_table(name, rows))


def test_one_ordered_file_a_table(tiny_store: Path) -> None:
    found = sorted(str(p.relative_to(tiny_store)) for p in tiny_store.glob("*/*"))
    filled = sorted(set(TABLES) - set(REMARKS))
    assert found == [f"{name}/{name}-000.parquet" for name in filled]
    states = load_table(tiny_store, "states")
    keys = list(zip(states["problem_id"].to_pylist(), states["depth"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    depth = dict(zip(states["id"].to_pylist(), states["depth"].to_pylist(), strict=True))
    steps = load_table(tiny_store, "steps").to_pylist()
    keys = [(row["problem_id"], depth[row["state_id"]]) for row in steps]
    assert keys == sorted(keys)
    assert verify(tiny_store) == []


def test_compaction_changes_no_row(tmp_path: Path) -> None:
    write_shards(tmp_path)
    before = read_all(tmp_path)
    compact(tmp_path)
    assert read_all(tmp_path) == before
    assert len(before["steps"]) == 20


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    """Whatever the order and the shards they came in."""
    first = write_tiny_store(tmp_path / "first")
    second = tmp_path / "second"
    records = make_tiny_records()
    for record in records:
        if not isinstance(record, Step):
            with TraceWriter(second) as writer:
                add_records(writer, [record])
    steps = [record for record in records if isinstance(record, Step)]
    random.Random(0).shuffle(steps)
    with TraceWriter(second, flush_rows=3) as writer:
        add_records(writer, steps)  # type: ignore[arg-type]
    compact(second)
    assert read_bytes(first) == read_bytes(second)
    manifest = (second / "manifest.json").read_bytes()
    compact(second)
    assert read_bytes(first) == read_bytes(second)
    assert (second / "manifest.json").read_bytes() == manifest


def test_recording_goes_on_after_compaction(tmp_path: Path) -> None:
    records = make_tiny_records()
    with TraceWriter(tmp_path) as writer:
        add_records(writer, records[:20])
    compact(tmp_path)
    with TraceWriter(tmp_path) as writer:
        add_records(writer, records[20:])
    assert verify(tmp_path) == []
    compact(tmp_path)
    assert read_bytes(tmp_path) == read_bytes(write_tiny_store(tmp_path / "whole"))


def test_many_rows_make_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MAX_ROWS_PER_FILE", 8)
    store = write_tiny_store(tmp_path)
    names = sorted(p.name for p in (store / "steps").iterdir())
    assert names == ["steps-000.parquet", "steps-001.parquet", "steps-002.parquet"]
    assert load_table(store, "steps").num_rows == 20
    monkeypatch.setattr(compaction, "MAX_ROWS_PER_FILE", 100)
    compact(store)
    assert [p.name for p in (store / "steps").iterdir()] == ["steps-000.parquet"]
    assert verify(store) == []


def test_manifest_says_what_was_recorded(tiny_store: Path) -> None:
    manifest = json.loads((tiny_store / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert {name: table["rows"] for name, table in manifest["tables"].items()} == {
        "problems": 3,
        "models": 2,
        "runs": 1,
        "states": 20,
        "steps": 20,
    }
    assert manifest["models"][LARGE]["parameters"] == 300
    assert manifest["prompt_versions"] == ["tiny-v1"]
    assert [(s["kind"], s["max_tokens"]) for s in manifest["sampling"]] == [
        ("step", 100),
        ("tail", 200),
    ]


def test_created_at_changes_only_with_the_files(tiny_store: Path) -> None:
    path = tiny_store / "manifest.json"
    text = path.read_text().replace(json.loads(path.read_text())["created_at"], "long ago")
    path.write_text(text)
    TraceWriter(tiny_store).close()
    compact(tiny_store)
    assert path.read_text() == text
    with TraceWriter(tiny_store) as writer:
        writer.add_model(make_card("another"))
    assert json.loads(path.read_text())["created_at"] != "long ago"


class CrashError(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize("phase", ["_write_hidden", "_commit", "save_manifest", "sync"])
def test_a_crash_between_the_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Before the journal the old store stands; after it the next writer or compaction finishes."""
    write_shards(tmp_path / "store")
    expected = read_bytes(write_tiny_store(tmp_path / "whole"))
    original: Callable[..., object] = getattr(compaction, phase)
    calls = iter((True, True, False) if phase in ("_write_hidden", "sync") else (False,))

    def crash(*arguments: object) -> object:
        if next(calls):
            return original(*arguments)
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(compaction, phase, crash)
        with pytest.raises(CrashError):
            compact(tmp_path / "store")
    committed = phase in ("save_manifest", "sync")
    assert (tmp_path / "store" / JOURNAL_NAME).exists() == committed
    if committed:
        with pytest.raises(StoreError, match="routerlib compact` finishes it"):
            load_table(tmp_path / "store", "steps")
        assert ["compaction was interrupted" in line for line in verify(tmp_path / "store")] == [
            True
        ]
    else:
        assert load_table(tmp_path / "store", "steps").num_rows == 20
        assert verify(tmp_path / "store") == []

    for name, finish in (("a", compact), ("b", lambda root: TraceWriter(root).close())):
        root = Path(shutil.copytree(tmp_path / "store", tmp_path / name))
        finish(root)
        assert not list(root.glob("**/.*"))
        assert not (root / JOURNAL_NAME).exists()
        assert verify(root) == []
        if committed or finish is compact:
            assert read_bytes(root) == expected


def test_a_crash_while_old_files_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path)
    unlink, left = Path.unlink, iter([True] * 3 + [False])

    def crash(self: Path, missing_ok: bool = False) -> None:
        if self.name.startswith("part-") and not next(left):
            raise CrashError
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(CrashError):
            compact(tmp_path)
    assert list(tmp_path.glob("*/part-*"))
    with TraceWriter(tmp_path) as writer:
        assert len(writer.recorded_steps()) == 20
    assert not list(tmp_path.glob("*/part-*"))
    assert verify(tmp_path) == []


def test_a_store_that_is_unsound_is_not_compacted(tiny_store: Path) -> None:
    path = tiny_store / "steps" / "steps-000.parquet"
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + b"?")
    with pytest.raises(ManifestMismatchError, match=r"steps-000.parquet has SHA-256"):
        compact(tiny_store)
    path.write_bytes(kept)
    compact(tiny_store)


def test_a_lost_manifest_is_made_anew(tiny_store: Path) -> None:
    (tiny_store / "manifest.json").unlink()
    for reader in (lambda: load_table(tiny_store, "steps"), lambda: TraceWriter(tiny_store)):
        with pytest.raises(ManifestMismatchError, match=r"there is no manifest.json; restore it"):
            reader()
    compact(tiny_store)
    assert verify(tiny_store) == []
    with pytest.raises(StoreError, match="there is no store"):
        compact(tiny_store / "nowhere")


def test_equal_rows_of_two_machines_merge(tmp_path: Path) -> None:
    write_shards(tmp_path)
    records = make_tiny_records()
    add_shard(tmp_path, "steps", *(r for r in records if isinstance(r, Step)))
    states = [replace(r, depth=r.depth + 5) for r in records if isinstance(r, State)]
    add_shard(tmp_path, "states", *states)
    assert any("rows have this key" in line for line in verify(tmp_path))
    compact(tmp_path)
    assert read_bytes(tmp_path) == read_bytes(write_tiny_store(tmp_path / "whole"))


def test_a_success_wins_over_a_failure(tmp_path: Path) -> None:
    write_shards(tmp_path)
    step = next(r for r in make_tiny_records() if isinstance(r, Step))
    failed = replace(step, error="timeout", text=None, next_state_id=None, token_logprobs=())
    add_shard(tmp_path, "steps", failed)
    compact(tmp_path)
    assert load_table(tmp_path, "steps")["error"].null_count == 20


def test_the_latest_row_of_a_run_wins(tmp_path: Path) -> None:
    write_shards(tmp_path)
    last = make_run(ended_at="2025-01-03T00:00:00+00:00", spent_usd=1.5)
    runs: list[Run] = [last, make_run(ended_at=None)]
    for run in runs:
        add_shard(tmp_path, "runs", run)
    compact(tmp_path)
    assert read_all(tmp_path)["runs"] == [last]


def test_conflicting_rows_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path / "a")
    step = next(r for r in make_tiny_records() if isinstance(r, Step))
    add_shard(tmp_path / "a", "steps", replace(step, prompt_tokens=99))
    with pytest.raises(StoreError, match=f"key {step.id}, 0 and differ in prompt_tokens"):
        compact(tmp_path / "a")
    write_shards(tmp_path / "b")
    add_shard(tmp_path / "b", "steps", replace(step, attempt=1))
    with pytest.raises(StoreError, match=f"step {step.id} succeeded more than once"):
        load_table(tmp_path / "b", "steps")


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
LOGPROBS = st.floats(-500, 0).map(lambda value: round(value, 4))
OPTIONAL = st.none() | TEXTS


@st.composite
def recordings(draw: st.DrawFn) -> list[Record]:
    """A random store: problems, random trees of states, successes after any number of failures."""
    records: list[Record] = [
        make_card(SMALL),
        replace(make_card(LARGE), price_source=draw(OPTIONAL)),
        make_run(spent_usd=draw(st.none() | st.floats(0, 10))),
    ]
    for number in range(draw(st.integers(1, 2))):
        problem = Problem(f"p/{number}", "random", "test", draw(TEXTS), "1", draw(OPTIONAL))
        features = draw(st.dictionaries(st.sampled_from("abc"), st.floats(-1e9, 1e9)))
        open_states = [make_state(problem, "")]
        records += [replace(make_problem_row(problem), features=features), open_states[0]]
        known = {open_states[0].id}
        for _ in range(draw(st.integers(0, 5))):
            before = draw(st.sampled_from(open_states))
            text = draw(TEXTS.filter(str.strip))
            after = make_state(problem, before.text + text, draw(st.booleans()))
            step = make_step(
                before,
                after,
                draw(st.sampled_from((SMALL, LARGE))),
                token_logprobs=tuple(draw(st.lists(LOGPROBS, max_size=4))),
                first_token_top=tuple(draw(st.lists(st.tuples(TEXTS, LOGPROBS), max_size=3))),
                latency_s=round(draw(st.floats(0, 400)), 4),
                request_id=draw(OPTIONAL),
            )
            if step.id in known:
                continue
            if after.id not in known:
                records.append(after)
                open_states += [] if after.is_terminal else [after]
            known |= {step.id, after.id}
            errors = draw(st.lists(TEXTS, max_size=2))
            records += [
                make_step(before, None, step.model_id, attempt=attempt, error=error)
                for attempt, error in enumerate(errors)
            ]
            records.append(replace(step, attempt=len(errors)))
    return records


@given(records=recordings(), flush_rows=st.integers(1, 6))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], flush_rows: int
) -> None:
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for module in (files, compaction):  # waiting for the disk is what takes the time
            patch.setattr(module, "sync", lambda path: None)
        with TraceWriter(root, flush_rows=flush_rows) as writer:
            add_records(writer, records)
        before = read_all(root)
        compact(root)
    after = read_all(root)
    assert after == before
    assert sum(map(len, after.values())) == len(records)
    assert all(any(record in table for table in after.values()) for record in records)
    assert verify(root) == []
    shutil.rmtree(root)
