"""The judge with scripted models and a real writer: what is asked, and what is recorded."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from tiny import LARGE, SMALL, TEXTS, make_card
from tiny_models import make_cards, make_gsm8k_problems, make_tiny_models

from routerlib.collect import Collector, make_run
from routerlib.errors import ModelError, StoreError
from routerlib.judge import (
    Judge,
    JudgeConfig,
    JudgeReport,
    fit_judge_config,
    list_drafts,
    make_judge_request,
    make_judge_run,
)
from routerlib.judge_prompts import JUDGE_PROMPTS, build_judge_messages
from routerlib.models import ScriptedModel
from routerlib.models.capabilities import Capabilities
from routerlib.plans import CollectConfig
from routerlib.prompts import PROMPTS
from routerlib.records import Problem, Request
from routerlib.store import TraceWriter, compact, load_table, verify

PROBLEMS = make_gsm8k_problems()
CONFIG = JudgeConfig(author_id=SMALL, concurrency=2)
DRAFTS = 10  # the small model's 3, 4 and 3 steps
SCORE, RIGHT = "Score=", "Right:"
FOUND = Capabilities(
    returned_model=LARGE,
    limit_field="max_tokens",
    prefill="plain",
    logprobs=True,
    top_logprobs=20,
    seed=True,
    temperature=True,
    stop=True,
    blank_stop=True,
    reports_cached_tokens=True,
)


def read_question(request: Request) -> str:
    """Which question a request ends with; empty when a prompt is being measured."""
    keyword = request.messages[-1].content.rpartition("\n\n")[2]
    if request.messages[-1].role == "assistant":
        return keyword
    in_turn = {"Score? ": SCORE, "Right? ": RIGHT}
    return next((found for begin, found in in_turn.items() if keyword.startswith(begin)), "")


def answer(request: Request) -> str:
    """3 and yes for what holds a 5, 9 and no for the rest."""
    has_five = "5" in request.messages[-1].content.rpartition("The solution so far:")[2]
    return {"": "?", SCORE: "3" if has_five else "9", RIGHT: " Yes" if has_five else "no"}[
        read_question(request)
    ]


def make_judge(script: Callable[[Request], Any] = answer) -> ScriptedModel:
    return ScriptedModel(LARGE, script)


def judge_all(
    root: Path,
    model: ScriptedModel,
    config: JudgeConfig = CONFIG,
    problems: list[Problem] = PROBLEMS,
    on_change: Callable[[JudgeReport], None] = lambda report: None,
) -> JudgeReport:
    with TraceWriter(root) as writer:
        judge = Judge(model, make_card(LARGE, 300), writer, config, on_change)
        run = make_judge_run(config, LARGE, "gsm8k", "test")
        return asyncio.run(judge.judge_drafts(problems, run))


def load_scores(root: Path) -> dict[tuple[str, str, str], float]:
    """(problem id, text with the draft, question) -> score."""
    steps = {row["id"]: row for row in load_table(root, "steps").to_pylist()}
    states = {row["id"]: row["text"] for row in load_table(root, "states").to_pylist()}
    rows = load_table(root, "judgements").to_pylist()
    assert {row["judge_model_id"] for row in rows} <= {LARGE}
    return {
        (
            steps[row["step_id"]]["problem_id"],
            states[steps[row["step_id"]]["next_state_id"]],
            row["question"],
        ): row["score"]
        for row in rows
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lattice of ``tiny_models``, without judgements."""
    root = tmp_path_factory.mktemp("recorded") / "traces"
    config = CollectConfig(depth=2)
    models = make_tiny_models()
    with TraceWriter(root) as writer:
        collector = Collector(models, make_cards(), writer, config)
        run = make_run(config, models, "gsm8k", "test")
        asyncio.run(collector.collect(PROBLEMS, run))
    return root


@pytest.fixture
def root(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "traces"))


