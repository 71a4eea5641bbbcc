"""The journal: rows outlive their process once, whatever moment it dies at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import add_records, make_tiny_records, write_tiny_store

from routerlib.errors import CorruptFileError, SchemaVersionError, StoreError
from routerlib.records import Step
from routerlib.store import TraceWriter, compact, load_table, verify
from routerlib.store import journal as journals
from routerlib.store.files import list_files
from routerlib.store.journal import Journal, get_journal_path, recover_rows
from routerlib.store.schema import TABLES, make_row

RECORDS = make_tiny_records()


def abandon(writer: TraceWriter) -> None:
    """What the death of the process does to a writer, as far as the store can tell."""
    writer._journal.close()
    writer._lock.release()


def leave_rows(root: Path, flush_rows: int = 512) -> None:
    """A store whose writer died after it had added everything."""
    writer = TraceWriter(root, flush_rows=flush_rows, flush_seconds=1e9)
    add_records(writer, RECORDS)
    abandon(writer)


def read_all(root: Path) -> list[list[dict[str, object]]]:
    return [load_table(root, name).to_pylist() for name in TABLES]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, object]]]:
    return read_all(write_tiny_store(tmp_path_factory.mktemp("expected")))


@pytest.mark.parametrize("flush_rows", [1, 6, 20, 512])
@pytest.mark.parametrize("open_next", [lambda root: TraceWriter(root).close(), compact])
def test_rows_left_behind_are_taken_in(
    tmp_path: Path,
    expected: list[list[dict[str, object]]],
    flush_rows: int,
    open_next: Callable[[Path], None],
) -> None:
    leave_rows(tmp_path, flush_rows)
    open_next(tmp_path)
    assert not get_journal_path(tmp_path).exists()
    assert verify(tmp_path) == []
    assert read_all(tmp_path) == expected


@pytest.mark.parametrize("tables", range(len(TABLES) + 1))
def test_a_crash_between_shards_and_emptying_doubles_nothing(
    tmp_path: Path, expected: list[list[dict[str, object]]], tables: int
) -> None:
    """The first so many tables have their shard when the process dies."""
    leave_rows(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy, ignore=shutil.ignore_patterns("copy"))
    recover_rows(copy)
    for name in TABLES[:tables]:
        for shard in list_files(copy, name):
            (tmp_path / name).mkdir()
            shutil.copy(shard, tmp_path / name)
    shutil.rmtree(copy)
    for _ in range(2):
        TraceWriter(tmp_path).close()
        assert verify(tmp_path) == []
        assert read_all(tmp_path) == expected
    assert all(len(list_files(tmp_path, name)) <= 1 for name in TABLES)


def test_a_shard_that_holds_more_than_the_journal_stays(tmp_path: Path) -> None:
    """After a loss of power: the shard was synced, the journal's end was not."""
    leave_rows(tmp_path)
    path = get_journal_path(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    recover_rows(tmp_path)
    path.write_bytes(b"".join(lines[:20]))
    recover_rows(tmp_path)
    assert load_table(tmp_path, "steps").num_rows == 20


@pytest.mark.parametrize("cut", [1, 2, 50, -1])
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: int) -> None:
    leave_rows(tmp_path)
    path = get_journal_path(tmp_path)
    data = path.read_bytes()
    last = data.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(data[: last + cut] if cut > 0 else data[:cut])
    with TraceWriter(tmp_path) as writer:
        assert len(writer.recorded_steps()) == 19
        lost = RECORDS[-1]
        assert isinstance(lost, Step)
        assert writer.get_next_state(lost.id) is None
        writer.add_step(lost)
    assert verify(tmp_path) == []


@pytest.mark.parametrize("head", [b"", b'{"shard": "par', b'{"shard": "part-1.parquet"}'])
def test_a_torn_head_holds_no_row(tmp_path: Path, head: bytes) -> None:
    get_journal_path(tmp_path).write_bytes(head)
    TraceWriter(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == ["writer.lock"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b'{"shard": "a", "schema_version": 0}\n', SchemaVersionError, "schema version 0"),
        (b'{"schema_version": 1}\n', CorruptFileError, "cannot be read"),
        (b'{"shard": "a", "schema_version": 1}\nno\n["runs", {}]\n', CorruptFileError, "move it"),
        (b'{"shard": "a", "schema_version": 1}\n["other", {}]\n', CorruptFileError, "other"),
    ],
)
def test_a_journal_that_cannot_be_read_is_kept(
    tmp_path: Path, content: bytes, error: type[StoreError], message: str
) -> None:
    get_journal_path(tmp_path).write_bytes(content)
    with pytest.raises(error, match=message):
        TraceWriter(tmp_path)
    assert get_journal_path(tmp_path).read_bytes() == content
    get_journal_path(tmp_path).unlink()
    TraceWriter(tmp_path).close()  # the lock was given back


def test_a_row_is_written_with_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = os.write

    def watch(descriptor: int, data: bytes) -> int:
        written.append(data)
        return write(descriptor, data)

    monkeypatch.setattr(journals.os, "write", watch)
    journal = Journal(tmp_path)
    journal.append("runs", make_row(RECORDS[2]))
    journal.append("runs", make_row(RECORDS[2]))
    assert [line.count(b"\n") for line in written] == [1, 1, 1]  # the head, then the rows
    journal.empty()
    journal.empty()
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_is_cut_short_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.append("runs", make_row(RECORDS[2]))
    before = get_journal_path(tmp_path).read_bytes()
    write = os.write
    monkeypatch.setattr(journals.os, "write", lambda number, data: write(number, data[:10]))
    with pytest.raises(StoreError, match=f"{tmp_path} cannot be written .*make space there"):
        journal.append("runs", make_row(RECORDS[2]))
    assert get_journal_path(tmp_path).read_bytes() == before
    monkeypatch.undo()
    journal.append("runs", make_row(RECORDS[2]))
    assert get_journal_path(tmp_path).read_bytes().count(b"\n") == 3
    journal.close()


def test_rows_in_the_journal_are_the_rows_in_memory(tmp_path: Path) -> None:
    """Whatever a row holds comes back from the journal as it would from a shard."""
    leave_rows(tmp_path)
    shards = {}
    for name, path in (("memory", tmp_path / "memory"), ("journal", tmp_path)):
        with TraceWriter(path) as writer:
            if name == "memory":
                add_records(writer, RECORDS)
        shards[name] = [file.read_bytes() for t in TABLES for file in list_files(path, t)]
    assert shards["memory"] == shards["journal"]
