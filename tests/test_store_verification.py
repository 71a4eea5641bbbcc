"""Every kind of damage is found, named and given a remedy; none hides another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import make_problems, make_run, make_state, make_tiny_records

from routerlib.errors import (
    CorruptFileError,
    ManifestMismatchError,
    SchemaVersionError,
    StoreError,
)
from routerlib.records import Choice, Judgement, ProblemText, PromptScore, State, Step
from routerlib.store import TraceWriter, compact, contents, load_table, ranges, verify
from routerlib.store.contents import find_content_problems
from routerlib.store.files import make_shard_name, read_parquet, write_parquet
from routerlib.store.links import find_row_problems
from routerlib.store.schema import TABLES, Row, make_row, make_schema, make_table

Tables = dict[str, list[Row]]


def get_file(root: Path, name: str) -> Path:
    return root / name / f"{name}-000.parquet"


def make_rows() -> Tables:
    rows: Tables = {name: [] for name in TABLES}
    names = {"ProblemRow": "problems", "ModelCard": "models", "Run": "runs"}
    for record in make_tiny_records():
        kind = type(record).__name__
        rows[names.get(kind, kind.lower() + "s")].append(make_row(record))
    unique = {row["id"]: row for row in rows["states"]}
    return rows | {"states": list(unique.values())}


def test_a_sound_store_has_no_problems(tiny_store: Path) -> None:
    assert verify(tiny_store) == []
    assert find_row_problems(make_rows()) == []


def test_truncated_file(tiny_store: Path) -> None:
    path = get_file(tiny_store, "states")
    path.write_bytes(path.read_bytes()[:-200])
    lines = verify(tiny_store)
    assert lines[0].startswith(f"{path} has")
    assert any(f"{path} cannot be read" in line for line in lines)
    assert any("states: could not be read in full" in line for line in lines)
    assert len(lines) == 3  # no line for every step whose state is gone
    with pytest.raises(ManifestMismatchError, match=r"bytes, the manifest says"):
        load_table(tiny_store, "states")


@pytest.mark.parametrize("keep", [0, 3, 100, -4])
def test_truncated_shard(tiny_store: Path, keep: int) -> None:
    """A shard is in no manifest, so only its own bytes can tell."""
    shard = tiny_store / "runs" / make_shard_name()
    shard.write_bytes(get_file(tiny_store, "runs").read_bytes()[:keep])
    for reader in (lambda: load_table(tiny_store, "runs"), lambda: TraceWriter(tiny_store)):
        with pytest.raises(CorruptFileError, match=r"cannot be read .*restore it from version"):
            reader()
    assert any(f"{shard} cannot be read" in line for line in verify(tiny_store))


def test_damaged_page_of_a_shard(tiny_store: Path) -> None:
    data = bytearray(get_file(tiny_store, "steps").read_bytes())
    data[60] ^= 0xFF
    (tiny_store / "steps" / make_shard_name()).write_bytes(bytes(data))
    with pytest.raises(CorruptFileError):
        load_table(tiny_store, "steps")


def test_a_file_that_goes_away_while_it_is_read(tiny_store: Path) -> None:
    with pytest.raises(StoreError, match="went away while the store was read"):
        read_parquet(tiny_store / "steps" / "steps-001.parquet", "steps")


def test_tampered_byte(tiny_store: Path) -> None:
    path = get_file(tiny_store, "steps")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ManifestMismatchError, match=r"steps-000.parquet has SHA-256 \w+, the"):
        load_table(tiny_store, "steps")
    assert any("has SHA-256" in line for line in verify(tiny_store))


def test_recording_more_does_not_heal_a_tampered_file(tiny_store: Path) -> None:
    writer = TraceWriter(tiny_store)
    path = get_file(tiny_store, "models")
    path.write_bytes(path.read_bytes() + b" ")
    writer.add_run(make_run("later"))
    writer.close()
    assert any(f"{path} has" in line for line in verify(tiny_store))


def test_other_schema_version_of_a_file(tiny_store: Path) -> None:
    table = pq.read_table(get_file(tiny_store, "runs"))
    metadata = table.schema.metadata | {b"routerlib.schema_version": b"99"}
    shard = tiny_store / "runs" / make_shard_name()
    write_parquet(shard, table.replace_schema_metadata(metadata))
    with pytest.raises(SchemaVersionError, match="version 99, this code reads version 1"):
        load_table(tiny_store, "runs")
    assert any("schema version 99" in line for line in verify(tiny_store))


def test_other_schema_version_of_the_manifest(tiny_store: Path) -> None:
    path = tiny_store / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(SchemaVersionError, match=r"manifest.json has schema version 99"):
        load_table(tiny_store, "runs")
    with pytest.raises(SchemaVersionError, match="schema version 99"):
        TraceWriter(tiny_store)
    assert any("schema version 99" in line for line in verify(tiny_store))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', "null"])
def test_a_manifest_that_is_none(tiny_store: Path, text: str) -> None:
    (tiny_store / "manifest.json").write_text(text)
    with pytest.raises(ManifestMismatchError, match="is not a manifest"):
        load_table(tiny_store, "runs")
    assert any("is not a manifest" in line for line in verify(tiny_store))


def test_foreign_files(tiny_store: Path) -> None:
    runs = get_file(tiny_store, "runs").read_bytes()
    wrong_table = tiny_store / "models" / make_shard_name()
    wrong_table.write_bytes(runs)
    with pytest.raises(StoreError, match="is a file of table 'runs' in the folder of 'models'"):
        load_table(tiny_store, "models")
    (tiny_store / "runs" / "extra.parquet").write_bytes(runs)
    with pytest.raises(ManifestMismatchError, match=r"extra.parquet is not in the manifest"):
        load_table(tiny_store, "runs")
    (tiny_store / "other").mkdir()
    (tiny_store / "other" / "a.parquet").write_bytes(runs)
    columns = pa.table({"id": ["a"]}).replace_schema_metadata(make_schema("states").metadata)
    write_parquet(tiny_store / "states" / make_shard_name(), columns)
    with pytest.raises(StoreError, match="has other columns than table states"):
        load_table(tiny_store, "states")
    lines = verify(tiny_store)
    for expected in (
        "in the folder of 'models'",
        "extra.parquet is not in the manifest: delete the file",
        "other is no table of the store",
        "other columns than table states",
    ):
        assert any(expected in line for line in lines), expected


def test_row_count_of_the_manifest(tiny_store: Path) -> None:
    path = tiny_store / "manifest.json"
    content = json.loads(path.read_text())
    content["tables"]["runs"]["files"]["runs-000.parquet"]["rows"] = 2
    path.write_text(json.dumps(content))
    assert ["has 1 rows, the manifest says 2" in line for line in verify(tiny_store)] == [True]


def test_deleted_files_and_more_are_all_listed(tiny_store: Path) -> None:
    get_file(tiny_store, "models").unlink()
    path = get_file(tiny_store, "states")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ManifestMismatchError, match=r"models-000.parquet is in the manifest and"):
        TraceWriter(tiny_store)
    with pytest.raises(ManifestMismatchError, match=r"1 more; `routerlib verify` lists them"):
        compact(tiny_store)
    lines = verify(tiny_store)
    assert any("models-000.parquet is in the manifest and not on the disk" in x for x in lines)
    assert any("states-000.parquet has" in line for line in lines)
    assert sum("which is not a row of models" in line for line in lines) == 20
    assert verify(tiny_store / "nowhere")[0].endswith("record one with `routerlib collect`")


def change(table: str, **values: Any) -> Callable[[Tables], None]:
    """Change the first row of a table."""

    def apply(rows: Tables) -> None:
        rows[table][0] |= values

    return apply


def change_last(table: str, **values: Any) -> Callable[[Tables], None]:
    def apply(rows: Tables) -> None:
        rows[table][-1] |= values

    return apply


def add(table: str, *records: Any) -> Callable[[Tables], None]:
    def apply(rows: Tables) -> None:
        rows[table] += [make_row(record) for record in records]

    return apply


FIRST_STEP = next(record for record in make_tiny_records() if isinstance(record, Step))
LAST_STATE = [record for record in make_tiny_records() if isinstance(record, State)][-1]
ERROR_ROW = replace(FIRST_STEP, error="timeout", text=None, next_state_id=None)
BARE_STATE = make_state(make_problems()[0], "never\n")
OTHER_PROBLEM = make_state(make_problems()[1], "2 + 3 = 5\n")


DAMAGES: list[tuple[Callable[[Tables], None], str]] = [
    (change("steps", next_state_id="gone"), "points at 'gone', which is not a row of states"),
    (change("steps", state_id="gone"), "points at 'gone', which is not a row of states"),
    (change("steps", model_id="gone"), "points at 'gone', which is not a row of models"),
    (change("steps", run_id="gone"), "points at 'gone', which is not a row of runs"),
    (change("steps", problem_id="gone"), "points at 'gone', which is not a row of problems"),
    (change("steps", problem_id="tiny/test/1"), "is of problem tiny/test/1, its state of"),
    (change("steps", text="else\n"), "is not that of state"),
    (change("steps", text=None), "has no error and no text or next state"),
    (change("steps", error="timeout"), "failed ('timeout') and has text '2 + 3"),
    (change("steps", error="timeout"), "failed ('timeout') and has next_state_id"),
    (change("steps", temperature=1.0), "its content has the id"),
    (change("steps", sample_index=1), "its content has the id"),
    (change("steps", max_tokens=7), "its content has the id"),
    (change("steps", prompt_version="other"), "its content has the id"),
    (change("steps", completion_tokens=-1), "has completion_tokens -1"),
    (change("steps", cached_prompt_tokens=31), "has 31 cached of 30 prompt tokens"),
    (change("steps", doubtful_tries=0), "has doubtful_tries 0, which is above 0 or missing"),
    (change("steps", first_token_texts=[]), "of different lengths"),
    (change("steps", kind="tail"), "is a tail and next state"),
    (change("steps", attempt=1), "has attempts [1], so a row is missing"),
    (add("steps", FIRST_STEP), "2 rows have this key"),
    (add("steps", replace(FIRST_STEP, attempt=1)), "succeeded at attempts [0, 1]"),
    (add("steps", replace(ERROR_ROW, attempt=1)), "was tried again after it succeeded"),
    (add("steps", replace(FIRST_STEP, state_id=LAST_STATE.id)), "which is terminal"),
    (change_last("states", is_correct=None), "is terminal and has no is_correct"),
    (change("states", is_correct=True), "is not terminal and has is_correct True"),
    (change("states", extracted_answer="5"), "is not terminal and has an answer '5'"),
    (change("states", problem_id="gone"), "points at 'gone', which is not a row of problems"),
    (change("states", text="changed"), "its content has the id"),
    (change("states", depth=-1), "has depth -1"),
    (change("runs", configuration="{}"), "is not JSON with a text 'delimiter'"),
    (change("runs", configuration="no"), "is not JSON with a text 'delimiter'"),
    (change("runs", configuration='{"delimiter": "x"}'), "its content has the id"),
    (
        add("judgements", Judgement("gone", "tiny-small", "useful", 0.5, 1, 0, 1)),
        "has no successful row",
    ),
    (
        add("judgements", Judgement(FIRST_STEP.id, "no", "useful", 0.5, 1, 0, 1)),
        "not a row of models",
    ),
    (
        add("judgements", Judgement(FIRST_STEP.id, "tiny-small", "useful", 2.0, 1, 0, 1)),
        "score 2.0",
    ),
    (
        add("judgements", Judgement(FIRST_STEP.id, "tiny-small", "useful", 1, -1, 0, 1)),
        "has prompt_tokens -1",
    ),
    (add("choices", Choice("gone", "random", 0.5)), "has no successful row"),
    (add("choices", Choice(FIRST_STEP.id, "random", 0.0)), "has probability 0.0, outside"),
    (add("prompt_scores", PromptScore("gone", "tiny-small", 3, -1.0)), "not a row of problems"),
    (
        add("prompt_scores", PromptScore(FIRST_STEP.problem_id, "tiny-small", 3, 1.0)),
        "log-probability 1.0 over 3",
    ),
    (add("problem_texts", ProblemText("gone", "?", "1")), "not a row of problems"),
    (
        add("problem_texts", ProblemText(FIRST_STEP.problem_id, "Another?", "1")),
        "is not the text whose SHA-256",
    ),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES)
def test_rows_that_do_not_fit(damage: Callable[[Tables], None], expected: str) -> None:
    rows = make_rows()
    damage(rows)
    lines = find_row_problems(rows)
    assert any(expected in line for line in lines), lines
    assert all(": " in line for line in lines)


def write_rows(root: Path, rows: Tables) -> dict[str, list[Path]]:
    """One file a table; return the files of each."""
    paths = {}
    for name, table in rows.items():
        path = root / name / f"{name}-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(make_table(name, table), path)
        paths[name] = [path]
    return paths


def test_problem_by_problem_the_same_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_ROWS_PER_RANGE", 1)
    monkeypatch.setattr(ranges, "_IDS_PER_RANGE", 1)
    for number, (damage, _) in enumerate(DAMAGES):
        rows = make_rows()
        damage(rows)
        paths = write_rows(tmp_path / str(number), rows)
        assert set(find_content_problems(paths, tmp_path)) == set(find_row_problems(rows))


def test_a_step_between_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows()
    rows["states"].append(make_row(OTHER_PROBLEM))
    rows["steps"][0]["next_state_id"] = OTHER_PROBLEM.id
    (line,) = find_row_problems(rows)
    assert f"steps {FIRST_STEP.id}: leads from problem tiny/test/0 to tiny/test/1" in line
    monkeypatch.setattr(contents, "_ROWS_PER_RANGE", 1)
    assert find_content_problems(write_rows(tmp_path, rows), tmp_path) == [line]


def test_failed_attempts_are_no_problem() -> None:
    rows = make_rows()
    rows["steps"][0]["attempt"] = 2
    rows["steps"] += [make_row(replace(ERROR_ROW, attempt=attempt)) for attempt in (0, 1)]
    rows["states"].append(make_row(BARE_STATE))  # reached by a step that was not flushed
    assert find_row_problems(rows) == []


def test_step_to_a_missing_state_on_the_disk(tiny_store: Path) -> None:
    table = pq.read_table(get_file(tiny_store, "states"))
    write_parquet(get_file(tiny_store, "states"), table.slice(0, 19))
    (tiny_store / "manifest.json").unlink()
    compact(tiny_store)  # accepts the files as they are, and verify still tells
    lines = verify(tiny_store)
    assert len(lines) == 1
    assert lines[0].startswith("steps ")
    assert "which is not a row of states" in lines[0]


def test_load_table_selects_and_filters(tiny_store: Path) -> None:
    import pyarrow.compute as pc

    tails = load_table(
        tiny_store, "steps", columns=["problem_id", "text"], where=pc.field("kind") == "tail"
    )
    assert tails.column_names == ["problem_id", "text"]
    assert tails.num_rows == 6
    assert load_table(tiny_store, "steps", columns=["attempt", "id"]).column_names == [
        "attempt",
        "id",
    ]
    assert load_table(tiny_store, "problems", columns=["feature_n_words"]).num_rows == 3
    assert load_table(tiny_store, "judgements").schema.equals(make_schema("judgements"))
    with pytest.raises(StoreError, match="unknown table 'step': use one of problems"):
        load_table(tiny_store, "step")
    with pytest.raises(StoreError, match="table steps has no column 'words'"):
        load_table(tiny_store, "steps", columns=["words"])