def test_every_draft_gets_both_scores(root: Path) -> None:
    model = make_judge()
    report = judge_all(root, model)
    assert (report.drafts, report.calls_expected, report.calls) == (DRAFTS, 20, 20)
    assert (report.errors, report.problems_skipped, report.recorded_before) == (0, 0, 0)
    scores = load_scores(root)
    assert len(scores) == 2 * DRAFTS
    # The digit is renormalised over the digits, so one digit alone is its own value over 9.
    first, last = PROBLEMS[0].id, PROBLEMS[2].id
    assert scores[first, "2 + 3 = 5\n", "usefulness-v1"] == pytest.approx(3 / 9)
    assert scores[first, "2 + 3 = 5\n", "right-v1"] == 1.0
    assert scores[last, "Answer: 4\n", "usefulness-v1"] == 1.0
    assert scores[last, "Answer: 4\n", "right-v1"] == 0.0
    tails = [text for _, text, _ in scores if text.count("\n") == 2 and text.endswith("Answer: 5")]
    assert len(tails) == 4  # two states, two questions
    assert verify(root) == []
    compact(root)
    assert load_scores(root) == scores


def test_what_is_asked(root: Path) -> None:
    """One token with twenty alternatives, drafts that begin alike one after the other."""
    model = make_judge()
    judge_all(root, model, replace(CONFIG, concurrency=1))
    shared, asked = model.requests[:2], model.requests[2:]
    question = JUDGE_PROMPTS["usefulness-v1"]
    assert {request.messages for request in shared} == {build_judge_messages(question, "")}
    assert {request.sampling.max_tokens for request in model.requests} == {1}
    assert {request.sampling.top_logprobs for request in asked} == {20}
    texts = [(request.messages[1].content, request.messages[2].content) for request in asked]
    assert [text for text, _ in texts] == [TEXTS[0][0]] * 6 + [TEXTS[1][0]] * 10 + [TEXTS[2][0]] * 4
    assert [content for _, content in texts[:6]] == [
        "2 + 3 = 5\n\nScore=",
        "2 + 3 = 5\n\nRight:",
        "2 + 3 = 5\nAnswer: 6\n\nScore=",
        "2 + 3 = 5\nAnswer: 6\n\nRight:",
        "2 + 3 = 5\nSo 5 pens.\nAnswer: 5\n\nScore=",
        "2 + 3 = 5\nSo 5 pens.\nAnswer: 5\n\nRight:",
    ]


def test_tokens_are_billed(root: Path) -> None:
    model = make_judge()
    report = judge_all(root, model)
    rows = load_table(root, "judgements").to_pylist()
    shared = len(JUDGE_PROMPTS["right-v1"].system.split())
    assert {row["shared_prompt_tokens"] for row in rows} == {shared}
    assert {row["completion_tokens"] for row in rows} == {1}
    assert sum(row["prompt_tokens"] for row in rows) == report.prompt_tokens
    # "2 + 3 = 5" and the keyword are six words.
    expected = shared + len(TEXTS[0][0].split()) + 6
    assert min(row["prompt_tokens"] for row in rows) <= expected
    assert expected in {row["prompt_tokens"] for row in rows}


def test_what_is_recorded_is_not_asked_again(root: Path) -> None:
    only_right = replace(CONFIG, questions=("right-v1",))
    assert judge_all(root, make_judge(), only_right, PROBLEMS[:1]).calls == 3
    model = make_judge()
    report = judge_all(root, model)
    assert (report.recorded_before, report.calls) == (3, 17)
    model = make_judge()
    report = judge_all(root, model)
    assert (report.recorded_before, report.calls, model.calls) == (20, 0, 0)


