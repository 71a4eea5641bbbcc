"""The writer's journal: rows that are in no shard yet, safe from the death of their process.

``<root>/.writer.journal`` holds JSON lines: first the name that the next shards will have, then
[table, row] for every row since the last flush, each written with one call of the operating system
when it is added. Invariants: whoever changes the journal holds the store's lock; readers ignore
it; its shards hold its rows in its order, so the longer of a shard and the journal's rows of that
table holds both, and taking a journal in is the same once and twice. It is not synced: a loss of
power may take its end, the death of the process takes nothing.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from routerlib.errors import CorruptFileError, SchemaVersionError
from routerlib.records import SCHEMA_VERSION
from routerlib.store.files import make_shard_name, named_write_errors, sync, write_parquet
from routerlib.store.schema import TABLES, Row, make_table


def get_journal_path(root: Path) -> Path:
    """Return where the journal of a store is while rows wait in it."""
    return root / ".writer.journal"


class Journal:
    """The journal of one writer: ``append`` rows, write them as shards of the name
    ``shard_name``, ``empty`` it. It is made at the first row and removed when it is emptied."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._descriptor: int | None = None
        self._size = 0
        self._shard_name = ""

    @property
    def shard_name(self) -> str:
        """The name that the shards of the waiting rows must have."""
        return self._shard_name

    def append(self, name: str, row: Row) -> None:
        """Add a row of table ``name``. Raises StoreError when it cannot be written whole; the
        journal is then as it was."""
        if self._descriptor is None:
            self._begin()
        self._write([name, row])

    def _begin(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        with named_write_errors(self._root):
            self._descriptor = os.open(get_journal_path(self._root), flags, 0o644)
        self._size = 0
        self._shard_name = make_shard_name()
        try:
            self._write({"shard": self._shard_name, "schema_version": SCHEMA_VERSION})
        except BaseException:
            self._remove()
            raise

    def _write(self, content: Any) -> None:
        assert self._descriptor is not None
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        with named_write_errors(self._root):
            try:
                if os.write(self._descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except BaseException:
                os.ftruncate(self._descriptor, self._size)
                raise
        self._size += len(line)

    def empty(self) -> None:
        """Forget all rows, because they are in shards that are on the disk."""
        if self._descriptor is not None:
            self._remove()

    def _remove(self) -> None:
        get_journal_path(self._root).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file; rows that wait in it are left to the next writer."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def recover_rows(root: Path) -> None:
    """Write the rows of a journal that was left behind as shards, then remove it. The caller
    holds the lock.

    Raises CorruptFileError or SchemaVersionError for a journal that cannot be read, StoreError
    when its shards cannot be written.
    """
    path = get_journal_path(root)
    if not path.exists():
        return
    shard_name, rows = _read(path)
    with named_write_errors(root):
        for name, waiting in rows.items():
            shard = root / name / shard_name
            if _count_rows(shard) < len(waiting):
                write_parquet(shard, make_table(name, waiting))
        path.unlink()
        sync(root)


def _count_rows(shard: Path) -> int:
    """The rows of a shard, none when it is not there or damaged: the journal has them."""
    try:
        return int(pq.read_metadata(shard).num_rows)
    except (pa.ArrowException, OSError):
        return 0


def _read(path: Path) -> tuple[str, dict[str, list[Row]]]:
    """The shards' name and each table's rows. The end of the last line ends the journal: what
    comes after it is a line that was being written."""
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    lines = path.read_bytes().split(b"\n")[:-1]
    if not lines:
        return "", rows
    try:
        head = json.loads(lines[0])
        version = head["schema_version"]
        if version != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{path} has schema version {version!r}, this code writes version "
                f"{SCHEMA_VERSION}: open the store once with the release that recorded it"
            )
        for line in lines[1:]:
            name, row = json.loads(line)
            rows[name].append(row)
        return str(head["shard"]), rows
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{path} cannot be read ({type(error).__name__}: {error}): move it out of the store, "
            "and record the rows anew that only it holds"
        ) from error
