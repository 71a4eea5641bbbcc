"""SQL over the hand-made store: its values by hand, and that nothing can be changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from tiny import (
    DEPTH,
    LARGE,
    SMALL,
    add_records,
    make_card,
    make_problem_row,
    make_problems,
    make_run,
    make_state,
    make_step,
    make_tiny_records,
)
from tiny_models import LATTICE_CALLS, make_cards, make_gsm8k_problems, make_tiny_models

from routerlib import paths
from routerlib.collect import Collector, CollectReport
from routerlib.collect import make_run as make_collect_run
from routerlib.continuations import Continuation, name_prompt_version
from routerlib.errors import ManifestMismatchError, StoreError
from routerlib.plans import CollectConfig
from routerlib.records import Choice
from routerlib.store import TraceWriter, build_database, load_table, open_store, query, verify
from routerlib.store.schema import TABLES, make_schema
from routerlib.store.views import HELPER_VIEWS


def collect(root: Path, config: CollectConfig) -> CollectReport:
    """Record the tiny models into ``root``."""
    models = make_tiny_models()
    with TraceWriter(root) as writer:
        run = make_collect_run(config, models, "gsm8k", "test")
        collector = Collector(models, make_cards(), writer, config)
        return asyncio.run(collector.collect(make_gsm8k_problems(), run))


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


def test_solo_states_are_those_that_a_model_goes_through(tiny_store: Path) -> None:
    frame = query(
        tiny_store,
        "SELECT model_id, solo.depth, text FROM solo_states AS solo "
        "JOIN states ON states.id = state_id WHERE solo.problem_id = 'tiny/test/0' ORDER BY ALL",
    )
    texts = ["", "2 + 3 = 5\n", "2 + 3 = 5\nSo 5 pens.\n"]
    large = [[LARGE, depth, text] for depth, text in enumerate(texts)]
    assert frame.values.tolist() == [*large, [SMALL, 0, texts[0]], [SMALL, 1, texts[1]]]


def test_solo_says_what_is_incomplete(tmp_path: Path) -> None:
    with TraceWriter(tmp_path) as writer:
        add_records(writer, make_tiny_records()[:-4])  # the last state of problem 2 is missing
    frame = query(tmp_path, "SELECT model_id, problems, incomplete_problems, accuracy FROM solo")
    assert frame.values.tolist() == [[LARGE, 2, 1, 1.0], [SMALL, 3, 0, pytest.approx(1 / 3)]]


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_problem_whose_first_call_failed_is_incomplete(tiny_store: Path, attempts: int) -> None:
    """A call that failed in a rollout is none of the model alone."""
    problem = replace(make_problems()[0], id="tiny/test/3")
    root = make_state(problem, "")
    with TraceWriter(tiny_store) as writer:
        add_records(writer, [make_problem_row(problem), root, make_run("rollouts", plan="rollout")])
        for attempt in range(attempts):
            writer.add_step(make_step(root, None, LARGE, attempt=attempt, error="ModelError: no"))
        drawn = make_step(root, None, SMALL, run_id="rollouts", error="ModelError: no")
        writer.add_step(drawn)
    frame = query(tiny_store, "SELECT model_id, problems, incomplete_problems, accuracy FROM solo")
    assert frame.values.tolist() == [
        [LARGE, 3, 1, pytest.approx(2 / 3)],
        [SMALL, 3, 0, pytest.approx(1 / 3)],
    ]
    found = query(
        tiny_store,
        "SELECT steps, completion_tokens, is_complete, is_correct FROM solo_paths "
        f"WHERE problem_id = '{problem.id}'",
    )
    assert found.values.tolist() == [[0, 0, False, pd.NA]]
    end = make_state(problem, "Answer: 5", is_terminal=True)
    with TraceWriter(tiny_store) as writer:
        add_records(writer, [end, make_step(root, end, LARGE, attempt=attempts)])
    frame = query(tiny_store, "SELECT problems, incomplete_problems FROM solo")
    assert frame.values.tolist() == [[4, 0], [3, 0]]


# By problem and state: right, steps and completion tokens to the end; small's, then large's.
LABELS = {
    (0, ""): ((False, 2, 7), (True, 3, 10)),
    (0, "2 + 3 = 5\n"): ((False, 1, 2), (True, 2, 5)),
    (0, "2 + 3 = 5\nSo 5 pens.\n"): ((True, 1, 2), (True, 1, 2)),
    (1, ""): ((False, 2, 7), (True, 2, 7)),
    (1, "4 + 6 = 10\n"): ((False, 1, 2), (True, 2, 14)),
    (1, "4 * 6 = 24\n"): ((True, 2, 7), (True, 1, 2)),
    (1, "4 + 6 = 10\n10 - 5 = 5\n"): ((False, 1, 2), (True, 1, 9)),
    (1, "4 * 6 = 24\n24 - 5 = 19\n"): ((True, 1, 2), (True, 1, 2)),
    (2, ""): ((True, 1, 2), (False, 2, 7)),
    (2, "8 / 2 = 4\n"): ((True, 1, 2), (False, 1, 2)),
}

# The same states when large writes the next step and small the rest, and the other way round.
AFTER_SUBSTITUTION = {
    (0, ""): (False, True),
    (0, "2 + 3 = 5\n"): (True, False),
    (0, "2 + 3 = 5\nSo 5 pens.\n"): (True, True),
    (1, ""): (True, True),
    (1, "4 + 6 = 10\n"): (False, False),
    (1, "4 * 6 = 24\n"): (True, True),
    (1, "4 + 6 = 10\n10 - 5 = 5\n"): (True, False),
    (1, "4 * 6 = 24\n24 - 5 = 19\n"): (True, True),
    (2, ""): (True, True),
    (2, "8 / 2 = 4\n"): (False, True),
}


def test_steps_of_rollouts_are_in_no_view_of_lattices(tiny_store: Path) -> None:
    """A rollout in which only one model happened to be drawn is no path of that model alone."""
    views = sorted(HELPER_VIEWS.keys() - {"answers"})
    before = {name: query(tiny_store, f"SELECT * FROM {name} ORDER BY ALL") for name in views}
    problem = make_problems()[2]
    root, end = make_state(problem, ""), make_state(problem, "Answer: 4\n", is_terminal=True)
    with TraceWriter(tiny_store) as writer:
        writer.add_run(make_run("rollouts", plan="rollout"))
        for model_id in (SMALL, LARGE):
            step = make_step(root, end, model_id, temperature=0.7, run_id="rollouts")
            writer.add_state(end)
            writer.add_step(step)
            writer.add_choice(Choice(step.id, "random-0.5", 0.5))
    for name in views:
        pd.testing.assert_frame_equal(
            query(tiny_store, f"SELECT * FROM {name} ORDER BY ALL"), before[name]
        )


def test_a_lattice_keeps_the_steps_that_rollouts_choose(tmp_path: Path) -> None:
    """Of greedy rollouts into a lattice's store the first finds its steps recorded, so its choices
    point at them; the others have steps of their own."""
    lattice = CollectConfig(depth=DEPTH, concurrency=1)
    assert collect(tmp_path, lattice).calls == LATTICE_CALLS
    before = {name: query(tmp_path, f"SELECT * FROM {name} ORDER BY ALL") for name in HELPER_VIEWS}
    report = collect(tmp_path, replace(lattice, plan="rollout", rollouts=4))
    assert report.recorded_before > 0
    assert report.recorded_before + report.calls == load_table(tmp_path, "choices").num_rows
    for name, rows in before.items():
        assert len(rows), name
        pd.testing.assert_frame_equal(
            query(tmp_path, f"SELECT * FROM {name} ORDER BY ALL"), rows, obj=name
        )


def read_views(root: Path) -> dict[str, pd.DataFrame]:
    return {name: query(root, f"SELECT * FROM {name} ORDER BY ALL") for name in HELPER_VIEWS}


@pytest.mark.parametrize("rollouts", [1, 4])
def test_a_lattice_has_the_steps_that_rollouts_recorded_first(
    tmp_path: Path, rollouts: int
) -> None:
    """The views do not tell which of the two came first; without the lattice they show nothing."""
    lattice = CollectConfig(depth=DEPTH, concurrency=1)
    collect(tmp_path / "lattice", lattice)
    drawn = replace(lattice, plan="rollout", rollouts=rollouts)
    collect(tmp_path / "both", drawn)
    for name, rows in read_views(tmp_path / "both").items():
        assert rows.empty == (name != "answers"), name
    report = collect(tmp_path / "both", lattice)
    assert 0 < report.recorded_before < LATTICE_CALLS
    both = read_views(tmp_path / "both")
    for name, rows in read_views(tmp_path / "lattice").items():
        pd.testing.assert_frame_equal(both[name], rows, obj=name)


def test_a_model_alone_has_the_steps_that_rollouts_recorded_first(tmp_path: Path) -> None:
    """Nobody else was asked at the first state; the model went on from the second."""
    problem = make_problems()[0]
    first, second = "2 + 3 = 5\n", "2 + 3 = 5\nSo 5 pens.\n"
    states = [make_state(problem, text) for text in ("", first, second)]
    states.append(make_state(problem, f"{second}Answer: 5", is_terminal=True))
    runs = [make_run("rollouts", plan="rollout"), make_run()]
    with TraceWriter(tmp_path) as writer:
        add_records(writer, [make_card(LARGE), make_problem_row(problem), *runs, *states])
        for before, after, run in zip(states, states[1:], (*runs, runs[1]), strict=False):
            writer.add_step(make_step(before, after, LARGE, run_id=run.id))
    found = query(tmp_path, "SELECT model_id, steps, is_complete FROM solo_paths")
    assert found.values.tolist() == [[LARGE, 3, True]]


def test_rollouts_beyond_a_lattice_stay_out_of_its_views(tiny_store: Path) -> None:
    """Steps of a third model, and those of problems that no lattice has."""
    before = read_views(tiny_store)
    problem = make_problems()[1]
    other = replace(problem, id="tiny/test/9")
    root, end = make_state(problem, ""), make_state(problem, "Answer: 19", is_terminal=True)
    elsewhere, there = make_state(other, ""), make_state(other, "Answer: 5", is_terminal=True)
    drawn = {"run_id": "rollouts"}
    with TraceWriter(tiny_store) as writer:
        add_records(writer, [make_run("rollouts", plan="rollout"), make_card("third")])
        add_records(writer, [make_problem_row(other), end, elsewhere, there])
        writer.add_step(make_step(root, end, "third", **drawn))
        writer.add_step(make_step(elsewhere, there, SMALL, **drawn))
    after = read_views(tiny_store)
    for name in HELPER_VIEWS.keys() - {"answers"}:
        pd.testing.assert_frame_equal(after[name], before[name], obj=name)


def test_process_labels_of_every_state(tiny_store: Path) -> None:
    frame = query(
        tiny_store,
        "SELECT right(labels.problem_id, 1)::INT, text, labels.depth, model_id, "
        "labels.is_correct, steps_left, completion_tokens_left "
        "FROM process_labels AS labels JOIN states ON states.id = state_id",
    )
    expected = {
        (number, text, text.count("\n"), model_id, *label)
        for (number, text), labels in LABELS.items()
        for model_id, label in zip((SMALL, LARGE), labels, strict=True)
    }
    assert len(frame) == len(expected) == 20
    assert set(frame.itertuples(index=False, name=None)) == expected


def test_substitutions_of_every_state(tiny_store: Path) -> None:
    frame = query(
        tiny_store,
        "SELECT right(s.problem_id, 1)::INT, text, model_id, author_id, kind, "
        "s.is_correct, is_correct_after "
        "FROM substitutions AS s JOIN states ON states.id = state_id",
    )
    expected = set()
    for (number, text), after in AFTER_SUBSTITUTION.items():
        kind = "tail" if text.count("\n") == 2 else "step"
        small, large = (label[0] for label in LABELS[number, text])
        expected |= {(number, text, SMALL, LARGE, kind, small, after[0])}
        expected |= {(number, text, LARGE, SMALL, kind, large, after[1])}
    assert len(frame) == len(expected) == 20
    assert set(frame.itertuples(index=False, name=None)) == expected


def test_labels_of_paths_that_leave_the_record_are_absent(tmp_path: Path) -> None:
    """Of problem 2 large's second step is missing, so large's path is open from the start, and
    what small's first step would change for large is known, but not the reverse at A."""
    with TraceWriter(tmp_path) as writer:
        add_records(writer, make_tiny_records()[:-2])
    where = "WHERE problem_id = 'tiny/test/2' ORDER BY depth, model_id"
    labels = query(tmp_path, f"SELECT depth, model_id, is_correct FROM process_labels {where}")
    assert labels.values.tolist() == [[0, SMALL, True], [1, SMALL, True]]
    found = query(tmp_path, f"SELECT depth, model_id, is_correct_after FROM substitutions {where}")
    assert found.values.tolist() == [[0, SMALL, True]]