def test_only_the_authors_greedy_drafts_are_judged(root: Path) -> None:
    with TraceWriter(root) as writer:
        writer.open_problems(problem.id for problem in PROBLEMS)
        drafts = list_drafts(writer, PROBLEMS, CONFIG)
        assert len({draft.step_id for draft in drafts}) == DRAFTS
        large = list_drafts(writer, PROBLEMS, replace(CONFIG, author_id=LARGE))
        assert len(large) == DRAFTS
        assert not {d.step_id for d in drafts} & {d.step_id for d in large}
        assert list_drafts(writer, PROBLEMS, replace(CONFIG, author_id="nobody")) == []
        (step,) = load_table(root, "steps").slice(0, 1).to_pylist()
    assert step["sample_index"] == 0
    assert judge_all(root, make_judge(), replace(CONFIG, author_id="nobody")).drafts == 0


def test_problems_that_are_not_recorded_are_skipped(root: Path) -> None:
    more = replace(PROBLEMS[0], id="gsm8k/test/77", text="Never seen.")
    report = judge_all(root, make_judge(), problems=[more, *PROBLEMS[:1]])
    assert (report.problems_total, report.problems_skipped, report.calls) == (2, 1, 6)
    other = replace(PROBLEMS[0], text="Another text.")
    with pytest.raises(StoreError, match="gsm8k/test/0 was recorded with another text"):
        judge_all(root, make_judge(), problems=[other])


def test_failed_calls_leave_no_row_and_are_asked_again(root: Path) -> None:
    def fail_on_six(request: Request) -> Any:
        return (
            ModelError("tired") if "Answer: 6" in request.messages[-1].content else answer(request)
        )

    report = judge_all(root, make_judge(fail_on_six))
    assert (report.calls, report.errors, report.last_error) == (20, 2, "ModelError: tired")
    assert len(load_scores(root)) == 18
    model = make_judge()
    assert judge_all(root, model).calls == 2
    assert all("Answer: 6" in request.messages[-1].content for request in model.requests[2:])
    assert len(load_scores(root)) == 20


def test_an_answer_without_a_digit_is_a_failed_call(root: Path) -> None:
    model = make_judge(lambda request: "Well" if read_question(request) == SCORE else "no")
    report = judge_all(root, model)
    assert (report.calls, report.errors) == (20, 10)
    assert report.last_error.startswith("JudgementError: none of the 2 most probable tokens")
    assert {question for _, _, question in load_scores(root)} == {"right-v1"}


def test_failures_in_a_row_end_the_run_and_keep_what_was_answered(root: Path) -> None:
    left = iter(range(7))  # two measure the prompt, five are answered

    def grow_tired(request: Request) -> Any:
        return answer(request) if next(left, None) is not None else ModelError("the plug is out")

    model = make_judge(grow_tired)
    config = replace(CONFIG, max_consecutive_failures=3)
    with pytest.raises(
        ModelError, match=r"3 calls of tiny-large in a row failed, .*the plug is out\. All"
    ):
        judge_all(root, model, config)
    assert model.calls <= 7 + 3 + 1  # one more may be in flight
    assert len(load_scores(root)) == 5
    assert verify(root) == []
    assert judge_all(root, make_judge()).calls == 15


def test_a_judge_that_cannot_be_asked_at_all(root: Path) -> None:
    model = make_judge(lambda request: ModelError("status 404"))
    with pytest.raises(ModelError, match="status 404"):
        judge_all(root, model)
    assert model.calls == 1
    assert load_scores(root) == {}


def test_a_run_is_recorded_however_it_ends(root: Path) -> None:
    """Its row says how it was asked for; where nothing is missing there is none."""

    def list_runs() -> list[dict[str, Any]]:
        rows = load_table(root, "runs").to_pylist()
        return [row for row in rows if row["plan"] == "judge"]

    with pytest.raises(ModelError):
        judge_all(root, make_judge(lambda request: ModelError("status 404")))
    (failed,) = list_runs()
    assert failed["ended_at"] >= failed["started_at"]
    assert failed["spent_usd"] is None
    asked = json.loads(failed["configuration"])
    assert (asked["models"], asked["author_id"], asked["delimiter"]) == ([LARGE], SMALL, "\n")
    for _ in range(2):
        judge_all(root, make_judge())
        assert len(list_runs()) == 2
    assert verify(root) == []


