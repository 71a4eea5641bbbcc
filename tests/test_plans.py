"""Plans: which expansions they make, what is missing, and how much a run is expected to need."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_state
from tiny_models import (
    CALLS_PER_LEVEL,
    LATTICE_CALLS,
    MODEL_IDS,
    SWITCH_CALLS,
    make_gsm8k_problems,
    write_solution,
)

from routerlib.plans import (
    CollectConfig,
    Expansion,
    Plan,
    estimate,
    get_plan_actions,
    list_actions,
    list_expansions,
    make_choice,
    make_expansion,
    make_root,
    walk_expansions,
)
from routerlib.prompts import PROMPTS
from routerlib.records import Choice, State, StepKind

PROBLEMS = make_gsm8k_problems()
CONFIG = CollectConfig(depth=2)
SWITCH = CollectConfig(plan="switch", depth=2)


def record(recorded: dict[str, State], expansion: Expansion) -> None:
    """What the collector does of an expansion, as far as plans care."""
    state = expansion.state
    text = write_solution(expansion.model_index, expansion.problem.text, state.text)
    finished = expansion.kind == "tail"
    if expansion.kind == "step":
        text = text.partition("\n")[0] + "\n"
        finished = "Answer:" in text
    recorded[expansion.id] = make_state(expansion.problem, state.text + text, finished)


def record_all(config: CollectConfig, problems: int = 3, levels: int = 9) -> dict[str, State]:
    recorded: dict[str, State] = {}
    for _ in range(levels):
        missing, _ = list_expansions(PROBLEMS[:problems], MODEL_IDS, config, recorded.get)
        for expansion in missing:
            record(recorded, expansion)
    return recorded


@pytest.mark.parametrize(
    ("plan", "depth", "models", "expected"),
    [
        ("lattice", 0, 2, [(0, "step"), (1, "step")]),
        ("lattice", 1, 2, [(0, "step"), (1, "step")]),
        ("lattice", 2, 2, [(0, "tail"), (1, "tail")]),
        ("lattice", 0, 3, [(0, "step"), (1, "step"), (2, "step")]),
        ("switch", 0, 2, [(0, "step"), (1, "tail")]),
        ("switch", 1, 3, [(0, "step"), (1, "tail"), (2, "tail")]),
        ("switch", 2, 2, [(0, "tail"), (1, "tail")]),
    ],
)
def test_what_a_plan_does_at_a_state(
    plan: Plan, depth: int, models: int, expected: list[tuple[int, StepKind]]
) -> None:
    assert get_plan_actions(plan, depth, 2, models) == expected


@pytest.mark.parametrize(
    ("config", "levels"),
    [(CONFIG, [2 * calls for calls in CALLS_PER_LEVEL]), (SWITCH, [6, 4])],
)
def test_what_is_missing_level_by_level(config: CollectConfig, levels: list[int]) -> None:
    for done, wanted in enumerate([*levels, 0]):
        recorded = record_all(config, levels=done)
        missing, counts = list_expansions(PROBLEMS, MODEL_IDS, config, recorded.get)
        assert len(missing) == wanted
        assert len({expansion.id for expansion in missing}) == wanted
        assert sum(counts.values()) == sum(levels[:done])


def test_equal_texts_are_one_state() -> None:
    """Both models start problem 0 alike, so one state of depth 1 is open and not two."""
    recorded = record_all(CONFIG, levels=1)
    missing, _ = list_expansions(PROBLEMS[:1], MODEL_IDS, CONFIG, recorded.get)
    assert [(e.model_index, e.kind, e.state.text) for e in missing] == [
        (0, "step", "2 + 3 = 5\n"),
        (1, "step", "2 + 3 = 5\n"),
    ]


def test_without_problems_nothing_is_missing() -> None:
    assert list_expansions([], MODEL_IDS, CONFIG, {}.get) == ([], {})


# Settings that make another request, and those that say how the requests are made.
REQUEST_FIELDS = {
    "prompt_version": "other",
    "delimiter": "\n\n",
    "max_step_tokens": 99,
    "temperature": 0.7,
    "sample_index": 1,
    "continuations": ("one_shot", "prefill"),
}
OTHER_FIELDS = {"plan", "depth", "top_logprobs", "concurrency", "shared_machine"}
OTHER_FIELDS |= {"max_tail_tokens", "chunk_problems", "max_consecutive_failures"}
OTHER_FIELDS |= {
    "corrections",
    "max_failed_share",
    "min_calls_for_share",
    "rollouts",
    "large_probability",
}


def get_root_id(config: CollectConfig, kind: StepKind = "step") -> str:
    return make_expansion(PROBLEMS[0], make_root(PROBLEMS[0]), (0, kind), MODEL_IDS, config).id


def test_every_setting_is_known() -> None:
    assert {field.name for field in fields(CollectConfig)} == REQUEST_FIELDS.keys() | OTHER_FIELDS


@pytest.mark.parametrize("name", REQUEST_FIELDS)
def test_a_setting_of_the_request_makes_another_expansion(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROMPTS, "other", replace(PROMPTS["short-lines-v1"], name="other"))
    changed = replace(CONFIG, **{name: REQUEST_FIELDS[name]})  # type: ignore[arg-type]
    assert get_root_id(changed) != get_root_id(CONFIG)


def test_the_cap_of_the_kind_counts() -> None:
    changed = replace(CONFIG, max_tail_tokens=201)
    assert get_root_id(changed) == get_root_id(CONFIG)
    assert get_root_id(changed, "tail") != get_root_id(CONFIG, "tail")
    assert get_root_id(CONFIG, "tail") != get_root_id(CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": "tree"},
        {"rollouts": 0},
        {"large_probability": -0.1},
        {"large_probability": 1.1},
        {"prompt_version": "long-lines-v9"},
        {"delimiter": ""},
        {"max_step_tokens": 0},
        {"max_tail_tokens": 0},
        {"concurrency": 0},
        {"chunk_problems": 0},
        {"max_consecutive_failures": 0},
        {"max_failed_share": -0.1},
        {"max_failed_share": 1.1},
        {"max_failed_share": float("nan")},
        {"min_calls_for_share": 0},
        {"depth": -1},
        {"temperature": -0.1},
        {"top_logprobs": -1},
        {"sample_index": -1},
        {"corrections": -1},
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)).replace("_version", " version")):
        CollectConfig(**changes)


def test_each_model_has_a_known_protocol() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'prefil': use one of prefill, "):
        CollectConfig(continuations=("prefil", "one_shot"))  # type: ignore[arg-type]
    config = CollectConfig(continuations=("one_shot",))
    assert config.get_prompt_version(0) == "short-lines-v1+one_shot"
    assert (config.get_max_tokens(0, "step"), CONFIG.get_max_tokens(1, "step")) == (200, 100)
    assert CONFIG.get_prompt_version(1) == "short-lines-v1"
    with pytest.raises(ValueError, match="no protocol for model number 2: give one for each model"):
        config.get_continuation(1)


ROLLOUT = CollectConfig(plan="rollout", depth=2, temperature=0.7, rollouts=2, sample_index=5)


def test_a_rollout_is_one_path_for_each_sample() -> None:
    recorded = record_all(ROLLOUT)
    walk = list(walk_expansions(PROBLEMS, MODEL_IDS, ROLLOUT, recorded.get))
    assert list_expansions(PROBLEMS, MODEL_IDS, ROLLOUT, recorded.get)[0] == []
    for problem in PROBLEMS:
        for sample in (5, 6):
            path = [
                (expansion, reached)
                for expansion, reached in walk
                if (expansion.problem, expansion.sample_index) == (problem, sample)
            ]
            texts = [reached.text for _, reached in path if reached is not None]
            assert [expansion.state.text for expansion, _ in path] == ["", *texts[:-1]]
            assert [e.kind for e, _ in path] == ["step", "step", "tail"][: len(path)]
            assert path[-1][1] is not None
            assert path[-1][1].is_terminal
    assert len(walk) == len(recorded)
    assert all(e.choice == Choice(e.id, "random-0.5", 0.5) for e, _ in walk)


def test_the_behaviour_policy_draws_with_its_probability() -> None:
    """The share of each model, over places that are independent draws; the same place, the same
    draw; certain policies are certain."""
    config = replace(ROLLOUT, large_probability=0.7)
    places = [
        (f"p{number}", sample, depth)
        for number in range(400)
        for sample in (0, 1)
        for depth in (0, 1)
    ]
    drawn = [list_actions(config, *place, 3)[0][0] for place in places]
    assert drawn == [list_actions(config, *place, 3)[0][0] for place in places]
    shares = [drawn.count(index) / len(drawn) for index in range(3)]
    assert shares == pytest.approx([0.15, 0.15, 0.7], abs=0.04)
    assert [make_choice("x", index, 3, config) for index in range(3)] == [
        Choice("x", "random-0.7-of-3", pytest.approx(0.15)),
        Choice("x", "random-0.7-of-3", pytest.approx(0.15)),
        Choice("x", "random-0.7-of-3", 0.7),
    ]
    for large, index in ((0.0, 0), (1.0, 1)):
        certain = replace(config, large_probability=large)
        assert {list_actions(certain, *place, 2)[0][0] for place in places} == {index}
    assert {list_actions(config, *place, 1)[0][0] for place in places} == {0}
    assert make_choice("x", 0, 1, config) == Choice("x", "random-0.7-of-1", 1.0)
    assert make_choice("x", 0, 2, config) == Choice("x", "random-0.7", pytest.approx(0.3))
    assert make_choice("x", 0, 2, CONFIG) is None  # a lattice takes every model


def test_rollouts_are_estimated() -> None:
    planned = estimate(PROBLEMS, MODEL_IDS, ROLLOUT, {}.get)
    assert (planned.calls_expected, planned.calls_most) == (3 * 2 * 3, 3 * 2 * 3)


def test_nothing_recorded_is_estimated_from_elsewhere() -> None:
    planned = estimate(PROBLEMS, MODEL_IDS, CollectConfig(), {}.get)
    assert (planned.problems, planned.problems_complete) == (3, 0)
    assert planned.calls_expected == 3 * 40
    assert planned.calls_most == 3 * (2 + 4 + 8 + 16 + 32 + 64)
    assert planned.completion_tokens_expected == 120 * 18
    assert planned.prompt_tokens_expected == 120 * 1100
    assert planned.basis == "a first recording of GSM8K"


def test_a_shallow_plan_needs_no_more_than_it_can() -> None:
    planned = estimate(PROBLEMS, MODEL_IDS, CONFIG, {}.get)
    assert (planned.calls_expected, planned.calls_most) == (3 * 14, 3 * 14)
    planned = estimate(PROBLEMS, MODEL_IDS, SWITCH, {}.get)
    assert (planned.calls_expected, planned.calls_most) == (3 * 6, 3 * 6)
    planned = estimate(PROBLEMS, MODEL_IDS, CollectConfig(plan="switch"), {}.get)
    assert (planned.calls_expected, planned.calls_most) == (3 * 8, 3 * 12)


def test_half_recorded() -> None:
    """Problem 0 is complete (6 calls); of the others the first level is there (2 calls each)."""
    recorded = record_all(CONFIG, problems=1) | record_all(CONFIG, levels=1)
    planned = estimate(PROBLEMS, MODEL_IDS, CONFIG, recorded.get, (5.0, 900.0))
    assert (planned.problems, planned.problems_complete) == (3, 1)
    assert planned.calls_most == planned.calls_expected == 2 * (14 - 2)
    assert planned.basis == "a first recording of GSM8K"  # one problem is too few


def test_five_complete_problems_are_the_basis() -> None:
    """Calls a problem: 6, 10, 4 and again 6, 10; the mean is 7.2."""
    again = [replace(problem, id=f"{problem.id}-again") for problem in PROBLEMS]
    problems = [*PROBLEMS, *again]
    recorded: dict[str, State] = {}
    for _ in range(3):
        for expansion in list_expansions(problems[:5], MODEL_IDS, CONFIG, recorded.get)[0]:
            record(recorded, expansion)
    planned = estimate(problems, MODEL_IDS, CONFIG, recorded.get, (5.0, 900.5))
    assert planned.basis == "5 problems already recorded"
    assert (planned.problems_complete, planned.calls_expected) == (5, 7)
    assert planned.completion_tokens_expected == 35
    assert planned.prompt_tokens_expected == round(7 * 900.5)


@pytest.mark.parametrize(("config", "calls"), [(CONFIG, LATTICE_CALLS), (SWITCH, SWITCH_CALLS)])
def test_a_complete_recording_needs_nothing(config: CollectConfig, calls: int) -> None:
    recorded = record_all(config)
    assert len(recorded) == calls
    planned = estimate(PROBLEMS, MODEL_IDS, config, recorded.get, (5.0, 900.0))
    assert planned.problems == planned.problems_complete == 3
    assert planned.calls_expected == planned.calls_most == 0
    assert planned.completion_tokens_expected == planned.prompt_tokens_expected == 0


@given(st.sets(st.integers(0, LATTICE_CALLS - 1)), st.sampled_from([CONFIG, SWITCH]))
def test_whatever_is_recorded_the_estimate_covers_the_rest(
    kept: set[int], config: CollectConfig
) -> None:
    complete = record_all(config)
    recorded = {key: complete[key] for number, key in enumerate(complete) if number in kept}
    left = 0
    while missing := list_expansions(PROBLEMS, MODEL_IDS, config, recorded.get)[0]:
        if left == 0:
            planned = estimate(PROBLEMS, MODEL_IDS, config, recorded.get)
            assert len(missing) <= planned.calls_expected <= planned.calls_most
        left += len(missing)
        for expansion in missing:
            record(recorded, expansion)
    assert left == 0 or left <= planned.calls_most
    assert recorded == complete