def test_a_step_of_no_text_is_never_the_way_to_a_label(tmp_path: Path) -> None:
    problem = make_problems()[0]
    root, end = make_state(problem, ""), make_state(problem, "Answer: 5", is_terminal=True)
    with TraceWriter(tmp_path) as writer:
        add_records(writer, [*make_tiny_records()[:6], root, end])
        add_records(
            writer, [make_step(root, root, SMALL, first_token_top=()), make_step(root, end, LARGE)]
        )
        add_records(writer, [make_step(root, end, SMALL, kind="tail")])  # "step" comes first
    assert query(tmp_path, "SELECT model_id FROM process_labels").values.tolist() == [[LARGE]]
    assert len(query(tmp_path, "SELECT * FROM solo_states")) == 2


@pytest.mark.parametrize("run", ["tiny-run", "rollouts"])
def test_a_begun_deeper_recording_hides_nothing_of_a_complete_one(
    tiny_store: Path, run: str
) -> None:
    """Small's step where its tail is recorded goes on to where nothing is; once it comes to an end
    it counts instead of the tail, also for what a step of the other model changes. A rollout that
    was deeper than the lattice never counts."""
    views = HELPER_VIEWS.keys() - {"answers", "agreement"}
    before = read_views(tiny_store)
    problem = make_problems()[0]
    text = "2 + 3 = 5\nSo 5 pens.\n"
    last, deeper = make_state(problem, text), make_state(problem, f"{text}Or 6.\n")
    end = make_state(problem, f"{deeper.text}Answer: 6", is_terminal=True)
    with TraceWriter(tiny_store) as writer:
        add_records(writer, [make_run("rollouts", plan="rollout"), deeper])
        writer.add_step(make_step(last, deeper, SMALL, run_id=run))
    after = read_views(tiny_store)
    for name in views:
        pd.testing.assert_frame_equal(after[name], before[name], obj=name)
    with TraceWriter(tiny_store) as writer:
        add_records(writer, [end, make_step(deeper, end, SMALL, kind="tail", run_id=run)])
    label = query(
        tiny_store,
        "SELECT is_correct, steps_left, completion_tokens_left FROM process_labels "
        f"WHERE state_id = '{last.id}' AND model_id = '{SMALL}'",
    )
    assert label.values.tolist() == [[False, 2, 4] if run == "tiny-run" else [True, 1, 2]]
    after = query(
        tiny_store,
        "SELECT model_id, kind, is_correct, is_correct_after FROM substitutions "
        f"WHERE state_id = '{last.id}' ORDER BY model_id",
    )
    small = [SMALL, "tail", run == "rollouts", True]
    assert after.values.tolist() == [[LARGE, "tail", True, True], small]


