"""A store whose disk is full or read-only: a named error, nothing lost, and on it goes."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import add_records, make_run, make_tiny_records, write_tiny_store
from tiny_models import LATTICE_CALLS, make_cards, make_gsm8k_problems, make_tiny_models

from routerlib.cli import main
from routerlib.collect import Collector, CollectReport
from routerlib.collect import make_run as make_collect_run
from routerlib.datacard import END, START
from routerlib.errors import StoreError
from routerlib.plans import CollectConfig
from routerlib.records import Step
from routerlib.store import TraceWriter, build_database, compact, files, load_table, verify
from routerlib.store import journal as journals
from routerlib.store.schema import TABLES

RECORDS = make_tiny_records()
CONFIG = CollectConfig(depth=2, concurrency=2)


def read_all(root: Path) -> list[list[dict[str, object]]]:
    return [load_table(root, name).to_pylist() for name in TABLES]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, object]]]:
    return read_all(write_tiny_store(tmp_path_factory.mktemp("expected")))


class FullDisk:
    """While ``is_full``, calls of one function fail where they touch a path that has ``part``."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str, part: str) -> None:
        self.is_full = False
        original = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if self.is_full and any(part in str(argument) for argument in arguments):
                for path in (a for a in arguments if isinstance(a, Path) and a.parent.is_dir()):
                    path.write_bytes(b"PAR1 half a file")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*arguments, **options)

        patch.setattr(owner, name, call)


def collect(root: Path) -> CollectReport:
    models = make_tiny_models()
    with TraceWriter(root, flush_rows=4) as writer:
        collector = Collector(models, make_cards(), writer, CONFIG)
        run = make_collect_run(CONFIG, models, "gsm8k", "test")
        return asyncio.run(collector.collect(make_gsm8k_problems(), run))


def add_what_is_missing(writer: TraceWriter) -> None:
    for record in RECORDS:
        if not (isinstance(record, Step) and record.id in writer.recorded_steps()):
            add_records(writer, [record])


@pytest.mark.parametrize("name", ["runs", "states", "steps"])
def test_a_shard_that_finds_no_space(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: list[list[dict[str, object]]],
    name: str,
) -> None:
    """The tables before it have their shards; all rows stay, and more may be added."""
    disk = FullDisk(monkeypatch, files.pq, "write_table", f"/{name}/")
    writer = TraceWriter(tmp_path, flush_seconds=1e9)
    add_records(writer, RECORDS[:-4])
    disk.is_full = True
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"{tmp_path} cannot be written .*make space there"):
            writer.flush()
    add_records(writer, RECORDS[-4:-2])
    assert not list(tmp_path.glob("*/.*"))  # no half file
    assert all("`routerlib compact`" in line for line in verify(tmp_path))
    disk.is_full = False
    add_records(writer, RECORDS[-2:])
    writer.close()
    assert verify(tmp_path) == []
    assert read_all(tmp_path) == expected


@pytest.mark.parametrize("name", ["problems", "states", "steps"])
def test_another_writer_goes_on_when_there_is_space(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: list[list[dict[str, object]]],
    name: str,
) -> None:
    disk = FullDisk(monkeypatch, files.pq, "write_table", f"/{name}/")
    writer = TraceWriter(tmp_path)
    add_records(writer, RECORDS[:-2])
    disk.is_full = True
    for attempt in (writer.close, lambda: TraceWriter(tmp_path), lambda: TraceWriter(tmp_path)):
        with pytest.raises(StoreError, match="make space there and start the same run again"):
            attempt()
    disk.is_full = False
    with TraceWriter(tmp_path) as second:
        add_what_is_missing(second)
    assert verify(tmp_path) == []
    assert read_all(tmp_path) == expected


def test_a_journal_that_finds_no_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[list[dict[str, object]]]
) -> None:
    """The row is not taken; it may be added again."""
    writer = TraceWriter(tmp_path)
    disk = FullDisk(monkeypatch, journals.os, "write", "")
    for start in range(0, len(RECORDS), 5):
        disk.is_full = True
        with pytest.raises(StoreError, match="make space there"):
            add_records(writer, RECORDS[start : start + 1])
        disk.is_full = False
        add_records(writer, RECORDS[start : start + 5])
    writer.close()
    assert verify(tmp_path) == []
    assert read_all(tmp_path) == expected


def test_a_manifest_that_finds_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TraceWriter(tmp_path)
    add_records(writer, RECORDS)
    disk = FullDisk(monkeypatch, files, "_write_text", "manifest.json")
    disk.is_full = True
    with pytest.raises(StoreError, match="make space there"):
        writer.close()
    disk.is_full = False
    TraceWriter(tmp_path).close()
    assert verify(tmp_path) == []