@pytest.mark.parametrize(
    ("lack", "reason"),
    [
        ({"logprobs": False, "top_logprobs": 0}, "gives no log-probabilities"),
        ({"top_logprobs": 0}, "gives log-probabilities, but 0 where"),
        ({"top_logprobs": 1}, "gives log-probabilities, but 1 where"),
        ({"prefill": "none"}, "does not continue a begun answer"),
    ],
)
def test_a_model_that_can_give_no_expected_value_is_refused(
    lack: dict[str, Any], reason: str
) -> None:
    with pytest.raises(
        ModelError, match=rf"^tiny-large cannot judge: it {reason}.*Use a judge that gives log-"
    ):
        fit_judge_config(CONFIG, LARGE, replace(FOUND, **lack))


@pytest.mark.parametrize(("given", "asked"), [(20, 20), (5, 5), (2, 2), (50, 20)])
def test_no_more_alternatives_are_asked_for_than_there_are(given: int, asked: int) -> None:
    fitted = fit_judge_config(CONFIG, LARGE, replace(FOUND, top_logprobs=given))
    assert fitted == replace(CONFIG, top_logprobs=asked)


def test_progress_is_reported(root: Path) -> None:
    seen: list[tuple[int, int]] = []
    judge_all(root, make_judge(), on_change=lambda r: seen.append((r.calls, r.calls_expected)))
    assert seen == [(calls, 20) for calls in range(21)]


def test_a_judge_has_its_own_card(root: Path) -> None:
    with TraceWriter(root) as writer, pytest.raises(ValueError, match="give its own card"):
        Judge(make_judge(), make_card(SMALL), writer, CONFIG)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_version": "v0"}, "unknown prompt version 'v0'"),
        ({"continuation": "guess"}, "unknown continuation 'guess'"),
        ({"questions": ()}, "must be some of"),
        ({"questions": ("right-v1", "nice-v1")}, "'nice-v1'"),
        ({"top_logprobs": 0}, "top_logprobs must be at least 1, got 0"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_consecutive_failures": 0}, "max_consecutive_failures"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_no_setting_is_without_effect(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each setting changes of the requests; the bounds have tests of their own."""
    monkeypatch.setitem(PROMPTS, "other-v1", PROMPTS[CONFIG.prompt_version])
    changes: dict[str, Any] = {
        "author_id": LARGE,
        "prompt_version": "other-v1",
        "continuation": "continue_turn",
        "questions": ("right-v1",),
        "top_logprobs": 5,
    }
    bounds = {"concurrency", "max_consecutive_failures"}
    assert {field.name for field in fields(JudgeConfig)} == {*changes, *bounds}

    def list_requests(config: JudgeConfig) -> set[Request]:
        with TraceWriter(root) as writer:
            writer.open_problems(problem.id for problem in PROBLEMS)
            return {
                make_judge_request(draft, JUDGE_PROMPTS[name], config)
                for draft in list_drafts(writer, PROBLEMS, config)
                for name in config.questions
            }

    asked = list_requests(CONFIG)
    assert len(asked) == 2 * DRAFTS
    for name, value in changes.items():
        assert list_requests(replace(CONFIG, **{name: value})) != asked, name


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_concurrency_is_bounded(root: Path, concurrency: int) -> None:
    in_flight = most = 0

    class Slow(ScriptedModel):
        async def complete(self, request: Request) -> Any:
            nonlocal in_flight, most
            in_flight += 1
            most = max(most, in_flight)
            await asyncio.sleep(0.001)
            in_flight -= 1
            return await ScriptedModel.complete(self, request)

    judge_all(root, Slow(LARGE, answer), replace(CONFIG, concurrency=concurrency))
    assert most == min(concurrency, 20)
