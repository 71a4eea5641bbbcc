"""Files of the store: where they are, how one is written whole or not at all, how one is read.

Layout: ``<root>/<table>/part-<utc>-<random>.parquet`` (shards, as recorded),
``<root>/<table>/<table>-000.parquet`` (compacted), ``<root>/manifest.json``. Invariants: a file
that has its final name is complete; hidden files (leading dot) are not part of the store; a
writer holds an exclusive lock that dies with its process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import uuid
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from routerlib.errors import CorruptFileError, SchemaVersionError, StoreError
from routerlib.records import SCHEMA_VERSION
from routerlib.store.schema import (
    drop_empty_columns,
    find_absent,
    get_features,
    leave_out,
    make_schema,
)

SHARD_PREFIX = "part-"
LOCK_NAME = "writer.lock"
_COMPRESSION_LEVEL = 9
_BATCH_ROWS = 16_384

_Rows = TypeVar("_Rows", pa.Table, pa.RecordBatch)


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The texts from ``first`` on and before ``end``, in the order of code points; None: no end."""

    first: str
    end: str | None

    def overlaps(self, least: str, most: str) -> bool:
        """Say whether it holds some text from ``least`` to ``most``."""
        return self.first <= most and (self.end is None or least < self.end)

    def find_in(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return which values of a text column it holds."""
        mask = pc.greater_equal(column, self.first)
        return mask if self.end is None else pc.and_(mask, pc.less(column, self.end))


def list_files(root: Path, name: str) -> list[Path]:
    """Return a table's Parquet files by name: compacted files and shards, oldest shard first."""
    return sorted(p for p in (root / name).glob("*.parquet") if not p.name.startswith("."))


def is_shard(path: Path) -> bool:
    """Say whether a file is a shard, that is, as a writer flushed it."""
    return path.name.startswith(SHARD_PREFIX)


def make_shard_name() -> str:
    """Return a new shard's name; names sort by time."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{SHARD_PREFIX}{stamp}-{uuid.uuid4().hex[:8]}.parquet"


def compute_file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a hidden file beside ``path``, then give it its name.

    The bytes are on the disk before the name is, so a crash leaves the whole file or none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(hidden)
        sync(hidden)
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def named_write_errors(root: Path) -> Iterator[None]:
    """Turn what the system says when a store cannot be written (disk full, read-only folder) into
    a StoreError: which store, why, what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            remedy = "make space there"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            remedy = "allow this user to write there, or name another folder"
        else:
            remedy = "mend the cause"
        raise StoreError(
            f"{root} cannot be written ({error}): {remedy} and start the same run again; what was "
            "recorded before is kept"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, lambda hidden: _write_text(hidden, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write an Arrow table whole or not at all; equal rows and schema give equal bytes. Optional
    columns without a value are left out."""
    whole = drop_empty_columns(table).combine_chunks()
    write_atomically(
        path,
        lambda hidden: pq.write_table(
            whole,
            hidden,
            compression="zstd",
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=True,
            write_page_checksum=True,
        ),
    )


def read_parquet(path: Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of one file of table ``name``, all columns or those named.

    Raises CorruptFileError (truncated, damaged), SchemaVersionError (another version), StoreError
    (gone meanwhile, another table, other columns).
    """
    with _open_parquet(path, name) as file:
        return _complete(file.read(columns=_choose(file, name, columns)), name, columns)


def iterate_batches(
    path: Path, name: str, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one file, some at a time. Errors as ``read_parquet``."""
    with _open_parquet(path, name) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=_choose(file, name, columns)):
            yield _complete(batch, name, columns)


def iterate_tables(
    path: Path, name: str, columns: Sequence[str] | None, key: str, wanted: Collection[str]
) -> Iterator[pa.Table]:
    """Yield the rows of one file whose text column ``key`` holds one of ``wanted``, some at a time.

    Row groups whose statistics say that they hold none are not read. Errors as ``read_parquet``.
    """
    ordered = sorted(wanted)

    def can_hold(least: str, most: str) -> bool:
        first = bisect_left(ordered, least)
        return first < len(ordered) and ordered[first] <= most

    for table in _iterate(path, name, columns, key, can_hold):
        yield table.filter(pc.is_in(table[key], pa.array(ordered, pa.string())))


def iterate_range(
    path: Path, name: str, columns: Sequence[str] | None, key: str, keys: KeyRange
) -> Iterator[pa.Table]:
    """Yield the rows of one file whose text column ``key`` is in a range. Otherwise as
    ``iterate_tables``."""
    for table in _iterate(path, name, columns, key, keys.overlaps):
        chosen = table.filter(keys.find_in(table[key]))
        yield chosen if columns is None else chosen.select(list(columns))


def _iterate(
    path: Path,
    name: str,
    columns: Sequence[str] | None,
    key: str,
    can_hold: Callable[[str, str], bool],
) -> Iterator[pa.Table]:
    """The rows of the row groups whose least and greatest ``key`` fulfil ``can_hold``."""
    with _open_parquet(path, name) as file:
        spans = (
            _read_span(file.metadata.row_group(number), key)
            for number in range(file.metadata.num_row_groups)
        )
        groups = [number for number, span in enumerate(spans) if span is None or can_hold(*span)]
        wanted = None if columns is None else list({*columns, key})
        read = _choose(file, name, wanted)
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=read):
            yield _complete(pa.Table.from_batches([batch]), name, wanted)


def _choose(file: pq.ParquetFile, name: str, columns: Collection[str] | None) -> list[str] | None:
    """The columns to read from a file, which may lack optional ones; None for all."""
    if columns is None:
        return None
    absent = find_absent(name, file.schema_arrow.names)
    return [column for column in columns if column not in absent]


def _complete(rows: _Rows, name: str, columns: Collection[str] | None) -> _Rows:
    """Rows of a file with the optional columns that it lacks, empty; of ``columns`` alone."""
    schema = make_schema(name)
    absent = find_absent(name, rows.schema.names)
    added = [column for column in absent if columns is None or column in columns]
    for column in added:
        field = schema.field(column)
        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    present = set(rows.schema.names)
    return rows.select([c for c in schema.names if c in present]) if added else rows


def read_span(path: Path, name: str, key: str) -> tuple[str, str] | None:
    """Return the least and the greatest value of a file's text column as its statistics say, None
    when they do not. Errors as ``read_parquet``."""
    with _open_parquet(path, name) as file:
        spans = [
            _read_span(file.metadata.row_group(number), key)
            for number in range(file.metadata.num_row_groups)
        ]
    known = [span for span in spans if span is not None]
    if not known or len(known) < len(spans):
        return None
    return min(least for least, _ in known), max(most for _, most in known)


def _read_span(group: pq.RowGroupMetaData, key: str) -> tuple[str, str] | None:
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == key and column.is_stats_set and column.statistics.has_min_max:
            return column.statistics.min, column.statistics.max
    return None


@contextlib.contextmanager
def _open_parquet(path: Path, name: str) -> Iterator[pq.ParquetFile]:
    """Open a file of table ``name``; what goes wrong until it is closed has a named error."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            check_file_schema(path, name, file.schema_arrow)
            yield file
    except FileNotFoundError as error:
        raise StoreError(
            f"{path} went away while the store was read (a compaction?): read again"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError(
            f"{path} cannot be read ({_get_first_line(error)}): restore it from version control, "
            "or delete it and record its rows again"
        ) from error


def check_file(path: Path, name: str) -> list[str]:
    """Return the names of a file's columns. Raises the errors of ``read_parquet`` that can be found
    without reading rows."""
    with _open_parquet(path, name) as file:
        return list(file.schema_arrow.names)


def _get_first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_file_schema(path: Path, name: str, schema: pa.Schema) -> None:
    """Raise SchemaVersionError or StoreError unless ``schema`` is the one of table ``name``."""
    metadata = schema.metadata or {}
    version = metadata.get(b"routerlib.schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise SchemaVersionError(
            f"{path} has schema version {version}, this code reads version {SCHEMA_VERSION}: "
            "use the release that wrote it, or record again"
        )
    table = metadata.get(b"routerlib.table", b"none").decode()
    if table != name:
        raise StoreError(f"{path} is a file of table {table!r} in the folder of {name!r}: move it")
    expected = make_schema(name, get_features(schema.names) if name == "problems" else ())
    expected = leave_out(expected, find_absent(name, schema.names))
    if not schema.equals(expected):
        different = sorted({str(f) for f in schema} ^ {str(f) for f in expected})
        raise StoreError(
            f"{path} has other columns than table {name} ({', '.join(different) or 'order'}): "
            "restore it from version control, or delete it and record its rows again"
        )


class StoreLock:
    """Exclusive right to change a store, held from construction to ``release``.

    It is a ``flock`` on ``writer.lock``, so it ends with its process, however that ends. The file
    itself stays. Raises StoreError when somebody else holds it or the folder cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self._descriptor: int | None = None
        with named_write_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(root / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._take(root, self._descriptor)
            except BaseException:
                os.close(self._descriptor)
                raise

    def _take(self, root: Path, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip() or "unknown"
            raise StoreError(
                f"{root} is being written by process {holder}: wait until it ends, or stop it"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Give the right back; a second call does nothing."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
