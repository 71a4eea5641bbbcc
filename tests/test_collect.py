"""The collector with scripted models and a real writer: what is asked, in which order, and what is
in the store afterwards, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LARGE, SMALL, TEXTS, make_card
from tiny_models import (
    CALLS_PER_LEVEL,
    LATTICE_CALLS,
    MODEL_IDS,
    SWITCH_CALLS,
    Watch,
    WatchedModel,
    fail_on,
    make_cards,
    make_gsm8k_problems,
    make_tiny_models,
    read_asked,
)

from routerlib.benchmarks import BENCHMARKS, GENERATED_BENCHMARKS
from routerlib.collect import Collector, CollectReport, make_run
from routerlib.costs import make_lens
from routerlib.errors import GradingError, ModelError, StoreError
from routerlib.lattice import coverage, evaluate_probabilities, load_lattice, oracle
from routerlib.models import ScriptedModel
from routerlib.plans import CollectConfig
from routerlib.prompts import PROMPTS
from routerlib.records import Problem, Request
from routerlib.store import TraceWriter, compact, load_problem_texts, load_table, query, verify
from routerlib.store.schema import make_record

PROBLEMS = make_gsm8k_problems()
CONFIG = CollectConfig(depth=2, concurrency=2)
SWITCH = replace(CONFIG, plan="switch")


async def collect_async(
    root: Path,
    models: Sequence[WatchedModel],
    config: CollectConfig = CONFIG,
    problems: Sequence[Problem] = PROBLEMS,
    on_change: Callable[[CollectReport], None] = lambda report: None,
) -> CollectReport:
    with TraceWriter(root) as writer:
        collector = Collector(models, make_cards(), writer, config, on_change)
        return await collector.collect(problems, make_run(config, models, "gsm8k", "test"))


def collect(root: Path, models: Sequence[WatchedModel], *more: Any, **options: Any) -> Any:
    return asyncio.run(collect_async(root, models, *more, **options))


def load_rows(root: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = load_table(root, name).to_pylist()
    return rows


def load_content(root: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of a compacted store, without what differs from run to run."""
    compact(root)
    content = {name: load_rows(root, name) for name in ("problems", "models", "states", "steps")}
    for row in content["steps"]:
        del row["run_id"], row["latency_s"]
    return content


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete recording that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed") / "traces"
    collect(root, make_tiny_models())
    compact(root)
    return root


def test_a_lattice_is_recorded_as_worked_by_hand(undisturbed: Path) -> None:
    assert verify(undisturbed) == []
    counts = query(
        undisturbed,
        "SELECT (SELECT count(*) FROM steps) AS steps, count(*) AS states, "
        "count_if(is_terminal) AS terminal FROM states",
    )
    assert counts.to_dict("records") == [{"steps": 20, "states": 20, "terminal": 10}]
    alone = query(
        undisturbed,
        "SELECT model_id, completion_tokens, is_correct FROM solo_paths "
        "ORDER BY model_id DESC, problem_id",
    )
    assert alone["model_id"].tolist() == [SMALL] * 3 + [LARGE] * 3
    assert alone["completion_tokens"].tolist() == [9, 9, 3, 13, 9, 9]
    assert alone["is_correct"].tolist() == [False, False, True, True, True, False]


def test_the_recorded_lattice_is_replayed(undisturbed: Path) -> None:
    lattice = load_lattice(
        undisturbed, benchmark="gsm8k", split="test", model_ids=MODEL_IDS, depth=2
    )
    assert coverage(lattice).complete.all()
    lens = make_lens("flops", make_cards())
    for action, expected in ((0, [0, 0, 1]), (1, [1, 1, 0])):
        chosen = np.zeros(lattice.next_node.shape)
        chosen[:, action] = 1.0
        values = evaluate_probabilities(lattice, chosen, lens, "before")
        accuracy = dict(zip(lattice.problem_ids, values.accuracy, strict=True))
        assert [accuracy[problem.id] for problem in PROBLEMS] == expected
    assert oracle(lattice, lens, "before").accuracy.tolist() == [1, 1, 1]


