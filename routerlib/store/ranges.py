"""The rows of a table by ranges of a text column, for work on more rows than memory holds.

Invariants: a range holds all rows of its keys, from whichever file, so what concerns rows of one
key can be done range by range; one range is in memory at a time; the store does not change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from routerlib.store.files import (
    KeyRange,
    is_shard,
    iterate_batches,
    iterate_range,
    named_write_errors,
    read_span,
)
from routerlib.store.schema import PRIMARY_KEYS, make_schema

# Rows of one problem or step are together in a range of this column.
RANGE_KEYS: Mapping[str, str] = {
    "states": "problem_id",
    "steps": "problem_id",
    "choices": "step_id",
    "judgements": "step_id",
}
ROWS_PER_RANGE = 50_000
_IDS_PER_RANGE = 500_000
_ID_DIGITS = 4  # ids are hashes: so many digits split them finely and evenly


def make_ranges(counts: Mapping[str, int], most: int) -> list[KeyRange]:
    """Return ranges that cover all keys and hold ``most`` rows each or one key of ``counts``.

    >>> make_ranges({"a": 2, "c": 1, "d": 3}, 3)
    [KeyRange(first='', end='d'), KeyRange(first='d', end=None)]
    """
    starts, rows = [""], 0
    for key in sorted(counts):
        if rows and rows + counts[key] > most:
            starts.append(key)
            rows = 0
        rows += counts[key]
    return [KeyRange(*ends) for ends in zip(starts, [*starts[1:], None], strict=True)]


def count_keys(name: str, key: str, tables: Iterable[pa.Table | pa.RecordBatch]) -> Counter[str]:
    """Return how many rows have each key; of the ids of steps and states their first digits
    stand for them, because there are too many."""
    counts: Counter[str] = Counter()
    for table in tables:
        column = table[key]
        if key in ("id", "step_id") and name != "problems":
            column = pc.utf8_slice_codeunits(column, 0, _ID_DIGITS)
        for entry in pc.value_counts(column).to_pylist():
            counts[entry["values"]] += entry["counts"]
    return counts


def count_file_keys(name: str, key: str, paths: Iterable[Path]) -> Counter[str]:
    """Return ``count_keys`` of files. Errors as ``read_parquet``."""
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(count_keys(name, key, iterate_batches(path, name, [key])))
    return counts


class RangedTable:
    """The rows of some files of table ``name`` by ranges of its column ``key``.

    Compacted files are ordered, so a range is in few of them and is read where it is. Rows of
    shards are first sorted into one file per range, in ``folder``, once. Errors as
    ``read_parquet``, and StoreError when the folder cannot be written.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        key: str,
        ranges: Sequence[KeyRange],
        folder: Path,
    ) -> None:
        self._name, self._key, self._ranges, self._folder = name, key, ranges, folder
        self._spans = {path: read_span(path, name, key) for path in paths if not is_shard(path)}
        self._sort_shards([path for path in paths if is_shard(path)])

    def _sort_shards(self, shards: Iterable[Path]) -> None:
        waiting: list[pa.RecordBatch] = []
        for path in shards:
            waiting += iterate_batches(path, self._name)
            if sum(batch.num_rows for batch in waiting) >= ROWS_PER_RANGE:
                self._append(pa.Table.from_batches(waiting))
                waiting = []
        if waiting:
            self._append(pa.Table.from_batches(waiting))

    def _append(self, table: pa.Table) -> None:
        starts = [keys.first for keys in self._ranges]
        numbers = [bisect_right(starts, key) - 1 for key in table[self._key].to_pylist()]
        for number in set(numbers):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table.filter(pc.equal(pa.array(numbers), number)))
            with named_write_errors(self._folder), self._get_place(number).open("ab") as file:
                file.write(sink.getvalue())

    def _get_place(self, number: int) -> Path:
        return self._folder / f"{self._name}-{number}.arrows"

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of the range ``number``, nothing merged."""
        keys, name = self._ranges[number], self._name
        tables = [make_schema(name).empty_table()]
        tables += _read_streams(self._get_place(number))
        if columns is not None:
            tables = [table.select(list(columns)) for table in tables]
        for path, span in self._spans.items():
            if span is None or keys.overlaps(*span):
                tables += iterate_range(path, name, columns, self._key, keys)
        return pa.concat_tables(tables)


def _read_streams(path: Path) -> Iterator[pa.Table]:
    """The tables that were appended to a file."""
    if path.exists():
        source = pa.BufferReader(path.read_bytes())
        while source.tell() < source.size():
            yield pa.ipc.open_stream(source).read_all()


def iterate_ids(
    name: str, paths: Sequence[Path], columns: Sequence[str], key: str, ranges: Iterable[KeyRange]
) -> Iterator[pa.Table]:
    """Yield some columns of each range in turn, read from all files each time: for few columns.
    Errors as ``read_parquet``."""
    schema = make_schema(name)
    for keys in ranges:
        tables = [schema.empty_table().select(list(columns))]
        for path in paths:
            tables += iterate_range(path, name, columns, key, keys)
        yield pa.concat_tables(tables)


def make_id_ranges(paths: Mapping[str, Sequence[Path]], keys: Mapping[str, str]) -> list[KeyRange]:
    """Return ranges of step or state ids (table -> column with them), for all tables alike."""
    counts: Counter[str] = Counter()
    for name, key in keys.items():
        counts.update(count_file_keys(name, key, paths[name]))
    return make_ranges(counts, _IDS_PER_RANGE)


def find_shared_keys(name: str, paths: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """Yield each primary key of ``states`` or ``steps`` that rows of several problems have, and
    the number of its rows. An id names its problem, so a sound store has none."""
    keys = list(PRIMARY_KEYS[name])
    ranges = make_id_ranges({name: paths}, {name: "id"})
    for table in iterate_ids(name, paths, [*keys, "problem_id"], "id", ranges):
        counts = table.group_by(keys).aggregate([("problem_id", "count")])
        repeated = counts.filter(pc.greater(counts["problem_id_count"], 1))["id"].combine_chunks()
        rows = table.filter(pc.is_in(table["id"], repeated))
        found = rows.group_by(keys).aggregate(
            [("problem_id", "count"), ("problem_id", "count_distinct")]
        )
        for row in found.to_pylist():
            if row["problem_id_count_distinct"] > 1:
                yield ", ".join(str(row[key]) for key in keys), row["problem_id_count"]
