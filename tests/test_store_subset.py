"""A copy of some problems is a sound store that says the same about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from routerlib.errors import StoreError
from routerlib.store import copy_problems, load_table, query, verify


def test_copied_problems_are_complete_and_sound(tiny_store: Path, tmp_path: Path) -> None:
    ids = load_table(tiny_store, "problems")["id"].to_pylist()
    kept = ids[:1]
    copy_problems(tiny_store, tmp_path / "copy", kept)
    assert verify(tmp_path / "copy") == []
    assert load_table(tmp_path / "copy", "problems")["id"].to_pylist() == kept
    sql = f"SELECT * FROM solo_paths WHERE problem_id = '{kept[0]}' ORDER BY ALL"
    assert query(tmp_path / "copy", sql).equals(query(tiny_store, sql))


def test_unknown_problem_and_existing_target_are_refused(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no problem 'nowhere/1'"):
        copy_problems(tiny_store, tmp_path / "copy", ["nowhere/1"])
    with pytest.raises(StoreError, match="already there"):
        copy_problems(tiny_store, tmp_path, ["nowhere/1"])


def test_only_runs_that_made_the_steps_come_along(tiny_store: Path, tmp_path: Path) -> None:
    copy_problems(
        tiny_store, tmp_path / "copy", load_table(tiny_store, "problems")["id"].to_pylist()
    )
    made = set(load_table(tmp_path / "copy", "steps")["run_id"].to_pylist())
    assert set(load_table(tmp_path / "copy", "runs")["id"].to_pylist()) == made