def test_a_step_holds_what_was_asked_and_answered(undisturbed: Path) -> None:
    steps = load_rows(undisturbed, "steps")
    first = next(
        row
        for row in steps
        if (row["problem_id"], row["model_id"]) == (PROBLEMS[0].id, SMALL)
        and row["text"] == "2 + 3 = 5\n"
    )
    words_of_problem = len(TEXTS[0][0].split())
    assert first["prompt_tokens"] - first["shared_prompt_tokens"] == words_of_problem
    assert first["completion_tokens"] == len(first["token_logprobs"]) == 6  # five words, one end
    assert first["first_token_texts"] == ["2", "<other>"]
    kept = {key: first[key] for key in ("kind", "ended_by", "finish_reason", "attempt", "error")}
    assert kept == {
        "kind": "step",
        "ended_by": "delimiter",
        "finish_reason": "stop",
        "attempt": 0,
        "error": None,
    }
    assert (first["requested_model"], first["returned_model"]) == (SMALL, SMALL)
    assert {row["kind"]: row["max_tokens"] for row in steps} == {"step": 100, "tail": 200}
    assert len({row["shared_prompt_tokens"] for row in steps}) == 1


def test_only_generated_problems_leave_their_texts(tmp_path: Path) -> None:
    """Also one without its package: the store gives back what was recorded."""
    models = [
        WatchedModel(name, ScriptedModel(name, lambda _: "Answer: 4"), Watch())
        for name in MODEL_IDS
    ]
    problems = [
        replace(PROBLEMS[2], id=f"{benchmark}/test-0/{number}", benchmark=benchmark)
        for benchmark in BENCHMARKS
        for number in (2, 10)
    ]
    collect(tmp_path, models, problems=problems[::-1])
    for benchmark in BENCHMARKS:
        recorded = [problem for problem in problems if problem.benchmark == benchmark]
        kept = recorded if benchmark in GENERATED_BENCHMARKS else []
        assert load_problem_texts(tmp_path, benchmark, "test") == kept
        assert load_problem_texts(tmp_path, benchmark, "train") == []
    texts = load_rows(tmp_path, "problem_texts")
    assert len(texts) == 2 * len(GENERATED_BENCHMARKS) < len(problems)
    assert verify(tmp_path) == []


def test_merged_states_are_expanded_once(tmp_path: Path) -> None:
    """Both models start problem 0 with the same line; each continues it once."""
    watch = Watch()
    report = collect(tmp_path, make_tiny_models(watch))
    assert len(watch.expansions) == report.calls == LATTICE_CALLS
    assert Counter(watch.expansions)[SMALL, TEXTS[0][0], "2 + 3 = 5\n"] == 1
    assert max(Counter(watch.expansions).values()) == 1
    assert len(watch.calls) == LATTICE_CALLS + 2  # each model's prompt is measured once


def test_requests_stop_where_their_kind_says(tmp_path: Path) -> None:
    models = make_tiny_models()
    config = replace(CONFIG, top_logprobs=3, temperature=0.5, sample_index=4, max_step_tokens=50)
    collect(tmp_path, models, config)
    asked = [request for request in models[0].scripted.requests if read_asked(request)[0]]
    kinds = {
        (request.stop, request.sampling.max_tokens, read_asked(request)[1].count("\n") == 2)
        for request in asked
    }
    assert kinds == {(("\n",), 50, False), ((), 200, True)}
    assert {request.sampling.top_logprobs for request in asked} == {3}
    assert {(request.sampling.temperature, request.sampling.seed) for request in asked} == {
        (0.5, 4)
    }


