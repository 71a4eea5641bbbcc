"""What a table of the store looks like: Arrow schemas, keys, and records to rows and back.

Invariants: a file holds exactly the columns of its table's schema, and says in its metadata which
table and which schema version it belongs to, nothing else (no time, no machine), so that equal
rows give equal bytes; of ``OPTIONAL_COLUMNS`` it holds those in which a row has a value.
Log-probabilities and latencies are rounded to ``DECIMALS`` decimals and kept as float32;
everything else is kept exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeAlias

import pyarrow as pa

from routerlib.errors import StoreError
from routerlib.records import (
    SCHEMA_VERSION,
    Choice,
    Judgement,
    ModelCard,
    ProblemRow,
    ProblemText,
    PromptScore,
    Run,
    State,
    Step,
)

Record: TypeAlias = (
    ProblemRow | ProblemText | ModelCard | PromptScore | State | Step | Choice | Judgement | Run
)
Row: TypeAlias = dict[str, Any]

DECIMALS = 4
FEATURE_PREFIX = "feature_"

# In the order in which they are written: a row's targets come before it.
RECORDS: Mapping[str, type[Any]] = {
    "problems": ProblemRow,
    "problem_texts": ProblemText,
    "models": ModelCard,
    "prompt_scores": PromptScore,
    "runs": Run,
    "states": State,
    "steps": Step,
    "choices": Choice,
    "judgements": Judgement,
}
TABLES: tuple[str, ...] = tuple(RECORDS)

PRIMARY_KEYS: Mapping[str, tuple[str, ...]] = {
    "problems": ("id",),
    "problem_texts": ("problem_id",),
    "models": ("id",),
    "prompt_scores": ("problem_id", "model_id"),
    "runs": ("id",),
    "states": ("id",),
    "steps": ("id", "attempt"),
    "choices": ("step_id", "behaviour"),
    "judgements": ("step_id", "judge_model_id", "question"),
}

_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int32(), pa.float64(), pa.bool_()


def _list_of(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False))


# A column whose type is followed by None may be null.
_COLUMNS: Mapping[str, Mapping[str, pa.DataType | tuple[pa.DataType, None]]] = {
    "problems": {
        "id": _TEXT,
        "benchmark": _TEXT,
        "split": _TEXT,
        "text_sha256": _TEXT,
        "subject": (_TEXT, None),
        "level": (_TEXT, None),
    },
    "problem_texts": {
        "problem_id": _TEXT,
        "text": _TEXT,
        "answer": _TEXT,
    },
    "prompt_scores": {
        "problem_id": _TEXT,
        "model_id": _TEXT,
        "tokens": _WHOLE,
        "logprob": _REAL,
    },
    "models": {
        "id": _TEXT,
        "provider": _TEXT,
        "family": _TEXT,
        "parameters": pa.int64(),
        "quantisation": _TEXT,
        "weights_sha256": (_TEXT, None),
        "licence": _TEXT,
        "context_length": pa.int64(),
        "input_usd_per_mtok": (_REAL, None),
        "cached_input_usd_per_mtok": (_REAL, None),
        "output_usd_per_mtok": (_REAL, None),
        "price_date": (_TEXT, None),
        "price_source": (_TEXT, None),
    },
    "runs": {
        "id": _TEXT,
        "started_at": _TEXT,
        "ended_at": (_TEXT, None),
        "configuration": _TEXT,
        "code_version": _TEXT,
        "machine": _TEXT,
        "library_versions": _TEXT,
        "plan": _TEXT,
        "spent_usd": (_REAL, None),
    },
    "states": {
        "id": _TEXT,
        "problem_id": _TEXT,
        "depth": _WHOLE,
        "text": _TEXT,
        "is_terminal": _FLAG,
        "extracted_answer": (_TEXT, None),
        "is_correct": (_FLAG, None),
    },
    "steps": {
        "id": _TEXT,
        "attempt": _WHOLE,
        "run_id": _TEXT,
        "problem_id": _TEXT,
        "state_id": _TEXT,
        "model_id": _TEXT,
        "kind": _TEXT,
        "sample_index": _WHOLE,
        "prompt_version": _TEXT,
        "temperature": _REAL,
        "max_tokens": _WHOLE,
        "next_state_id": (_TEXT, None),
        "text": (_TEXT, None),
        "ended_by": (_TEXT, None),
        "completion_tokens": _WHOLE,
        "prompt_tokens": _WHOLE,
        "cached_prompt_tokens": _WHOLE,
        "shared_prompt_tokens": _WHOLE,
        "finish_reason": (_TEXT, None),
        "token_logprobs": _list_of(pa.float32()),
        "first_token_texts": _list_of(_TEXT),
        "first_token_logprobs": _list_of(pa.float32()),
        "latency_s": pa.float32(),
        "retries": _WHOLE,
        "requested_model": _TEXT,
        "returned_model": (_TEXT, None),
        "request_id": (_TEXT, None),
        "error": (_TEXT, None),
        "reasoning_tokens": (_WHOLE, None),
        "doubtful_tries": (_WHOLE, None),
    },
    "choices": {
        "step_id": _TEXT,
        "behaviour": _TEXT,
        "probability": _REAL,
    },
    "judgements": {
        "step_id": _TEXT,
        "judge_model_id": _TEXT,
        "question": _TEXT,
        "score": _REAL,
        "prompt_tokens": _WHOLE,
        "shared_prompt_tokens": _WHOLE,
        "completion_tokens": _WHOLE,
        "latency_s": pa.float32(),
    },
}


# Columns that came after the first recordings. A file in which no row has a value leaves them out,
# so files from before them are what would be written today; in memory every table has them.
OPTIONAL_COLUMNS: Mapping[str, tuple[str, ...]] = {"steps": ("reasoning_tokens", "doubtful_tries")}


def get_key(name: str, record: Record) -> tuple[str, ...]:
    """Return what tells a record of a table from the others: its primary key's values."""
    return tuple(getattr(record, column) for column in PRIMARY_KEYS[name])


