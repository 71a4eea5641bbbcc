"""The trace store: Parquet files that are recorded once, checked always, and queried with SQL.

Modules: ``schema`` (tables), ``files`` (one file), ``manifest`` (which files), ``writer`` (append
rows), ``journal`` (rows that no crash loses), ``index`` (what is recorded of some problems),
``reading`` (tables), ``ranges`` (tables larger than memory), ``compaction`` (few ordered files),
``database`` (SQL; the only module that imports duckdb), ``verification``, ``contents`` and
``links`` (every problem of a store), ``subset`` (some problems as a store of their own).
"""

from routerlib.store.compaction import compact
from routerlib.store.database import build_database, open_store, query
from routerlib.store.index import TraceIndex
from routerlib.store.reading import load_problem_texts, load_table
from routerlib.store.subset import copy_problems
from routerlib.store.verification import verify
from routerlib.store.writer import TraceWriter

__all__ = [
    "TraceIndex",
    "TraceWriter",
    "build_database",
    "compact",
    "copy_problems",
    "load_problem_texts",
    "load_table",
    "open_store",
    "query",
    "verify",
]