def test_the_plan_switch(tmp_path: Path) -> None:
    """The small model's path, and the large one's completion of each of its prefixes."""
    report = collect(tmp_path, make_tiny_models(), SWITCH)
    assert report.calls == SWITCH_CALLS
    tails = query(
        tmp_path,
        "SELECT steps.problem_id, before.text AS prefix, after.is_correct FROM steps "
        "JOIN states AS before ON before.id = state_id JOIN states AS after ON after.id = "
        f"next_state_id WHERE kind = 'tail' AND model_id = '{LARGE}' ORDER BY ALL",
    )
    assert tails.to_numpy().tolist() == [
        [PROBLEMS[0].id, "", True],
        [PROBLEMS[0].id, "2 + 3 = 5\n", True],
        [PROBLEMS[1].id, "", True],
        [PROBLEMS[1].id, "4 + 6 = 10\n", True],
        [PROBLEMS[2].id, "", False],
    ]
    lattice = load_lattice(
        tmp_path, benchmark="gsm8k", split="test", model_ids=MODEL_IDS, depth=2, plan="switch"
    )
    assert coverage(lattice).complete.all()


def test_a_restart_asks_only_for_what_is_missing(tmp_path: Path, undisturbed: Path) -> None:
    watch = Watch()
    first = collect(tmp_path, make_tiny_models(watch), problems=PROBLEMS[:1])
    assert (first.calls, first.problems_done, first.recorded_before) == (6, 1, 0)
    second = collect(tmp_path, make_tiny_models(watch))
    assert (second.calls, second.problems_done, second.recorded_before) == (14, 3, 6)
    asked = len(watch.calls)
    third = collect(tmp_path, make_tiny_models(watch))
    assert (third.calls, third.problems_done, third.recorded_before) == (0, 3, 20)
    assert len(watch.calls) == asked
    assert max(Counter(watch.expansions).values()) == 1
    assert len(load_rows(tmp_path, "runs")) == 2  # a run that asks nothing leaves no row
    assert load_content(tmp_path) == load_content(undisturbed)


def test_another_plan_uses_what_is_there(tmp_path: Path) -> None:
    """Of the ten expansions of ``switch`` the small model's five are those of ``lattice``."""
    collect(tmp_path, make_tiny_models())
    report = collect(tmp_path, make_tiny_models(), SWITCH)
    assert (report.recorded_before, report.calls) == (5, 5)


@pytest.mark.parametrize("shared_machine", [True, False])
@pytest.mark.parametrize("stop_at", [1, 2, 5, 9, 14, LATTICE_CALLS])
def test_a_cancelled_run_goes_on_where_it_was(
    tmp_path: Path, undisturbed: Path, stop_at: int, shared_machine: bool
) -> None:
    config = replace(CONFIG, shared_machine=shared_machine)
    watch = Watch()

    async def cancel_in_mid_run() -> None:
        task = asyncio.create_task(collect_async(tmp_path, models, config))

        def cancel_at_last(request: Request) -> None:
            if len(watch.expansions) >= stop_at and not task.cancelling():
                task.cancel()

        for model in models:
            model.before = cancel_at_last
        with pytest.raises(asyncio.CancelledError):
            await task

    models = make_tiny_models(watch)
    asyncio.run(cancel_in_mid_run())
    recorded = load_rows(tmp_path, "steps")
    in_flight = CONFIG.concurrency * (1 if shared_machine else 2)
    assert 0 <= len(watch.expansions) - len(recorded) <= in_flight
    assert verify(tmp_path) == []
    (run,) = load_rows(tmp_path, "runs")
    assert run["ended_at"] >= run["started_at"]

    again = Watch()
    report = collect(tmp_path, make_tiny_models(again), config)
    assert report.recorded_before == len(recorded)
    assert len(again.expansions) == LATTICE_CALLS - len(recorded)
    assert load_content(tmp_path) == load_content(undisturbed)