def test_process_labels_are_those_of_a_walk_in_python() -> None:
    states = {row["id"]: row for row in load_table(paths.FIXTURE_TRACES, "states").to_pylist()}
    own = {}
    for step in load_table(paths.FIXTURE_TRACES, "steps").to_pylist():
        key = (step["state_id"], step["model_id"])
        if step["error"] is None and (key not in own or step["kind"] < own[key]["kind"]):
            own[key] = step
    expected = {}
    for state_id, model_id in own:
        here, steps, tokens = state_id, 0, 0
        while not states[here]["is_terminal"]:
            step = own[here, model_id]
            here, steps, tokens = (
                step["next_state_id"],
                steps + 1,
                tokens + step["completion_tokens"],
            )
        expected[state_id, model_id] = (states[here]["is_correct"], steps, tokens)
    frame = query(
        paths.FIXTURE_TRACES,
        "SELECT state_id, model_id, is_correct, steps_left, completion_tokens_left "
        "FROM process_labels",
    )
    found = {(row[0], row[1]): row[2:] for row in frame.itertuples(index=False, name=None)}
    assert len(frame) == len(found)
    assert found == expected


def test_process_labels_of_first_states_are_solo_paths() -> None:
    columns = "problem_id, model_id, prompt_version, temperature, sample_index, is_correct"
    labels = query(
        paths.FIXTURE_TRACES,
        f"SELECT {columns}, steps_left, completion_tokens_left FROM process_labels "
        "WHERE depth = 0 ORDER BY ALL",
    )
    solo = query(
        paths.FIXTURE_TRACES,
        f"SELECT {columns}, steps, completion_tokens FROM solo_paths WHERE is_complete "
        "ORDER BY ALL",
    )
    assert len(solo) == 24
    assert labels.values.tolist() == solo.values.tolist()


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


