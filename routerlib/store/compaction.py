"""Merge the shards of a store into few ordered files, safely.

New files are written under hidden names; then a journal that names them, the files they replace
and the new manifest is put in place, and that is the moment the compaction happens: a crash
before leaves the old store (and hidden files that the next writer removes), a crash after is
finished by the next writer or compaction. Equal rows give equal bytes. Memory holds the rows of
one file, or of some problems, at a time, however large the store is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from routerlib.errors import StoreError
from routerlib.store.files import (
    StoreLock,
    compute_file_sha256,
    is_shard,
    list_files,
    named_write_errors,
    sync,
    write_parquet,
    write_text,
)
from routerlib.store.journal import recover_rows
from routerlib.store.manifest import (
    FileEntry,
    Manifest,
    describe_recording,
    load_manifest,
    make_manifest,
    parse_manifest,
    render_manifest,
    save_manifest,
)
from routerlib.store.ranges import find_shared_keys
from routerlib.store.reading import (
    JOURNAL_NAME,
    check_store,
    iterate_table,
    list_settings,
    read_table,
)
from routerlib.store.schema import TABLES, make_record

MAX_ROWS_PER_FILE = 50_000


def get_hidden_path(path: Path) -> Path:
    """Return where a compacted file waits until its compaction happens."""
    return path.with_name(f".{path.name}.new")


def compact(root: Path) -> None:
    """Merge every table's files into ``<table>-000.parquet``, ``-001``, ... and list them in the
    manifest. No row changes.

    Raises StoreError when a writer is at work, rows conflict or the disk is full (no row is lost;
    the next compaction or writer starts anew or finishes it), and the errors of ``load_table`` when
    the store is unsound. A missing manifest is made anew from the files as they are.
    """
    if not root.is_dir():
        raise StoreError(f"there is no store at {root}: name the folder of one")
    lock = StoreLock(root)
    try:
        with named_write_errors(root):
            recover(root)
            recover_rows(root)
            manifest = _prepare(root)
            _commit(root, manifest)
            recover(root)
    finally:
        lock.release()


def _prepare(root: Path) -> Manifest:
    """Write the new files under hidden names and return their manifest."""
    previous = load_manifest(root)
    if previous is not None:
        check_store(root, TABLES)
    entries = {}
    for name in TABLES:
        parts = _split(iterate_table(root, name), MAX_ROWS_PER_FILE)
        entries[name] = _write_hidden(root, name, parts)
    hidden = {
        name: [get_hidden_path(root / name / file) for file in files]
        for name, files in entries.items()
    }
    for name in ("states", "steps"):
        if any(is_shard(path) for path in list_files(root, name)):
            _check_keys(name, hidden[name])
    cards = [make_record("models", row) for row in read_table(root, "models").to_pylist()]
    return make_manifest(
        entries, describe_recording(cards, list_settings(hidden["steps"])), previous
    )


def _split(tables: Iterable[pa.Table], most: int) -> Iterator[pa.Table]:
    """Yield the rows of ``tables`` as tables of ``most`` rows and a rest; nothing without rows."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        while count >= most:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, most)
            waiting, count = [whole.slice(most)], count - most
    if count:
        yield pa.concat_tables(waiting)


def _write_hidden(root: Path, name: str, parts: Iterable[pa.Table]) -> dict[str, FileEntry]:
    entries = {}
    for number, part in enumerate(parts):
        path = root / name / f"{name}-{number:03d}.parquet"
        hidden = get_hidden_path(path)
        write_parquet(hidden, part)
        entries[path.name] = FileEntry(
            part.num_rows, hidden.stat().st_size, compute_file_sha256(hidden)
        )
    return entries


def _check_keys(name: str, paths: Sequence[Path]) -> None:
    for key, _ in find_shared_keys(name, paths):
        raise StoreError(
            f"two rows of {name} have the key {key} and differ in problem_id: "
            "delete the shard whose row is wrong"
        )


def _commit(root: Path, manifest: Manifest) -> None:
    """Put the journal in place: from here on the compaction is done, however it goes on."""
    replaced = {name: [path.name for path in list_files(root, name)] for name in TABLES}
    journal = {"replaced": replaced, "manifest": render_manifest(manifest)}
    write_text(root / JOURNAL_NAME, json.dumps(journal))


def recover(root: Path) -> None:
    """Finish a compaction that was committed; remove what an interrupted one or an interrupted
    writer left hidden. The caller holds the lock. A sound store stays as it is."""
    journal_path = root / JOURNAL_NAME
    if journal_path.exists():
        journal = json.loads(journal_path.read_text(encoding="utf-8"))
        manifest = parse_manifest(journal["manifest"], journal_path)
        for name, files in manifest.tables.items():
            for file in files:
                hidden = get_hidden_path(root / name / file)
                if hidden.exists():
                    hidden.replace(root / name / file)
            sync(root / name)
        save_manifest(root, manifest)
        for name, files in journal["replaced"].items():
            for file in files:
                if file not in manifest.tables.get(name, {}):
                    (root / name / file).unlink(missing_ok=True)
        journal_path.unlink()
    for hidden in (*root.glob(".*.tmp"), *root.glob("*/.*.tmp"), *root.glob("*/.*.new")):
        hidden.unlink()
