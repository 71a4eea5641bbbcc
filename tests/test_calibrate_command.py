"""`routerlib calibrate` on a small store: what it prints, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tiny
import torch
from lattice_cases import build, make_hand_tables

from routerlib import calibrate_command
from routerlib.cli import main
from routerlib.cost_bounds import DEFAULT_PROBLEM_TOKENS
from routerlib.costs import DEFAULT_LENS, LENSES
from routerlib.features import Standardiser
from routerlib.policies import MLPPolicy, save_policy
from routerlib.policies.network import build_network
from routerlib.records import Problem
from routerlib.risk_tests import BOUNDS
from routerlib.store import TraceWriter, compact

COPIES = 15


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The problems of ``tiny``, each 15 times, for training and for calibration; no test ones."""
    root = tmp_path_factory.mktemp("many") / "traces"
    with TraceWriter(root) as writer:
        tiny.add_records(
            writer,
            [tiny.make_card(tiny.SMALL), tiny.make_card(tiny.LARGE, 300), tiny.make_run()],
        )
        for split in ("train", "calibration"):
            for copy in range(COPIES):
                problems = [
                    Problem(f"tiny/{split}/{3 * copy + i}", "tiny", split, f"{text} {copy}", answer)
                    for i, (text, answer) in enumerate(tiny.TEXTS)
                ]
                tiny.add_records(writer, tiny.make_solution_records(problems))
    compact(root)
    return root


def run(store: Path, *arguments: str) -> int:
    options = ["--benchmark", "tiny", "--small", tiny.SMALL, "--large", tiny.LARGE]
    options += ["--depth", "2", "--traces", str(store), "--resamples", "50", "--lens", "all_tokens"]
    return main(["calibrate", *options, "--problem-tokens", "10", *arguments])


def test_a_certificate_is_printed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(store, "--policy", "first k steps large", "--keep-accuracy", "0.4") == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^first k steps large: the large model writes where the score is >= ", printed
    )
    assert "on 45 calibration problems, with 95% intervals:" in printed
    assert re.search(r"accuracy >= 40% of large: achieved [\d.]+ \[[\d.]+, [\d.]+\]", printed)
    found = re.search(r"certificate: p = ([\d.e-]+) <= delta = 0.1 \(hoeffding_bentkus\)", printed)
    assert found is not None
    assert 0.0 < float(found.group(1)) <= 0.1
    assert "With probability at least 0.9 over the draw of the 45 calibration" in printed


def test_both_targets_and_a_policy_file(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = build_network(1, 2, 4, "tanh", torch.Generator().manual_seed(0))
    standardiser = Standardiser(("depth",), np.array([1.0]), np.array([1.0]))
    path = tmp_path / "policy.pt"
    save_policy(MLPPolicy("mine", "before", standardiser, network, 4, "tanh"), path)
    targets = ("--keep-accuracy", "0.3", "--max-cost", "150")
    assert run(store, "--policy", str(path), *targets, "--bound", "betting") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("mine: ")
    assert "accuracy >= 30% of large: achieved" in printed
    assert "cost <= 150: achieved" in printed
    assert "always large's and the cost of a problem is at most 150, in the mean" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "random"], "no target: give --keep-accuracy, --max-cost or --max-cost-share"),
        (["--policy", "none.pt", "--keep-accuracy", "0.9"], "no policy file none.pt, and no such"),
        (["--policy", __file__, "--keep-accuracy", "0.9"], "cannot be read as a policy"),
        (["--policy", "random", "--keep-accuracy", "-1"], "keeping -1.0 of the accuracy is no"),
        (["--policy", "random", "--keep-accuracy", "1", "--delta", "1.5"], "delta is 1.5; give a"),
        (["--policy", "always large", "--keep-accuracy", "0.5"], "'always large' has no threshold"),
        (
            ["--policy", "last steps large", "--keep-accuracy", "0.99"],
            r"'accuracy >= 99% of large' cannot be certified at delta = 0.1: .*about \d+ like",
        ),
        (
            ["--policy", "last steps large", "--max-cost", "100", "--problem-tokens", "9"],
            "more than problem_tokens = 9",
        ),
        (["--policy", "random", "--max-cost", "1", "--lens", "usd"], "no input_usd_per_mtok"),
        (["--policy", "random", "--max-cost", "1", "--benchmark", "none"], "benchmark 'none'"),
        (
            ["--policy", "judge score", "--max-cost", "1"],
            r"none of the 45 train problems has every draft .* `routerlib judge --split train`",
        ),
    ],
)
def test_refusals_are_one_clear_sentence(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(store, *arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("routerlib: ")
    assert re.search(message, captured.err)


def test_a_judge_is_calibrated_on_what_is_judged() -> None:
    tables = make_hand_tables()
    assert tables.judgements is not None
    of_q = tables.steps.filter(state_id="q.root")["id"].to_list()
    some = replace(tables, judgements=tables.judgements.filter(~pl.col("step_id").is_in(of_q)))
    lattice = build(some, ("small", "large"), 2)
    assert calibrate_command.keep_judged(lattice, "test").problem_ids == ("p",)


def test_a_coin_is_certified_from_either_end(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "--policy", "random", "--keep-accuracy", "0.4") == 0
    assert "random: probability of large = " in capsys.readouterr().out


def test_options_are_those_of_the_library() -> None:
    assert calibrate_command.BOUNDS == BOUNDS
    assert calibrate_command.LENSES == LENSES
    assert calibrate_command.LENSES[0] == DEFAULT_LENS
    assert calibrate_command.PROBLEM_TOKENS == DEFAULT_PROBLEM_TOKENS
