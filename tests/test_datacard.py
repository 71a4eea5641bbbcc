"""The data card quotes the store as it is, and the hand-made store's numbers by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import LARGE, SMALL, make_problems, make_state, make_step

from routerlib import paths
from routerlib.cli import main
from routerlib.datacard import END, START, render_datacard
from routerlib.store import TraceWriter


def test_the_card_quotes_the_tracked_store() -> None:
    card = (paths.TRACES / "README.md").read_text(encoding="utf-8")
    written = card.partition(START)[2].partition(END)[0].strip()
    assert written == render_datacard(paths.TRACES), "run `routerlib datacard`"


def test_the_numbers_of_the_hand_made_store(tiny_store: Path) -> None:
    root = make_state(make_problems()[0], "")
    with TraceWriter(tiny_store) as writer:
        writer.add_step(make_step(root, None, SMALL, sample_index=1, error="ModelError: no"))
    card = render_datacard(tiny_store)
    assert "Runs: 1, from 2025-01-01 to 2025-01-01. Parquet files: 0.0 MB." in card
    assert "| tiny | test | 3 | 20 | 10 | 20 | 21 | 0.00% | 4.76% |" in card
    assert f"| tiny | test | {SMALL} | 3 | 0.333 [0.061, 0.792] | 5 |" in card
    assert f"| tiny | test | {LARGE} | 3 | 0.667 [0.208, 0.939] | 8 |" in card
    assert f"- `{SMALL}`: 100 weights (none), licence CC0-1.0, SHA-256" in card
    assert "not known" in card


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


def test_a_card_without_its_marks_is_refused(
    tiny_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_store / "README.md").write_text("# Card\n", encoding="utf-8")
    assert main(["datacard", "--traces", str(tiny_store)]) == 1
    assert "README.md lacks the lines" in capsys.readouterr().err