def test_a_failed_call_is_a_row_and_is_asked_again(tmp_path: Path, undisturbed: Path) -> None:
    """Problem 1 fails at its root with both models, and nothing of it is known then."""
    failing = fail_on(2, lambda text, prefix: text == TEXTS[1][0])
    report = collect(tmp_path, make_tiny_models(before=failing))
    assert (report.errors, report.calls, report.problems_done) == (2, 12, 2)
    failed = [row for row in load_rows(tmp_path, "steps") if row["error"] is not None]
    assert {row["model_id"] for row in failed} == {SMALL, LARGE}
    for row in failed:
        assert row["error"] == "ModelError: the server is tired"
        assert (row["text"], row["next_state_id"], row["ended_by"]) == (None, None, None)
        assert (row["attempt"], row["completion_tokens"]) == (0, 0)
        assert row["problem_id"] == PROBLEMS[1].id
    assert verify(tmp_path) == []

    once_more = collect(tmp_path, make_tiny_models(before=fail_on(1)))
    assert (once_more.errors, once_more.calls, once_more.problems_done) == (1, 6, 2)
    last = collect(tmp_path, make_tiny_models())
    assert (last.errors, last.problems_done) == (0, 3)
    assert verify(tmp_path) == []
    attempts = {
        row["attempt"]
        for row in load_rows(tmp_path, "steps")
        if row["id"] in {row["id"] for row in failed} and row["error"] is None
    }
    assert attempts == {1, 2}
    found, expected = load_content(tmp_path), load_content(undisturbed)
    answered = [row | {"attempt": 0} for row in found["steps"] if row["error"] is None]
    assert answered == expected["steps"]
    assert found["states"] == expected["states"]


@pytest.mark.parametrize("shared_machine", [True, False])
def test_many_failures_in_a_row_stop_the_run(tmp_path: Path, shared_machine: bool) -> None:
    config = replace(CONFIG, max_consecutive_failures=3, shared_machine=shared_machine)
    models = make_tiny_models()
    models[1].before = fail_on(99)
    with pytest.raises(ModelError, match=rf"3 calls of {LARGE} in a row failed.*server is tired"):
        collect(tmp_path, models, config)
    rows = load_rows(tmp_path, "steps")
    assert Counter(row["model_id"] for row in rows if row["error"] is not None) == {LARGE: 3}
    if shared_machine:
        assert sum(row["error"] is None for row in rows) == CALLS_PER_LEVEL[0]  # all of the small
    assert verify(tmp_path) == []
    assert load_rows(tmp_path, "runs")[0]["ended_at"] is not None
    collect(tmp_path, make_tiny_models())
    assert verify(tmp_path) == []


def make_moody() -> Callable[[Request], None]:
    """A ``before`` that fails every other call, the first one included."""
    numbers = itertools.count()

    def before(request: Request) -> None:
        if read_asked(request)[0] and next(numbers) % 2 == 0:
            raise ModelError("the server is tired")

    return before


def make_moody_models(watch: Watch | None = None) -> list[WatchedModel]:
    models = make_tiny_models(watch)
    for model in models:
        model.before = make_moody()
    return models


def test_failures_that_are_not_in_a_row_do_not_stop_it(tmp_path: Path) -> None:
    config = replace(CONFIG, max_consecutive_failures=2, concurrency=1)
    report = collect(tmp_path, make_moody_models(), config)
    assert (report.calls, report.errors) == (12, 6)


@pytest.mark.parametrize(
    ("share", "least", "calls"),
    [
        (0.5, 40, None),  # a model is called six times
        (0.5, 3, 3),  # fails, answers, fails: 2 of 3
        (0.5, 4, 5),
        (0.6, 4, None),
        (0.6, 3, 3),
        (0.0, 1, 1),
        (1.0, 1, None),
    ],
)
def test_a_failed_share_that_is_too_large_stops_the_run(
    tmp_path: Path, share: float, least: int, calls: int | None
) -> None:
    """The small model, which is called first, makes the run stop at one of its calls."""
    config = replace(CONFIG, concurrency=1, max_failed_share=share, min_calls_for_share=least)
    if calls is None:
        assert collect(tmp_path, make_moody_models(), config).errors == 6
        return
    failed = (calls + 1) // 2
    message = rf"{failed} of {calls} calls of {SMALL} failed, more than the share of {share}, the"
    with pytest.raises(ModelError, match=message):
        collect(tmp_path, make_moody_models(), config)
    rows = [row for row in load_rows(tmp_path, "steps") if row["model_id"] == SMALL]
    assert (len(rows), sum(row["error"] is not None for row in rows)) == (calls, failed)
    assert verify(tmp_path) == []
    collect(tmp_path, make_tiny_models())  # the next run counts anew
    assert verify(tmp_path) == []