@pytest.mark.parametrize(
    ("owner", "name", "part"),
    [
        (files.pq, "write_table", "/problems/"),
        (files.pq, "write_table", "/steps/"),
        (files, "_write_text", "compaction.json"),
        (files, "_write_text", "manifest.json"),
    ],
)
def test_a_compaction_that_finds_no_space(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: list[list[dict[str, object]]],
    owner: Any,
    name: str,
    part: str,
) -> None:
    """The rows stay as they are; the next compaction does it, or finishes it."""
    with TraceWriter(tmp_path, flush_rows=4) as writer:
        add_records(writer, RECORDS)
    disk = FullDisk(monkeypatch, owner, name, part)
    disk.is_full = True
    with pytest.raises(StoreError, match=rf"{tmp_path} cannot be written .*make space there"):
        compact(tmp_path)
    disk.is_full = False
    compact(tmp_path)
    assert verify(tmp_path) == []
    assert read_all(tmp_path) == expected
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["steps-000.parquet"]


def test_the_disk_is_full_in_a_command(
    tmp_path: Path, mount: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """``compact`` and ``db`` say so and leave the store, and the database from before, whole."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=1m")
    root = write_tiny_store(disk)
    path = build_database(root)
    before = path.read_bytes()
    files_before = {file for file in root.rglob("*") if file.is_file()}
    for space in (0, 4, 8, 16, 64, 128, 256):
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - space * 1024))
        assert main(["db", "--traces", str(root)]) == 1
        assert f"{path} cannot be written" in capsys.readouterr().err
        assert path.read_bytes() == before
        assert {file for file in root.rglob("*") if file.is_file()} == files_before
        ballast.unlink()
    for space in (0, 4, 8, 16):
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - space * 1024))
        assert main(["compact", "--traces", str(root)]) == 1
        assert f"{root} cannot be written" in capsys.readouterr().err
        assert verify(root) == []
        ballast.unlink()
    assert main(["compact", "--traces", str(root)]) == 0
    assert main(["db", "--traces", str(root)]) == 0
    assert {file for file in root.rglob("*") if file.is_file()} == files_before


def test_the_disk_is_full_for_a_data_card(
    tmp_path: Path, mount: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The old one stays whole, be there no space or some for a part of it, or be it read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=1m")
    root = write_tiny_store(disk)
    card = root / "README.md"
    old = f"{START}\n{END}\n" + "flaws\n" * 2000
    card.write_text(old)
    arguments = ["datacard", "--traces", str(root)]
    ballast = disk / "ballast"
    for space in (0, 4, 8):
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - space * 1024))
        assert main(arguments) == 1
        assert f"{card} cannot be written" in capsys.readouterr().err
        assert card.read_text() == old
        ballast.unlink()
    mount(disk, "remount,ro")
    assert main(arguments) == 1
    assert f"{card} cannot be written" in capsys.readouterr().err
    mount(disk, "remount,rw")
    assert card.read_text() == old
    assert not list(root.glob(".*"))
    assert main(arguments) == 0
    assert card.read_text() != old


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: object, flags: int, mode: int = 0o777) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(StoreError, match=rf"{tmp_path} cannot be written .*allow this user to"):
        TraceWriter(tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot be written .*mend the cause"):
        TraceWriter(tmp_path / "file" / "traces")


def test_a_recording_stops_when_the_disk_is_full_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch, files.pq, "write_table", "/steps/")
    disk.is_full = True
    with pytest.raises(StoreError, match=f"{tmp_path} cannot be written"):
        collect(tmp_path)
    disk.is_full = False
    report = collect(tmp_path)
    assert (report.recorded_before, report.calls) == (4, LATTICE_CALLS - 4)  # flushed at four
    assert verify(tmp_path) == []


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Mount a small file system in memory, or mount it again with other options."""
    mounted: list[Path] = []

    def call(folder: Path, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        if folder not in mounted:
            mounted.append(folder)

    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs, which only Linux has")
    yield call
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("space", [0, 8, 24, 40, 56])
def test_a_disk_that_is_really_full(tmp_path: Path, mount: Callable[..., None], space: int) -> None:
    """``space`` KiB are left at the start of a recording, which takes about 100 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=512k")
    ballast = disk / "ballast"
    ballast.write_bytes(bytes((512 - space) * 1024 - 4096))
    root = disk / "traces"
    with pytest.raises(StoreError, match=rf"{root} cannot be written .*No space left.*make space"):
        collect(root)
    if root.exists():
        assert all("`routerlib compact`" in line for line in verify(root))
    ballast.unlink()
    report = collect(root)
    assert report.problems_done == 3
    assert report.recorded_before + report.calls == LATTICE_CALLS
    compact(root)
    assert verify(root) == []
    assert load_table(root, "steps").num_rows == LATTICE_CALLS


def test_a_folder_that_is_really_read_only(tmp_path: Path, mount: Callable[..., None]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=512k")
    root = write_tiny_store(disk)
    mount(disk, "remount,ro")
    for path in (root, disk / "new"):
        with pytest.raises(StoreError, match=f"{path} cannot be written .*allow this user"):
            TraceWriter(path)
    assert verify(root) == []
    mount(disk, "remount,rw")
    with TraceWriter(root) as writer:
        writer.add_run(make_run("later"))
    assert verify(root) == []
