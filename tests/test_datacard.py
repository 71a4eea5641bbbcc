"""The data card quotes the store as it is, and the hand-made store's numbers by hand."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import (
    LARGE,
    SMALL,
    add_records,
    make_problem_row,
    make_problems,
    make_run,
    make_state,
    make_step,
    make_tiny_records,
)

from routerlib import paths
from routerlib.cli import main
from routerlib.datacard import END, START, render_datacard
from routerlib.records import Choice, Judgement, PromptScore
from routerlib.store import TraceWriter, files, query, verify


def test_the_card_quotes_the_tracked_store() -> None:
    card = (paths.TRACES / "README.md").read_text(encoding="utf-8")
    written = card.partition(START)[2].partition(END)[0].strip()
    assert written == render_datacard(paths.TRACES), "run `routerlib datacard`"


def test_the_card_says_which_judgements_are_missing() -> None:
    """In the words below its tables, which nobody generates."""
    counts = query(
        paths.TRACES,
        "SELECT split, count(*) FILTER (question = 'usefulness-v1') AS useful, "
        "count(*) FILTER (question = 'right-v1') AS right, "
        "count(DISTINCT problem_id) AS problems "
        "FROM judgements JOIN steps ON steps.id = step_id "
        "JOIN problems ON problems.id = problem_id "
        "GROUP BY ALL ORDER BY split",
    ).set_index("split")
    missing = counts["useful"] - counts["right"]
    assert missing.to_dict() == {"calibration": 0, "test": 3, "train": 1}
    assert counts["problems"].to_dict() == {"calibration": 300, "test": 500, "train": 300}
    card = " ".join((paths.TRACES / "README.md").read_text(encoding="utf-8").split())
    assert (
        "of the training problems the first 300. Of three drafts of test problems and one" in card
    )


STORES = sorted(
    path.parent
    for path in (*paths.TRACES.glob("manifest.json"), *paths.TRACES.glob("*/manifest.json"))
)


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES, ids=lambda store: store.name)
def test_the_tracked_stores_are_sound(store: Path) -> None:
    assert verify(store) == []


def test_the_numbers_of_the_hand_made_store(tiny_store: Path) -> None:
    first = make_state(make_problems()[0], "2 + 3 = 5\n")
    with TraceWriter(tiny_store) as writer:
        writer.add_step(make_step(first, None, SMALL, sample_index=1, error="ModelError: no"))
    card = render_datacard(tiny_store)
    assert "Runs: 1, from 2025-01-01 to 2025-01-01. Parquet files: 0.0 MB." in card
    assert "| tiny | test | 3 | 20 | 10 | 20 | 21 | 0.00% | 4.76% |" in card
    assert f"| tiny | test | {SMALL} | 3 | 0.333 [0.061, 0.792] | 5 |" in card
    assert f"| tiny | test | {LARGE} | 3 | 0.667 [0.208, 0.939] | 8 |" in card
    assert f"- `{SMALL}`: 100 weights (none), licence CC0-1.0, SHA-256" in card
    assert "not known" in card
    assert "incomplete" not in card


def test_problems_without_a_complete_path_are_counted(tiny_store: Path) -> None:
    """In the main store and in an inner one: the large model's third problem, all of a second
    prompt's, and a problem whose first call failed."""
    problem = make_problems()[1]
    root, first = make_state(problem, ""), make_state(problem, "4 + 6 = 10\n")
    for store in (tiny_store / "pilot", tiny_store):
        with TraceWriter(store) as writer:
            if store != tiny_store:
                add_records(writer, make_tiny_records()[:-4])
            writer.add_step(make_step(root, first, SMALL, prompt_version="tiny-v2"))
            failed = {"prompt_version": "tiny-v3", "error": "ModelError: no"}
            writer.add_step(make_step(root, None, LARGE, **failed))
    main_part, _, pilot = render_datacard(tiny_store).partition("### `traces/pilot`")
    assert "*Incomplete* are the problems" in main_part
    assert f"| tiny | test | {SMALL} | 3 | 1 | 0.333 [0.061, 0.792] | 5 |" in main_part
    assert "on the problems whose path is complete" in pilot
    assert "*Incomplete* are the problems" in pilot
    assert "| prompt | model | problems | incomplete | accuracy | tokens |" in pilot
    assert f"| tiny-v1 | {SMALL} | 3 | 0 | 0.333 [0.061, 0.792] | 5 |" in pilot
    assert f"| tiny-v1 | {LARGE} | 2 | 1 | 1.000 [0.342, 1.000] | 8 |" in pilot
    assert f"| tiny-v2 | {SMALL} | 0 | 1 | – | – |" in pilot
    assert f"| tiny-v3 | {LARGE} | 0 | 1 | – | – |" in pilot