ROLLOUT = replace(CONFIG, plan="rollout", temperature=0.7, rollouts=3)


def load_choices(root: Path) -> set[tuple[str, str, float]]:
    return {tuple(row.values()) for row in load_rows(root, "choices")}  # type: ignore[misc]


def test_rollouts_are_recorded_with_their_choices(tmp_path: Path) -> None:
    """Each solution is one path from the problem to an answer, whose every step was chosen; its
    sample index is the seed of its calls."""
    models = make_tiny_models()
    report = collect(tmp_path, models, ROLLOUT)
    steps = load_rows(tmp_path, "steps")
    assert report.problems_done == 3
    assert load_choices(tmp_path) == {(step["id"], "random-0.5", 0.5) for step in steps}
    assert {step["model_id"] for step in steps} == set(MODEL_IDS)
    for problem in PROBLEMS:
        for sample in range(3):
            path = [
                s for s in steps if (s["problem_id"], s["sample_index"]) == (problem.id, sample)
            ]
            assert len({s["state_id"] for s in path}) == len(path)
            assert len({s["next_state_id"] for s in path} - {s["state_id"] for s in path}) == 1
    seeds = {
        r.sampling.seed for m in models for r in m.scripted.requests if r.sampling.top_logprobs
    }
    assert seeds == {0, 1, 2}
    assert verify(tmp_path) == []
    again = collect(tmp_path, make_tiny_models(), replace(ROLLOUT, rollouts=2))
    assert (again.calls, again.problems_done) == (0, 3)


def test_choices_that_a_killed_run_did_not_write_are_written(tmp_path: Path) -> None:
    collect(tmp_path / "a", make_tiny_models(), ROLLOUT)
    compact(tmp_path / "a")
    with TraceWriter(tmp_path / "b") as writer:  # the same without choices
        for name, add in (
            ("problems", writer.add_problem),
            ("models", writer.add_model),
            ("runs", writer.add_run),
            ("states", writer.add_state),
            ("steps", writer.add_step),
        ):
            for row in load_rows(tmp_path / "a", name):
                add(make_record(name, row))
    report = collect(tmp_path / "b", make_tiny_models(), ROLLOUT)
    assert report.calls == 0
    assert load_choices(tmp_path / "b") == load_choices(tmp_path / "a") != set()


def test_rollouts_of_two_and_of_three_models_go_into_one_store(tmp_path: Path) -> None:
    """The small model's step of both was drawn with one half and with one quarter."""
    models, third = make_tiny_models(), make_tiny_models()[0]
    third.id = third.scripted.id = "tiny-third"
    two = {"random-0.5": 0.5}
    three = {"random-0.5-of-3": 0.25}
    with TraceWriter(tmp_path) as writer:
        for asked in (models, [third, *models], models):
            cards = [make_card(model.id) for model in asked]
            run = make_run(ROLLOUT, asked, "gsm8k", "test")
            asyncio.run(Collector(asked, cards, writer, ROLLOUT).collect(PROBLEMS, run))
    chosen = query(
        tmp_path,
        "SELECT step_id, map_from_entries(list((behaviour, probability))) AS found FROM choices "
        f"JOIN steps ON steps.id = step_id WHERE model_id = '{SMALL}' GROUP BY step_id",
    )["found"].tolist()
    assert two in chosen
    assert two | three in chosen
    assert all(found in (two, three, two | three) for found in chosen)
    assert verify(tmp_path) == []


CHANGED = {
    "plan": "switch",
    "depth": 1,
    "prompt_version": "other",
    "delimiter": " ",
    "max_step_tokens": 2,
    "max_tail_tokens": 1,
    "temperature": 0.5,
    "top_logprobs": 1,
    "sample_index": 1,
    "continuations": ("one_shot", "prefill"),
    "corrections": 0,
    "rollouts": 2,
    "large_probability": 1.0,
    "concurrency": 1,
    "shared_machine": False,
    "chunk_problems": 1,
    "max_consecutive_failures": 1,
    "max_failed_share": 0.1,
    "min_calls_for_share": 1,
}


