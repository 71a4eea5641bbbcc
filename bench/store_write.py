"""What the store costs: rows a second beside DuckDB's own COPY, and bytes a step by column.

The writer is used as the collector uses it: one row at a time, checked, journalled, flushed as it
comes. DuckDB gets the same rows as Arrow tables and writes one Parquet file a table.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.measurement import Measurement
from routerlib.records import State, Step
from routerlib.store import TraceWriter, load_table
from routerlib.store.files import list_files
from routerlib.store.schema import make_record, make_row, make_schema, make_table


def measure_store_write(
    root: Path, *, most_steps: int = 10_000, repetitions: int = 3
) -> list[Measurement]:
    """Return the writer's rows per second over those of COPY, for rows of the store at ``root``,
    and that store's bytes per step."""
    tables = load_rows(root, most_steps)
    count = len(tables["states"]) + len(tables["steps"])
    seconds: dict[str, list[float]] = {"writer": [], "copy": []}
    for _ in range(repetitions):
        seconds["writer"].append(time_writer(tables))
        seconds["copy"].append(time_copy(tables))
    rates = {name: count / statistics.median(times) for name, times in seconds.items()}
    columns = count_column_bytes(list_files(root, "steps"))
    columns.update(dict.fromkeys(make_schema("steps").names, 0))  # one that no file has takes none
    rows = load_table(root, "steps", columns=["id"]).num_rows
    per_step = {name: size / rows for name, size in columns.most_common()}
    return [
        Measurement(
            "store: rows/s of the writer over DuckDB's COPY",
            rates["writer"] / rates["copy"],
            detail={"rows": count, "rows_per_s": rates, "seconds": seconds},
        ),
        Measurement(
            "store: bytes a step in table steps",
            sum(per_step.values()),
            detail={"steps": rows, "bytes_per_step_by_column": per_step},
        ),
    ]


def load_rows(root: Path, most_steps: int) -> dict[str, list[Any]]:
    """Return the records of the first problems of a store, the last one whole."""
    problem_ids = load_table(root, "steps", columns=["problem_id"])["problem_id"][:most_steps]
    wanted = problem_ids.unique().to_pylist()
    tables: dict[str, list[Any]] = {}
    for name, key in (("problems", "id"), ("states", "problem_id"), ("steps", "problem_id")):
        rows = load_table(root, name, where=pc.field(key).isin(wanted)).to_pylist()
        tables[name] = [make_record(name, row) for row in rows]
    for name in ("models", "runs"):
        tables[name] = [make_record(name, row) for row in load_table(root, name).to_pylist()]
    return tables


def time_writer(tables: dict[str, list[Any]]) -> float:
    """Return the seconds to write states and steps; their problems are there before."""
    states: list[State] = tables["states"]
    steps: list[Step] = tables["steps"]
    with tempfile.TemporaryDirectory() as folder:
        with TraceWriter(Path(folder)) as writer:
            for problem in tables["problems"]:
                writer.add_problem(problem)
            for model in tables["models"]:
                writer.add_model(model)
            for run in tables["runs"]:
                writer.add_run(run)
            writer.flush()
            started = time.perf_counter()
            for state in states:
                writer.add_state(state)
            for step in steps:
                writer.add_step(step)
        return time.perf_counter() - started


def time_copy(tables: dict[str, list[Any]]) -> float:
    """Return the seconds that DuckDB takes to write the same rows."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        for name in ("states", "steps"):
            connection.register(name, make_table(name, [make_row(row) for row in tables[name]]))
        started = time.perf_counter()
        for name in ("states", "steps"):
            path = str(Path(folder) / f"{name}.parquet").replace("'", "''")
            connection.execute(f"COPY {name} TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        return time.perf_counter() - started


def count_column_bytes(paths: Sequence[Path]) -> Counter[str]:
    """Return the compressed bytes of each column of some Parquet files."""
    sizes: Counter[str] = Counter()
    for path in paths:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                sizes[column.path_in_schema.partition(".")[0]] += column.total_compressed_size
    return sizes
