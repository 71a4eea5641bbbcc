"""Every query of the cookbook runs, on the fixture and on the tracked store, and gives the columns
that its text promises; its Python runs too."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import (
    LARGE,
    PROMPT_VERSION,
    SMALL,
    TEXTS,
    make_card,
    make_problems,
    make_run,
    make_state,
    make_step,
)

from routerlib import paths
from routerlib.metrics import compute_wilson_interval
from routerlib.records import Choice, Judgement, ProblemText, PromptScore
from routerlib.store import TraceWriter, query
from routerlib.store.schema import TABLES
from routerlib.store.views import HELPER_VIEWS

COOKBOOK = (paths.ROOT / "docs" / "sql-cookbook.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Recipe:
    title: str
    columns: list[str]
    may_be_empty: bool
    sql: str


def read_recipes() -> list[Recipe]:
    recipes = []
    for section in re.split(r"^### ", COOKBOOK, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        text, sql = re.search(r"(.*?)```sql\n(.*?)```", body, re.DOTALL).groups()  # type: ignore[union-attr]
        promised = re.findall(r"`(\w+)`", text.partition("*Gives*")[2])
        recipes.append(Recipe(title, promised, bool(re.search(r"Empty\s+where", text)), sql))
    return recipes


RECIPES = read_recipes()


def test_every_query_is_a_recipe_and_there_are_many() -> None:
    assert len(RECIPES) == COOKBOOK.count("```sql\n") >= 15
    assert len({recipe.title for recipe in RECIPES}) == len(RECIPES)
    assert all(recipe.columns for recipe in RECIPES)
    for name in {*TABLES, *HELPER_VIEWS} - {"solo", "models"}:  # these two need no recipe
        assert any(re.search(rf"\b{name}\b", recipe.sql) for recipe in RECIPES), name


@pytest.mark.parametrize("store", [paths.FIXTURE_TRACES, paths.TRACES], ids=["fixture", "tracked"])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
def test_a_query_gives_what_its_text_promises(recipe: Recipe, store: Path) -> None:
    frame = query(store, recipe.sql)
    assert list(frame) == recipe.columns
    assert len(frame) or recipe.may_be_empty
    assert recipe.may_be_empty or frame.notna().any().all(), "a column has no value at all"
    shares = [c for c in frame if c.startswith("share_") or c in ("accuracy", "low", "high")]
    for column in shares:
        assert frame[column].dropna().between(0, 1).all(), column


def test_the_interval_is_that_of_the_library() -> None:
    (recipe,) = (recipe for recipe in RECIPES if recipe.title.startswith("Accuracy"))
    frame = query(paths.TRACES, recipe.sql)
    n = frame["problems"].to_numpy(dtype=float)
    low, high = compute_wilson_interval(frame["accuracy"].to_numpy() * n, n)
    assert frame["low"].to_numpy() == pytest.approx(low, abs=1e-6)
    assert frame["high"].to_numpy() == pytest.approx(high, abs=1e-6)


BY_SETTING = [recipe for recipe in RECIPES if "prompt_version" in recipe.columns]
SETTING = ["prompt_version", "temperature", "sample_index"]
OTHER_SETTINGS: list[dict[str, Any]] = [
    {"prompt_version": "tiny-v2"},
    {"temperature": 0.7},
    {"temperature": 0.7, "sample_index": 1},
]


def record_other_settings(store: Path) -> None:
    """In each other setting the small model solves problem 0 alone, the large one problem 1."""
    with TraceWriter(store) as writer:
        for problem, model_id in zip(make_problems()[:2], (SMALL, LARGE), strict=True):
            root = make_state(problem, "")
            end = make_state(problem, f"Answer: {problem.answer}", is_terminal=True)
            writer.add_state(end)
            for setting in OTHER_SETTINGS:
                writer.add_step(make_step(root, end, model_id, **setting))


@pytest.mark.parametrize("recipe", BY_SETTING, ids=lambda recipe: recipe.title)
def test_other_settings_have_rows_of_their_own(recipe: Recipe, tiny_store: Path) -> None:
    """What another prompt or sample makes of the same problems changes no number."""
    with TraceWriter(tiny_store) as writer:
        writer.add_prompt_score(PromptScore(make_problems()[0].id, SMALL, 5, -8.0))
    before = query(tiny_store, recipe.sql)
    record_other_settings(tiny_store)
    frame = query(tiny_store, recipe.sql)
    is_old = (frame[SETTING] == [PROMPT_VERSION, 0.0, 0]).all(axis=1)
    assert len(before)
    pd.testing.assert_frame_equal(frame[is_old].reset_index(drop=True), before)
    added = frame[~is_old]
    if recipe.title == "Which model is needed":  # no problem has the answers of both
        assert added.empty
    else:
        assert len(added.groupby(SETTING)) == len(OTHER_SETTINGS)


def test_each_query_that_counts_problems_is_by_setting() -> None:
    alone = COOKBOOK.partition("## Each model alone")[2].partition("\n## ")[0]
    titles = set(re.findall(r"^### (.*)$", alone, re.MULTILINE))
    assert titles
    assert titles <= {recipe.title for recipe in BY_SETTING}
    assert all(set(SETTING) <= set(recipe.columns) for recipe in BY_SETTING)


def test_which_model_is_needed_by_hand(tiny_store: Path) -> None:
    """Each model solves what the other does not; a problem without both answers is left out."""
    (recipe,) = (recipe for recipe in RECIPES if recipe.title.startswith("Which model"))
    setting = ["tiny", "test", PROMPT_VERSION, 0.0, 0]
    assert query(tiny_store, recipe.sql).values.tolist() == [[*setting, 2, 3, 0, 3, 0, 0]]
    record_other_settings(tiny_store)
    problem = make_problems()[0]
    wrong = make_state(problem, "Answer: 6", is_terminal=True)
    with TraceWriter(tiny_store) as writer:
        writer.add_state(wrong)
        writer.add_step(make_step(make_state(problem, ""), wrong, LARGE, temperature=0.7))
    warm = ["tiny", "test", PROMPT_VERSION, 0.7, 0]
    assert query(tiny_store, recipe.sql).values.tolist() == [
        [*setting, 2, 3, 0, 3, 0, 0],
        [*warm, 2, 1, 0, 1, 0, 0],
    ]


def test_what_may_be_empty_is_not_when_there_is_something(tiny_store: Path) -> None:
    problem = make_problems()[0]
    root, first = make_state(problem, ""), make_state(problem, "2 + 3 = 5\n")
    failed = make_step(root, None, SMALL, sample_index=1, error="TransientModelError: no reply")
    judged = [make_step(root, first, model_id).id for model_id in (SMALL, LARGE)]
    with TraceWriter(tiny_store) as writer:
        writer.add_model(make_card("judge"))
        writer.add_run(make_run("rollouts", plan="rollout"))
        writer.add_step(failed)
        for step_id, score in zip(judged, (0.3, 0.9), strict=True):
            writer.add_judgement(Judgement(step_id, "judge", "useful", score, 10, 0, 1))
        answered = make_state(problem, "2 + 3 = 5\nAnswer: 5", is_terminal=True)
        writer.add_state(answered)
        for model_id, before, after in ((SMALL, root, first), (LARGE, first, answered)):
            thought = {"completion_tokens": 8, "reasoning_tokens": 6} if model_id == LARGE else {}
            thought |= {"retries": 3, "doubtful_tries": 2} if model_id == LARGE else {}
            drawn = {"sample_index": 2, "temperature": 0.7, "run_id": "rollouts"}
            step = make_step(before, after, model_id, **drawn, **thought)
            writer.add_step(step)
            writer.add_choice(Choice(step.id, "random", 0.5))
        writer.add_prompt_score(PromptScore(problem.id, SMALL, 5, -8.0))
        writer.add_problem_text(ProblemText(problem.id, problem.text, problem.answer))
    errors, thoughts, doubts, bands, rollouts, surprises, texts = (
        query(tiny_store, recipe.sql).values.tolist() for recipe in RECIPES if recipe.may_be_empty
    )
    assert errors == [[SMALL, "TransientModelError", 1, 1]]
    assert thoughts == [[LARGE, 1, 8, 0.75]]
    assert doubts == [[LARGE, 1, 2, 3, 8]]
    assert bands == [
        ["judge", "useful", pytest.approx(0.2), 1, 0.0],
        ["judge", "useful", pytest.approx(0.8), 1, 1.0],
    ]
    assert rollouts == [["tiny", "test", "random", 1, 2.0, 0.5, 1.0]]
    assert surprises == [["tiny", "test", SMALL, PROMPT_VERSION, 0.0, 0, False, 1, 2.0]]
    assert texts == [["tiny", "test", problem.id, problem.text, problem.answer]]


def test_queries_stand_between_the_quotes_of_a_shell() -> None:
    for recipe in RECIPES:
        assert not set('"$`!') & set(recipe.sql), recipe.title


def test_the_python_runs(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_store.parent
    monkeypatch.chdir(folder)
    (folder / "gsm8k").mkdir()
    lines = [json.dumps({"question": text, "answer": answer}) for text, answer in TEXTS]
    (folder / "gsm8k" / "test.jsonl").write_text("\n".join(lines))
    problem = make_problems()[0]
    root, end = make_state(problem, ""), make_state(problem, "Answer: 5", is_terminal=True)
    with TraceWriter(tiny_store) as writer:  # a second file, which has the optional column
        writer.add_state(end)
        writer.add_step(make_step(root, end, SMALL, sample_index=1, reasoning_tokens=1))
        writer.add_step(make_step(root, None, SMALL, kind="tail", error="ModelError: no reply"))
    blocks = re.findall(r"```python\n(.*?)```", COOKBOOK, re.DOTALL)
    assert len(blocks) == 2
    export: dict[str, object] = {}
    exec(blocks[0], export)
    joined: Any = export["joined"]
    assert len(joined) == 20 + 1
    assert joined.filter(sample_index=1)["is_correct"].to_list() == [True]
    texts: dict[str, object] = {}
    exec(blocks[1], texts)
    assert len(texts["with_texts"]) == 6 + 1  # type: ignore[arg-type]