def check_table_name(name: str) -> None:
    """Raise StoreError unless ``name`` is a table of the store."""
    if name not in RECORDS:
        raise StoreError(f"unknown table {name!r}: use one of {', '.join(TABLES)}")


def make_schema(name: str, features: Iterable[str] = ()) -> pa.Schema:
    """Return a table's Arrow schema. ``features`` names the problem features, for ``problems``.

    >>> make_schema("choices").names
    ['step_id', 'behaviour', 'probability']
    """
    check_table_name(name)
    return _make_schema(name, tuple(sorted(set(features))))


@cache
def _make_schema(name: str, features: tuple[str, ...]) -> pa.Schema:
    columns = [
        pa.field(column, kind[0] if isinstance(kind, tuple) else kind, isinstance(kind, tuple))
        for column, kind in _COLUMNS[name].items()
    ]
    columns += [pa.field(FEATURE_PREFIX + feature, _REAL) for feature in features]
    metadata = {"routerlib.table": name, "routerlib.schema_version": str(SCHEMA_VERSION)}
    return pa.schema(columns, metadata=metadata)


def leave_out(schema: pa.Schema, columns: Iterable[str]) -> pa.Schema:
    """Return a schema without some of its columns."""
    left_out = set(columns)
    return pa.schema([f for f in schema if f.name not in left_out], metadata=schema.metadata)


def find_absent(name: str, columns: Iterable[str]) -> list[str]:
    """Return the optional columns of a table that are not among ``columns``, those of a file."""
    present = set(columns)
    return [column for column in OPTIONAL_COLUMNS.get(name, ()) if column not in present]


def drop_empty_columns(table: pa.Table) -> pa.Table:
    """Return a table of the store without the optional columns in which no row has a value."""
    name = (table.schema.metadata or {}).get(b"routerlib.table", b"").decode()
    optional = [c for c in OPTIONAL_COLUMNS.get(name, ()) if c in table.column_names]
    empty = [c for c in optional if table[c].null_count == table.num_rows]
    return table.drop_columns(empty) if empty else table


def get_features(columns: Iterable[str]) -> list[str]:
    """Return the names of the problem features among the columns of ``problems``."""
    return [c.removeprefix(FEATURE_PREFIX) for c in columns if c.startswith(FEATURE_PREFIX)]


def make_row(record: Record) -> Row:
    """Return a record as a row: one value per column, in the precision that is stored."""
    row = {field.name: getattr(record, field.name) for field in fields(record)}
    if isinstance(record, ProblemRow):
        features = row.pop("features")
        row |= {FEATURE_PREFIX + name: float(value) for name, value in features.items()}
    elif isinstance(record, Step):
        top = row.pop("first_token_top")
        row["token_logprobs"] = [round(value, DECIMALS) for value in record.token_logprobs]
        row["first_token_texts"] = [text for text, _ in top]
        row["first_token_logprobs"] = [round(value, DECIMALS) for _, value in top]
        row["latency_s"] = round(record.latency_s, DECIMALS)
    elif isinstance(record, Judgement):
        row["latency_s"] = round(record.latency_s, DECIMALS)
    return row


def make_record(name: str, row: Row) -> Any:
    """Return the record (``RECORDS[name]``) that a row of a table holds; floats that are stored
    as float32 come back rounded to ``DECIMALS`` decimals."""
    values = dict(row)
    if name == "problems":
        features = {feature: values.pop(FEATURE_PREFIX + feature) for feature in get_features(row)}
        values["features"] = {k: v for k, v in features.items() if v is not None}
    elif name == "steps":
        texts, logprobs = values.pop("first_token_texts"), values.pop("first_token_logprobs")
        values["first_token_top"] = tuple(zip(texts, map(_round, logprobs), strict=True))
        values["token_logprobs"] = tuple(map(_round, values["token_logprobs"]))
        values["latency_s"] = _round(values["latency_s"])
    elif name == "judgements":
        values["latency_s"] = _round(values["latency_s"])
    return RECORDS[name](**values)


def _round(value: float) -> float:
    return round(value, DECIMALS)


def make_table(name: str, rows: Sequence[Row]) -> pa.Table:
    """Return rows as an Arrow table with the schema of ``name``.

    Raises StoreError for a value of the wrong type and for a null where none may be.
    """
    features = {feature for row in rows for feature in get_features(row)}
    schema = make_schema(name, features if name == "problems" else ())
    try:
        table = pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowException, TypeError, UnicodeEncodeError) as error:
        raise StoreError(f"a row does not fit table {name}: {error}") from error
    for column in schema:
        if not column.nullable and table[column.name].null_count:
            row = next(row for row in rows if row.get(column.name) is None)
            raise StoreError(f"{name}.{column.name} must have a value, got None in {row!r:.200}")
    return table