def observe(root: Path, config: CollectConfig) -> list[object]:
    """What can be seen of a recording, whose models fail now and then, from outside."""
    watch = Watch()
    models = make_moody_models(watch)
    for index, model in enumerate(models):
        model.scripted.script = lambda request, i=index: SOLUTIONS[i].removeprefix(
            read_asked(request)[1]
        )
    error = ""
    try:
        collect(root, models, config)
    except ModelError as failure:
        error = str(failure)
    asked = [request for model in models for request in model.scripted.requests]
    ids = sorted(row["id"] for row in load_rows(root, "steps"))
    return [watch.calls, watch.most_in_flight, watch.models_together, asked, ids, error]


SOLUTIONS = ("1 a\n2 b\n3 c\nAnswer: 5", "1 a\n2 x\n3 y\nAnswer: 5")


@pytest.mark.parametrize("name", [field.name for field in fields(CollectConfig)])
def test_every_setting_has_an_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(PROMPTS, "other", replace(PROMPTS["short-lines-v1"], name="other"))
    base = replace(CONFIG, min_calls_for_share=4, max_failed_share=0.6)
    if name in ("rollouts", "large_probability"):
        base = replace(base, plan="rollout")
    if name == "corrections":  # the models begin each turn anew, which is refused
        base = replace(base, continuations=("continue_turn", "continue_turn"))
    changed = replace(base, **{name: CHANGED[name]})  # type: ignore[arg-type]
    first, again, other = (
        observe(tmp_path / folder, config)
        for folder, config in (("first", base), ("again", base), ("other", changed))
    )
    assert first == again
    assert first != other


def test_a_model_that_cannot_be_asked_at_all(tmp_path: Path) -> None:
    models = make_tiny_models(before=fail_on(1, lambda text, prefix: text == ""))
    with pytest.raises(ModelError, match=r"^the server is tired$"):
        collect(tmp_path, models)
    assert load_rows(tmp_path, "steps") == []


def test_an_unexpected_error_is_itself_and_loses_nothing(tmp_path: Path) -> None:
    """A programming error is not taken for a failed call."""

    def break_down(request: Request) -> None:
        if read_asked(request)[1]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        collect(tmp_path, make_tiny_models(before=break_down))
    assert len(load_rows(tmp_path, "steps")) == 2 * CALLS_PER_LEVEL[0]
    assert load_rows(tmp_path, "runs")[0]["ended_at"] is not None
    assert verify(tmp_path) == []


def test_models_of_one_machine_are_never_asked_together(tmp_path: Path) -> None:
    """Level by level: the whole frontier to the small model, then to the large one."""
    watch = Watch()
    collect(tmp_path, make_tiny_models(watch), replace(CONFIG, concurrency=8))
    assert watch.models_together == 1
    order = [(prefix.count("\n"), model_id) for model_id, _, prefix in watch.expansions]
    assert order == [
        (depth, model_id)
        for depth, calls in enumerate(CALLS_PER_LEVEL)
        for model_id in MODEL_IDS
        for _ in range(calls)
    ]


def test_models_of_two_machines_are_asked_together(tmp_path: Path) -> None:
    watch = Watch()
    collect(tmp_path, make_tiny_models(watch), replace(CONFIG, shared_machine=False))
    assert watch.models_together == 2
    depths = [prefix.count("\n") for _, _, prefix in watch.expansions]
    assert depths == sorted(depths)
    assert watch.most_in_flight == {SMALL: 2, LARGE: 2}


@pytest.mark.parametrize("concurrency", [1, 2, 3, 50])
def test_calls_in_flight_are_bounded(tmp_path: Path, concurrency: int) -> None:
    watch = Watch()
    collect(tmp_path, make_tiny_models(watch), replace(CONFIG, concurrency=concurrency))
    expected = min(concurrency, max(CALLS_PER_LEVEL))
    assert watch.most_in_flight == {SMALL: expected, LARGE: expected}