def test_what_only_some_stores_have(tiny_store: Path) -> None:
    """Levels, judgements, prompt scores, and stores of rollouts and pilots in their own folders."""
    for part in ("levels", "judged", "alternatives", "predicts", "###"):
        assert part not in render_datacard(tiny_store).lower()
    problem = make_problems()[0]
    root, first = make_state(problem, ""), make_state(problem, "2 + 3 = 5\n")
    shutil.copytree(tiny_store, inner := tiny_store / "pilot")
    with TraceWriter(tiny_store) as writer:
        levelled = replace(make_problem_row(problem), id="tiny/test/9", level="4.5")
        writer.add_problem(levelled)
        step_id = make_step(root, first, SMALL).id
        for question, score in (("useful", 0.25), ("right", 0.75)):
            writer.add_judgement(Judgement(step_id, LARGE, question, score, 30, 10, 1))
        writer.add_prompt_score(PromptScore(problem.id, SMALL, 11, -25.0))
        asked = json.dumps({"delimiter": "\n", "benchmark": "tiny", "prompt_version": "tiny-v1"})
        writer.add_run(make_run("judged", plan="judge", configuration=asked))
    card = render_datacard(tiny_store)
    assert "| tiny | judge | – | tiny-v1 | none |" in card
    assert "| tiny | test | 4: 1 |" in card
    assert f"| tiny | test | right | 1 | 1 | 0.75 | 20.0 | {LARGE} |" in card
    assert f"| tiny | test | useful | 1 | 1 | 0.25 | 20.0 | {LARGE} |" in card
    assert f"| tiny | test | 1 | 2.5 | {SMALL} |" in card
    section = card.partition("### `traces/pilot`")[2]
    assert f"| tiny | test | tiny-v1 | {SMALL} | 3 | 0.333 [0.061, 0.792] | 5 |" in section
    end = make_state(problem, "Answer: 5", is_terminal=True)
    with TraceWriter(inner) as writer:
        writer.add_state(end)
        step = make_step(root, end, SMALL, temperature=0.7)
        writer.add_step(step)
        writer.add_choice(Choice(step.id, "random-0.5", 0.5))
    section = render_datacard(tiny_store).partition("### `traces/pilot`")[2]
    assert "| tiny | test | random-0.5 | 0.7 | 1 | 1 | 1 | 1.0 |" in section
    assert "Whole solutions sampled, and" in section
    with TraceWriter(inner) as writer:
        step = make_step(root, first, LARGE, temperature=0.7, sample_index=1)
        writer.add_step(step)
        writer.add_choice(Choice(step.id, "random-0.5", 0.5))
    section = render_datacard(tiny_store).partition("### `traces/pilot`")[2]
    assert "Solutions sampled step by step, and" in section


def test_the_command_rewrites_what_is_between_the_marks(
    tiny_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tiny_store / "README.md"
    card.write_text(f"# Card\n\n{START}\nold\n{END}\n\nflaws\n", encoding="utf-8")
    for said in ("rewritten", "as it was"):
        assert main(["datacard", "--traces", str(tiny_store)]) == 0
        assert said in capsys.readouterr().out
    text = card.read_text(encoding="utf-8")
    assert text == f"# Card\n\n{START}\n{render_datacard(tiny_store)}\n{END}\n\nflaws\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_card_that_cannot_be_written_stays_whole(
    tiny_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    card = tiny_store / "README.md"
    old = f"# Card\n\n{START}\nold\n{END}\n"
    card.write_text(old, encoding="utf-8")
    before = set(tiny_store.iterdir())

    def fail(path: Path, text: str) -> None:
        path.write_text(text[:10], encoding="utf-8")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "_write_text", fail)
    assert main(["datacard", "--traces", str(tiny_store)]) == 1
    said = capsys.readouterr().err
    assert f"{card} cannot be written" in said
    assert "make space there, or allow this user to write there" in said
    assert card.read_text(encoding="utf-8") == old
    assert set(tiny_store.iterdir()) == before
    card.write_text(f"{START}\n{render_datacard(tiny_store)}\n{END}", encoding="utf-8")
    assert main(["datacard", "--traces", str(tiny_store)]) == 0  # nothing is to be written


def test_a_card_or_a_store_that_is_not_there(
    tiny_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tiny_store / "README.md"
    assert main(["datacard", "--traces", str(tiny_store)]) == 1
    assert f"there is no {card}: restore it" in capsys.readouterr().err
    card.mkdir()
    assert main(["datacard", "--traces", str(tiny_store)]) == 1
    assert f"{card} cannot be read" in capsys.readouterr().err
    card.rmdir()
    card.write_bytes(b"\xff")
    assert main(["datacard", "--traces", str(tiny_store)]) == 1
    assert f"{card} cannot be read" in capsys.readouterr().err
    assert main(["datacard", "--traces", str(tiny_store / "nowhere")]) == 1
    assert "there is no store at" in capsys.readouterr().err


def test_a_link_to_a_card_stays_one(tiny_store: Path) -> None:
    text = f"{START}\n{END}\n"
    (tiny_store.parent / "card.md").write_text(text, encoding="utf-8")
    (tiny_store / "README.md").symlink_to(tiny_store.parent / "card.md")
    assert main(["datacard", "--traces", str(tiny_store)]) == 0
    assert (tiny_store / "README.md").is_symlink()
    assert (tiny_store.parent / "card.md").read_text(encoding="utf-8") != text


def test_a_card_without_its_marks_is_refused(
    tiny_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_store / "README.md").write_text("# Card\n", encoding="utf-8")
    assert main(["datacard", "--traces", str(tiny_store)]) == 1
    assert "README.md lacks the lines" in capsys.readouterr().err