PROTOCOLS: dict[str, tuple[Continuation, Continuation]] = {
    "short-lines-v1+prefill,dialogue": ("prefill", "dialogue"),
    "short-lines-v1": ("prefill", "prefill"),
    "short-lines-v1+continue_turn,prefill": ("continue_turn", "prefill"),
    "short-lines-v1+dialogue": ("dialogue", "dialogue"),
}


def read_plan(root: Path, plan: str) -> list[pd.DataFrame]:
    """What the models of a plan make of each other's steps, without its name."""
    small, large = (name_prompt_version("short-lines-v1", protocol) for protocol in PROTOCOLS[plan])
    pair = f"(('{SMALL}', '{small}'), ('{LARGE}', '{large}'))"
    return [
        query(
            root,
            "SELECT * EXCLUDE (prompt_version, author_prompt_version) FROM substitutions "
            f"WHERE (model_id, prompt_version) IN {pair} "
            f"AND (author_id, author_prompt_version) IN {pair} ORDER BY ALL",
        ),
        query(
            root,
            "SELECT * EXCLUDE prompt_version FROM agreement "
            f"WHERE prompt_version = '{plan}' ORDER BY ALL",
        ),
    ]


def test_models_of_one_plan_are_compared_whatever_their_protocols(tmp_path: Path) -> None:
    """The tiny models write the same by any protocol. Plans in one store are not mixed, nor are
    protocols that no plan put together, other samples, or what a run without a plan says."""
    expected: list[pd.DataFrame] = []
    for number, (plan, protocols) in enumerate(PROTOCOLS.items()):
        config = CollectConfig(depth=DEPTH, concurrency=1, continuations=protocols)
        collect(tmp_path / str(number), config)
        collect(tmp_path / "all", config)
        found = read_plan(tmp_path / str(number), plan)
        assert [len(frame) for frame in found] == [LATTICE_CALLS, LATTICE_CALLS // 2]
        expected = expected or found
        for frame, alike in zip(found, expected, strict=True):
            pd.testing.assert_frame_equal(frame, alike)
    collect(tmp_path / "all", replace(config, sample_index=1))
    with TraceWriter(tmp_path / "all") as writer:
        writer.add_run(make_run())
    for plan in PROTOCOLS:
        first = [frame[frame["sample_index"] == 0] for frame in read_plan(tmp_path / "all", plan)]
        for frame, alike in zip(first, expected, strict=True):
            pd.testing.assert_frame_equal(frame.reset_index(drop=True), alike)
    count = "SELECT count(*) AS n FROM"
    assert query(tmp_path / "all", f"{count} substitutions")["n"].item() == 5 * LATTICE_CALLS
    assert query(tmp_path / "all", f"{count} agreement")["n"].item() == 5 * LATTICE_CALLS // 2


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
    with pytest.raises(StoreError, match=r"(?s)stepz.*tables are problems, problem_texts"):
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