def test_chunks_are_recorded_one_after_the_other(tmp_path: Path, undisturbed: Path) -> None:
    watch = Watch()
    collect(tmp_path, make_tiny_models(watch), replace(CONFIG, chunk_problems=1))
    texts = [text for _, text, _ in watch.expansions]
    assert texts == [TEXTS[0][0]] * 6 + [TEXTS[1][0]] * 10 + [TEXTS[2][0]] * 4
    assert load_content(tmp_path) == load_content(undisturbed)


def test_progress_is_shown_after_every_call(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []

    def show(report: CollectReport) -> None:
        seen.append((report.calls, report.problems_done, report.completion_tokens))

    report = collect(tmp_path, make_tiny_models(), on_change=show)
    assert seen == sorted(seen)
    assert {calls for calls, _, _ in seen} == set(range(1, LATTICE_CALLS + 1))
    assert {done for _, done, _ in seen} == {0, 1, 3}  # problem 2 is done before the last level
    recorded = sum(row["completion_tokens"] for row in load_rows(tmp_path, "steps"))
    assert seen[-1] == (LATTICE_CALLS, 3, recorded)
    assert report.tokens_per_s > 0
    assert (report.errors, report.retries) == (0, 0)


def test_the_run_says_how_and_when(tmp_path: Path) -> None:
    before = datetime.now(UTC).isoformat(timespec="seconds")
    collect(tmp_path, make_tiny_models())
    (run,) = load_rows(tmp_path, "runs")
    assert before <= run["started_at"] <= run["ended_at"] <= datetime.now(UTC).isoformat()
    configuration = json.loads(run["configuration"])
    assert configuration["models"] == list(MODEL_IDS)
    assert (configuration["benchmark"], configuration["split"]) == ("gsm8k", "test")
    assert (configuration["depth"], configuration["delimiter"]) == (2, "\n")
    assert run["plan"] == "lattice"
    assert json.loads(run["library_versions"]).keys() >= {"routerlib", "openai"}


def test_one_collector_runs_twice(tmp_path: Path) -> None:
    """Each run has a row and counts for itself; the prompt is measured once."""
    watch = Watch()
    models = make_tiny_models(watch)

    async def collect_twice(writer: TraceWriter) -> list[CollectReport]:
        collector = Collector(models, make_cards(), writer, CONFIG)
        runs = [make_run(CONFIG, models, "gsm8k", "test") for _ in range(2)]
        assert runs[0].id != runs[1].id
        return [
            await collector.collect(PROBLEMS[: 1 + 2 * number], run)
            for number, run in enumerate(runs)
        ]

    with TraceWriter(tmp_path) as writer:
        reports = asyncio.run(collect_twice(writer))
    assert [report.calls for report in reports] == [6, 14]
    assert len(watch.calls) == LATTICE_CALLS + 2
    assert all(row["ended_at"] for row in load_rows(tmp_path, "runs"))
    assert len({row["run_id"] for row in load_rows(tmp_path, "steps")}) == 2


def test_wrong_problems_are_found_before_any_call(tmp_path: Path) -> None:
    watch = Watch()
    unreadable = replace(PROBLEMS[0], id="gsm8k/test/9", answer="many")
    with pytest.raises(GradingError, match="'many' cannot be read"):
        collect(tmp_path, make_tiny_models(watch), problems=[*PROBLEMS, unreadable])
    assert watch.calls == []
    collect(tmp_path, make_tiny_models(), problems=PROBLEMS[:1])
    edited = replace(PROBLEMS[0], text=PROBLEMS[0].text + " ")
    with pytest.raises(StoreError, match="problems row gsm8k/test/0 is there with other content"):
        collect(tmp_path, make_tiny_models(watch), SWITCH, problems=[edited])
    assert watch.calls == []
    assert len(load_rows(tmp_path, "runs")) == 1  # no row of a run that asked nothing


def test_models_and_cards_must_fit(tmp_path: Path) -> None:
    models = make_tiny_models()
    with TraceWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="give one card for each model"):
            Collector(models, make_cards()[::-1], writer, CONFIG)
        with pytest.raises(ValueError, match="must be different"):
            Collector([models[0]] * 2, [make_card(SMALL)] * 2, writer, CONFIG)
