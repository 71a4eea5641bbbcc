"""Where steps end, what they add, and when a solution is finished."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib.models.scripted import build_completion
from routerlib.records import EndedBy, Message, Request, Sampling, StepKind
from routerlib.steps import StepRule, compute_step_text, is_finished, join_steps, split_steps

RULE = StepRule()


@given(st.text(alphabet="ab\n ."), st.sampled_from(["\n", "\n\n", ". ", "ab"]))
def test_splitting_loses_nothing(text: str, delimiter: str) -> None:
    steps = split_steps(text, delimiter)
    assert join_steps(steps) == text
    assert all(steps)  # none is empty
    assert all(step.endswith(delimiter) for step in steps[:-1])
    assert all(delimiter not in step.removesuffix(delimiter) for step in steps)


@given(st.lists(st.text(alphabet="ab ."), max_size=6))
def test_steps_that_were_joined_are_found_again(lines: list[str]) -> None:
    steps = [f"{line}\n" for line in lines]
    assert split_steps(join_steps(steps)) == steps


@given(st.text(alphabet="ab \n", min_size=1), st.integers(1, 5))
def test_texts_of_steps_join_to_what_a_model_wrote(written: str, max_step_tokens: int) -> None:
    """Recording step by step, each from where the last one ended, gives the model's own text."""
    rule = StepRule(max_step_tokens=max_step_tokens)
    state = ""
    while state != written:
        request = Request((Message("user", "?"),), Sampling(max_tokens=max_step_tokens), ("\n",))
        completion = build_completion(written[len(state) :], request, "small")
        state += compute_step_text(completion, rule)
        assert written.startswith(state)


@pytest.mark.parametrize(
    ("text", "ended_by", "kind", "finished"),
    [
        ("2 + 2 = 4\n", "delimiter", "step", False),
        ("2 + 2 = 4", "eos", "step", True),  # the model stopped by itself
        ("", "eos", "step", True),
        ("\n", "delimiter", "step", False),
        ("2 + 2 =", "length", "step", False),  # cut off: the next step goes on
        ("2 + 2 =", "length", "tail", True),  # a tail is the end, whatever ended it
        ("2 + 2 = 4", "eos", "tail", True),
        ("Answer: 4\n", "delimiter", "step", True),
        ("  Answer: 4\n", "delimiter", "step", True),
        ("**Answer: 4**\n", "delimiter", "step", True),
        ("Answer:\n", "delimiter", "step", False),  # nothing is answered yet
        ("Answer:  \n", "delimiter", "step", False),
        ("answer: 4\n", "delimiter", "step", False),
        ("The answer is near.\n", "delimiter", "step", False),
        ("We look for the Answer: it is near.\n", "delimiter", "step", False),
        ("So it is \\boxed{4}.\n", "delimiter", "step", True),
        ("Answer: 4", "length", "step", False),  # perhaps the start of 42
    ],
)
def test_when_a_solution_is_finished(
    text: str, ended_by: EndedBy, kind: StepKind, finished: bool
) -> None:
    assert is_finished(text, ended_by, kind, RULE) is finished


def test_an_answer_in_any_line_of_a_long_step_counts() -> None:
    rule = StepRule(delimiter="\n\n")
    assert is_finished("So:\nAnswer: 4\n\n", "delimiter", "step", rule)
    assert not is_finished("So:\nAnswer:\n\n", "delimiter", "step", rule)


def test_the_pattern_and_the_caps_are_settings() -> None:
    assert is_finished("#### 4\n", "delimiter", "step", StepRule(answer_pattern="^####"))
    assert not is_finished("#### 4\n", "delimiter", "step", RULE)
    rule = StepRule(max_step_tokens=7, max_tail_tokens=9)
    assert (rule.get_max_tokens("step"), rule.get_max_tokens("tail")) == (7, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delimiter": ""}, "delimiter is empty"),
        ({"max_step_tokens": 0}, "max_step_tokens=0"),
        ({"max_tail_tokens": -1}, "max_tail_tokens=-1"),
    ],
)
def test_impossible_rules_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepRule(**changes)  # type: ignore[arg-type]
