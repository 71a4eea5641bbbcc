"""Recording by the protocols that need no prefill: the same models, the same lattice; answers that
are refused are billed, asked for once more, and counted in what the lattice costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_collect import CONFIG, PROBLEMS, collect, load_rows
from tiny import LARGE, SMALL
from tiny_models import (
    LATTICE_CALLS,
    MODEL_IDS,
    make_cards,
    make_tiny_models,
    read_asked,
    write_solution,
)

from routerlib.continuations import Continuation
from routerlib.costs import make_lens
from routerlib.errors import ModelError, StoreError
from routerlib.lattice import Lattice, coverage, evaluate_probabilities, load_lattice
from routerlib.plans import CollectConfig
from routerlib.records import Request
from routerlib.store import verify

Pair = tuple[Continuation, Continuation]
PAIRS: list[Pair] = [
    ("dialogue", "dialogue"),
    ("continue_turn", "continue_turn"),
    ("one_shot", "one_shot"),
    ("prefill", "one_shot"),
]


def record(root: Path, pair: Pair | tuple[()], **changes: Any) -> Path:
    collect(root, make_tiny_models(), replace(CONFIG, continuations=pair, **changes))
    return root


def load(root: Path) -> Lattice:
    return load_lattice(root, benchmark="gsm8k", split="test", model_ids=MODEL_IDS, depth=2)


def evaluate_large(lattice: Lattice, unit: str = "all_tokens") -> Any:
    chosen = np.zeros(lattice.next_node.shape)
    chosen[:, 1] = 1.0
    return evaluate_probabilities(lattice, chosen, make_lens(unit, make_cards()), "before")


@pytest.mark.parametrize("pair", PAIRS)
def test_well_behaved_models_write_the_same_lattice(tmp_path: Path, pair: Pair) -> None:
    prefilled, other = record(tmp_path / "a", ()), record(tmp_path / "b", pair)
    assert verify(other) == []
    for name in ("id", "text", "is_correct"):
        texts = [
            sorted(str(row[name]) for row in load_rows(root, "states"))
            for root in (prefilled, other)
        ]
        assert texts[0] == texts[1]
    steps = [load_rows(root, "steps") for root in (prefilled, other)]
    assert len(steps[1]) == LATTICE_CALLS
    versions = {row["model_id"]: row["prompt_version"] for row in steps[1]}
    named = ["short-lines-v1" if name == "prefill" else f"short-lines-v1+{name}" for name in pair]
    assert versions == dict(zip(MODEL_IDS, named, strict=True))
    shared_ids = {row["id"] for row in steps[0]} & {row["id"] for row in steps[1]}
    assert len(shared_ids) == 10 * pair.count("prefill")
    lattice = load(other)
    assert coverage(lattice).complete.all()
    assert np.array_equal(lattice.outcome, load(prefilled).outcome, equal_nan=True)


def test_one_shot_pays_for_what_is_thrown_away(tmp_path: Path) -> None:
    """Alone and in one go the large model writes 13 + 9 + 9 tokens; step by step, each time to the
    end, more."""
    written = [
        sum(row["completion_tokens"] for row in load_rows(record(tmp_path / name, pair), "steps"))
        for name, pair in (("prefill", ()), ("one_shot", ("one_shot", "one_shot")))
    ]
    assert written[1] > written[0]
    costs = [evaluate_large(load(tmp_path / name)).cost for name in ("prefill", "one_shot")]
    assert (costs[1] >= costs[0]).all()
    assert costs[1].sum() > costs[0].sum()


def test_a_turn_that_repeats_the_steps_is_read_again(tmp_path: Path) -> None:
    """Prefill: after its first call a model reads nothing new of its own path. In a user's turn it
    reads its own steps, so with the same words it costs those and the words that ask; in a dialogue
    the words that ask, less the token that ended its own turn."""
    ledgers = {
        name: load(record(tmp_path / name, (name, name))).ledger["before"]
        for name in ("prefill", "dialogue", "continue_turn")
    }
    deeper = load(tmp_path / "prefill").parent_action == 1
    read = {name: ledger[deeper, 1, 1, 0] for name, ledger in ledgers.items()}
    assert np.nanmax(read["prefill"]) == 0
    assert set(read["dialogue"][np.isfinite(read["dialogue"])]) == {4.0, 8.0}  # what is asked
    assert np.nanmin(read["continue_turn"]) > 0


def complain_once(refused: dict[str, int]) -> Callable[[Request], str]:
    """A small model that begins anew at its first deeper step, until it is corrected."""

    def script(request: Request) -> str:
        if "not usable" in request.messages[-1].content:
            refused["corrected"] = refused.get("corrected", 0) + 1
            request = replace(request, messages=request.messages[:-2])
            return write_solution(0, *read_asked(request))
        text, prefix = read_asked(request)
        return prefix.partition("\n")[0] if prefix else write_solution(0, text, prefix)

    return script


def record_refusals(root: Path, config: CollectConfig) -> tuple[Any, dict[str, int]]:
    models = make_tiny_models()
    counts: dict[str, int] = {}
    models[0].scripted.script = complain_once(counts)
    return collect(root, models, config), counts


TURNS = replace(CONFIG, continuations=("continue_turn", "prefill"))


def test_a_refused_answer_is_recorded_and_asked_for_again(tmp_path: Path) -> None:
    report, counts = record_refusals(tmp_path, TURNS)
    rows = load_rows(tmp_path, "steps")
    refused = [row for row in rows if row["error"] is not None]
    assert report.refused == len(refused) == counts["corrected"] > 0
    assert report.errors == 0
    assert report.problems_done == len(PROBLEMS)
    for row in refused:
        assert row["error"].startswith("StepRefusedError: it ")
        assert (row["model_id"], row["text"], row["attempt"]) == (SMALL, None, 0)
        assert row["completion_tokens"] > 0
        assert row["prompt_tokens"] > 0
    answered = {row["id"]: row["attempt"] for row in rows if row["error"] is None}
    assert all(answered[row["id"]] == 1 for row in refused)
    assert report.completion_tokens == sum(row["completion_tokens"] for row in rows)
    assert verify(tmp_path) == []


def test_the_lattice_bills_refused_answers(tmp_path: Path) -> None:
    record_refusals(tmp_path / "refused", TURNS)
    record(tmp_path / "clean", ("continue_turn", "prefill"))
    rows = load_rows(tmp_path / "refused", "steps")
    wasted = {row["state_id"]: row["completion_tokens"] for row in rows if row["error"] is not None}
    refused, clean = load(tmp_path / "refused"), load(tmp_path / "clean")
    extra = refused.ledger["before"][:, 0, 0, 2] - clean.ledger["before"][:, 0, 0, 2]
    expected = [wasted.get(state, 0) for state in refused.node_state]
    open_nodes = ~np.isnan(extra)
    assert extra[open_nodes].tolist() == [
        tokens for tokens, is_open in zip(expected, open_nodes, strict=True) if is_open
    ]
    assert sum(expected) > 0


def test_what_is_refused_twice_has_failed(tmp_path: Path) -> None:
    models = make_tiny_models()
    models[0].scripted.script = lambda request: "" if read_asked(request)[0] else "?"
    report = collect(tmp_path, models, replace(TURNS, depth=0))
    failed = [row for row in load_rows(tmp_path, "steps") if row["error"] is not None]
    assert (report.errors, report.refused) == (3, 3)
    assert [row["attempt"] for row in failed] == [0, 1] * 3
    assert verify(tmp_path) == []
    with pytest.raises(ModelError, match="in a row failed, the last one with: it holds no text"):
        collect(tmp_path, models, replace(TURNS, depth=0, max_consecutive_failures=2))


def test_two_protocols_of_one_model_must_be_told_apart(tmp_path: Path) -> None:
    record(tmp_path, ())
    record(tmp_path, ("prefill", "one_shot"))
    with pytest.raises(StoreError, match="name prompt_version"):
        load(tmp_path)
    named = load_lattice(
        tmp_path,
        benchmark="gsm8k",
        split="test",
        model_ids=(LARGE,),
        depth=2,
        prompt_version="short-lines-v1+one_shot",
    )
    assert coverage(named).complete.all()


def refuse_empty_messages(request: Request) -> None:
    if not all(message.content for message in request.messages):
        refusal = ModelError("status 400: all messages must have non-empty content")
        refusal.status_code = 400
        raise refusal


@pytest.mark.parametrize("pair", [(), *PAIRS])
def test_a_server_that_takes_no_empty_message_counts_what_is_shared(
    tmp_path: Path, pair: Pair | tuple[()]
) -> None:
    """Anthropic's does not; without it a run would end at its first call."""
    config = replace(CONFIG, continuations=pair)
    collect(tmp_path / "a", make_tiny_models(), config)
    collect(tmp_path / "b", make_tiny_models(before=refuse_empty_messages), config)
    shared = [
        {(row["id"], row["shared_prompt_tokens"]) for row in load_rows(tmp_path / name, "steps")}
        for name in "ab"
    ]
    assert shared[0] == shared[1]
    assert len(shared[0]) == LATTICE_CALLS
