"""SQL over the store: views over its Parquet files, and those of ``views``.

The only module that imports duckdb. Invariants: nothing here changes the store; a connection can
read no file outside it and its settings cannot be changed. Rows that several shards hold (those of
two machines put together) are one row only after compaction.
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa

from routerlib.errors import StoreError
from routerlib.store.files import check_file, list_files, named_write_errors
from routerlib.store.reading import check_store
from routerlib.store.schema import OPTIONAL_COLUMNS, TABLES, find_absent, make_schema
from routerlib.store.views import HELPER_VIEWS

DATABASE_NAME = "traces.duckdb"

_SQL_TYPES = {
    "string": "VARCHAR",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
}

# Shards may hold a run twice: when it started and when it ended.
_LATEST_RUN = "QUALIFY row_number() OVER (PARTITION BY id ORDER BY ended_at DESC NULLS LAST) = 1"


def open_store(root: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection whose views show the store at ``root``; close it after use.

    It lives in memory and can read nothing outside ``root``. Files are compared with the manifest
    by name and size: re-hashing a large store would take longer than its queries. Errors as
    ``load_table``.
    """
    connection = duckdb.connect()
    try:
        _create_views(connection, root)
        folder = str(root.resolve()).replace("'", "''")
        connection.execute(f"SET allowed_directories = ['{folder}']")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def build_database(root: Path) -> Path:
    """Write ``traces.duckdb``, a database of the same views, for the duckdb command line and other
    tools, and return its path.

    The views name the Parquet files by this machine's paths and show what is there when they are
    used: build it again after moving the store, and when a table got its first rows or a new
    column. Raises StoreError when it cannot be written (the store, and a database from before,
    stay as they are), and the errors of ``load_table``.
    """
    check_store(root, TABLES)
    path = root / DATABASE_NAME
    hidden = path.with_name(f".{DATABASE_NAME}.{os.getpid()}.new")
    with named_write_errors(root):
        _remove_database(hidden)
        try:
            _write_database(hidden, root)
            hidden.replace(path)
        finally:
            _remove_database(hidden)
    return path


def _write_database(path: Path, root: Path) -> None:
    try:
        with duckdb.connect(str(path)) as connection:
            _create_views(connection, root)
            connection.execute("CHECKPOINT")  # closing does the same, but does not say if it fails
    except duckdb.Error as error:
        raise StoreError(
            f"{root / DATABASE_NAME} cannot be written ({error}): make space there, or allow this "
            "user to write there, and build it again; the store is as it was"
        ) from error


def _remove_database(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)


def query(root: Path, sql: str) -> pd.DataFrame:
    """Return the result of one read-only SQL statement over the store.

    Raises StoreError for a statement that is not a SELECT (WITH, DESCRIBE, SHOW and SUMMARIZE
    count as one) or that fails, and the errors of ``load_table``.
    """
    with open_store(root) as connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1:
                raise StoreError(f"give one SQL statement, got {len(statements)} in {sql!r:.200}")
            kind = statements[0].type
            if kind != duckdb.StatementType.SELECT:
                raise StoreError(
                    f"the store is read only, so {kind.name} is refused: use a SELECT, "
                    f"got {sql!r:.200}"
                )
            return connection.execute(statements[0]).df()
        except duckdb.Error as error:
            raise StoreError(
                f"SQL failed: {error}\nThe tables are {', '.join((*TABLES, *HELPER_VIEWS))}"
            ) from error


def _create_views(connection: duckdb.DuckDBPyConnection, root: Path) -> None:
    check_store(root, TABLES, contents=False)
    for name in TABLES:
        connection.execute(f"CREATE VIEW {name} AS {_make_select(root, name)}")
    for name, sql in HELPER_VIEWS.items():
        connection.execute(f"CREATE VIEW {name} AS {sql}")


def _make_select(root: Path, name: str) -> str:
    """SQL that selects all rows of a table: its files as they are now, or a table without rows."""
    paths = list_files(root, name)
    if not paths:
        return f"SELECT {', '.join(map(_make_null, make_schema(name)))} WHERE false"
    columns = {column for path in paths for column in check_file(path, name)}  # named errors first
    pattern = str(root.resolve() / name / "*.parquet").replace("'", "''")
    latest = _LATEST_RUN if name == "runs" else ""
    # To unite columns duckdb opens every file first, so only where files may have others.
    absent = find_absent(name, columns)
    may_differ = name == "problems" or len(absent) < len(OPTIONAL_COLUMNS.get(name, ()))
    unite = "true" if may_differ else "false"
    empty = "".join(f", {_make_null(make_schema(name).field(column))}" for column in absent)
    return f"SELECT *{empty} FROM read_parquet('{pattern}', union_by_name = {unite}) {latest}"


def _make_null(field: pa.Field) -> str:
    return f"NULL::{_get_sql_type(str(field.type))} AS {field.name}"


def _get_sql_type(arrow_type: str) -> str:
    if arrow_type.startswith("list<"):
        element = arrow_type.removesuffix(">").split(": ")[1].removesuffix(" not null")
        return f"{_SQL_TYPES[element]}[]"
    return _SQL_TYPES[arrow_type]
