"""SQL over the hand-made store: its values by hand, and that nothing can be changed."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from tiny import LARGE, SMALL, add_records, make_run, make_tiny_records

from routerlib.errors import ManifestMismatchError, StoreError
from routerlib.store import TraceWriter, build_database, open_store, query, verify
from routerlib.store.database import HELPER_VIEWS
from routerlib.store.schema import TABLES, make_schema


def test_solo_is_each_models_own_row(tiny_store: Path) -> None:
    frame = query(tiny_store, "SELECT * FROM solo").set_index("model_id")
    assert frame.loc[SMALL, "accuracy"] == pytest.approx(1 / 3)
    assert frame.loc[LARGE, "accuracy"] == pytest.approx(2 / 3)
    assert frame.loc[SMALL, "completion_tokens_per_problem"] == pytest.approx(16 / 3)
    assert frame.loc[LARGE, "completion_tokens_per_problem"] == pytest.approx(8)
    assert frame.loc[SMALL, "prompt_tokens_per_problem"] == pytest.approx(160 / 3)
    assert frame.loc[LARGE, "prompt_tokens_per_problem"] == pytest.approx(233 / 3)
    assert frame["problems"].tolist() == [3, 3]
    assert frame["incomplete_problems"].tolist() == [0, 0]


def test_solo_paths_of_one_problem(tiny_store: Path) -> None:
    frame = query(
        tiny_store,
        "SELECT model_id, steps, completion_tokens, prompt_tokens, is_correct, extracted_answer "
        "FROM solo_paths WHERE problem_id = 'tiny/test/0' ORDER BY steps",
    )
    assert frame.values.tolist() == [
        [SMALL, 2, 7, 65, False, "6"],
        [LARGE, 3, 10, 103, True, "5"],
    ]


def test_solo_says_what_is_incomplete(tmp_path: Path) -> None:
    with TraceWriter(tmp_path) as writer:
        add_records(writer, make_tiny_records()[:-4])  # the last state of problem 2 is missing
    frame = query(tmp_path, "SELECT model_id, problems, incomplete_problems, accuracy FROM solo")
    assert frame.values.tolist() == [[LARGE, 2, 1, 1.0], [SMALL, 3, 0, pytest.approx(1 / 3)]]


def test_answers(tiny_store: Path) -> None:
    frame = query(
        tiny_store,
        "SELECT problem_id, count(*), sum(is_correct::INT) FROM answers GROUP BY ALL ORDER BY ALL",
    )
    assert frame.values.tolist() == [
        ["tiny/test/0", 2, 1],
        ["tiny/test/1", 5, 3],
        ["tiny/test/2", 3, 2],
    ]


def test_agreement(tiny_store: Path) -> None:
    frame = query(
        tiny_store, "SELECT problem_id, depth, agrees FROM agreement ORDER BY problem_id, depth"
    )
    assert len(frame) == 10
    assert frame[frame["agrees"]][["problem_id", "depth"]].values.tolist() == [
        ["tiny/test/0", 0],
        ["tiny/test/0", 2],
        ["tiny/test/1", 2],
    ]


def test_tables_have_their_columns_even_when_empty(tiny_store: Path) -> None:
    with open_store(tiny_store) as connection:
        for name in TABLES:
            columns = [row[0] for row in connection.execute(f"DESCRIBE {name}").fetchall()]
            assert columns[: len(make_schema(name))] == make_schema(name).names
    assert query(tiny_store, "SELECT * FROM judgements").empty
    assert query(tiny_store, "SELECT first_token_texts[1] AS t FROM steps LIMIT 1")["t"][0]


def test_a_store_without_rows_has_all_views(tmp_path: Path) -> None:
    for view in (*TABLES, *HELPER_VIEWS):
        assert query(tmp_path, f"SELECT * FROM {view}").empty


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO steps SELECT * FROM steps",
        "DROP VIEW steps",
        "UPDATE steps SET text = ''",
        "CREATE TABLE other AS SELECT 1",
        "COPY steps TO 'steps.csv'",
        "EXPLAIN ANALYZE CREATE TABLE other AS SELECT 1",
        "ATTACH 'other.duckdb'",
        "SET threads = 1",
    ],
)
def test_query_reads_only(tiny_store: Path, sql: str) -> None:
    with pytest.raises(StoreError, match=r"read only.*is refused: use a SELECT"):
        query(tiny_store, sql)
    assert verify(tiny_store) == []


def test_query_says_what_is_wrong(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="one SQL statement, got 2"):
        query(tiny_store, "SELECT 1; DROP VIEW steps")
    with pytest.raises(StoreError, match=r"(?s)stepz.*tables are problems, models"):
        query(tiny_store, "SELECT * FROM stepz")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(StoreError, match="disabled by configuration"):
        query(tiny_store, f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')")
    with pytest.raises(StoreError, match="there is no store"):
        query(tmp_path / "nowhere", "SELECT 1")


def test_query_checks_the_manifest(tiny_store: Path) -> None:
    path = tiny_store / "states" / "states-000.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ManifestMismatchError, match="states-000"):
        query(tiny_store, "SELECT * FROM problems")


def test_database_opens_without_routerlib(tiny_store: Path) -> None:
    path = build_database(tiny_store)
    assert path == build_database(tiny_store) == tiny_store / "traces.duckdb"
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM steps").fetchone() == (20,)
        assert connection.execute("SELECT sum(problems) FROM solo").fetchone() == (6,)
    assert verify(tiny_store) == []


def test_database_shows_rows_added_later(tiny_store: Path) -> None:
    path = build_database(tiny_store)
    with TraceWriter(tiny_store) as writer:
        writer.add_run(make_run("later"))
    with duckdb.connect(str(path), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)


def test_a_run_is_one_row(tmp_path: Path) -> None:
    with TraceWriter(tmp_path) as writer:
        writer.add_run(make_run(ended_at=None))
        writer.flush()
        writer.add_run(make_run())
    assert query(tmp_path, "SELECT ended_at FROM runs")["ended_at"].tolist() == [
        "2025-01-01T00:01:00+00:00"
    ]
