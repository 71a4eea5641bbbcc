"""Scores of problems' texts with a scripted scorer and a real writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LARGE, SMALL, TEXTS, make_card, make_problems

from routerlib.calls import CallReport
from routerlib.errors import ModelError, StoreError
from routerlib.lattice import load_lattice
from routerlib.prompt_scores import collect_prompt_scores
from routerlib.records import Problem, TextScore
from routerlib.store import TraceWriter, load_table, verify

PROBLEMS = make_problems()


def score_words(text: str) -> TextScore:
    """Half a nat for each word but the first."""
    words = len(text.split())
    return TextScore(words, -0.5 * (words - 1))


@dataclass
class Scorer:
    """A model that scores texts by a function, which may return an error to raise."""

    script: Callable[[str], Any] = score_words
    id: str = SMALL
    texts: list[str] = field(default_factory=list)

    async def score_text(self, text: str) -> TextScore:
        self.texts.append(text)
        await asyncio.sleep(0)
        answer = self.script(text)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, TextScore)
        return answer

    async def aclose(self) -> None:
        """Do nothing."""


def score_all(
    root: Path, scorer: Scorer, problems: list[Problem] = PROBLEMS, **options: Any
) -> CallReport:
    with TraceWriter(root) as writer:
        return asyncio.run(
            collect_prompt_scores(scorer, make_card(SMALL), writer, problems, **options)
        )


def test_every_problem_is_scored_once(tiny_store: Path) -> None:
    scorer = Scorer()
    more = replace(PROBLEMS[0], id="tiny/test/9", text="Never recorded.")
    seen: list[int] = []
    report = score_all(
        tiny_store, scorer, [*PROBLEMS, more], on_change=lambda report: seen.append(report.calls)
    )
    assert (report.problems_total, report.problems_skipped, report.calls) == (4, 1, 3)
    assert (report.errors, report.recorded_before, seen) == (0, 0, [0, 1, 2, 3])
    assert report.prompt_tokens == sum(len(text.split()) for text, _ in TEXTS)
    assert sorted(scorer.texts) == sorted(text for text, _ in TEXTS)
    rows = load_table(tiny_store, "prompt_scores").to_pylist()
    assert [(row["problem_id"], row["model_id"]) for row in rows] == [
        (problem.id, SMALL) for problem in PROBLEMS
    ]
    assert [(row["tokens"], row["logprob"]) for row in rows] == [
        (len(text.split()), -0.5 * (len(text.split()) - 1)) for text, _ in TEXTS
    ]
    assert verify(tiny_store) == []

    scorer = Scorer()
    report = score_all(tiny_store, scorer)
    assert (report.recorded_before, report.calls, scorer.texts) == (3, 0, [])


def test_a_policy_sees_the_score_with_a_probe(tiny_store: Path) -> None:
    score_all(tiny_store, Scorer(), PROBLEMS[:2])
    lattice = load_lattice(
        tiny_store, benchmark="tiny", split="test", model_ids=(SMALL, LARGE), depth=2
    )
    assert "problem_small_logprob" not in lattice.observe("before").names
    seen = lattice.observe("probe").column("problem_small_logprob")
    is_scored = np.isin(
        np.array(lattice.problem_ids)[lattice.node_problem], [p.id for p in PROBLEMS[:2]]
    )
    assert (seen[is_scored] == -0.5).all()
    assert np.isnan(seen[~is_scored]).all()


def test_failed_calls_leave_no_row_and_are_asked_again(tiny_store: Path) -> None:
    def fail_on_eggs(text: str) -> TextScore | Exception:
        return ModelError("tired") if "eggs" in text else score_words(text)

    report = score_all(tiny_store, Scorer(fail_on_eggs))
    assert (report.calls, report.errors, report.last_error) == (3, 1, "ModelError: tired")
    scorer = Scorer()
    assert score_all(tiny_store, scorer).calls == 1
    assert scorer.texts == [TEXTS[1][0]]


def test_a_server_that_gives_no_scores_ends_the_run(tiny_store: Path) -> None:
    scorer = Scorer(lambda text: ModelError("no prompt_logprobs"))
    with pytest.raises(ModelError, match=r"2 calls of tiny-small in a row failed.*prompt_logprobs"):
        score_all(tiny_store, scorer, concurrency=1, max_consecutive_failures=2)
    assert len(scorer.texts) == 2
    assert load_table(tiny_store, "prompt_scores").num_rows == 0


def test_another_text_or_another_models_card_is_refused(tiny_store: Path) -> None:
    with pytest.raises(StoreError, match="recorded with another text"):
        score_all(tiny_store, Scorer(), [replace(PROBLEMS[0], text="Other.")])
    with pytest.raises(ValueError, match="give its own card"):
        score_all(tiny_store, Scorer(id=LARGE))
