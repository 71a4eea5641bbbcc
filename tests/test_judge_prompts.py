"""What a judge is asked, and scores worked by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib.errors import JudgementError, ModelError
from routerlib.judge_prompts import (
    JUDGE_PROMPTS,
    JudgePrompt,
    build_judge_messages,
    compute_judge_score,
    count_question_bytes,
    list_questions,
)
from routerlib.records import Message, compute_id

USEFULNESS, RIGHT = JUDGE_PROMPTS["usefulness-v1"], JUDGE_PROMPTS["right-v1"]
TINY = JudgePrompt("tiny-v1", "Judge.", "\n\nGood:", (("yes", 1.0), ("no", 0.25)))

# Recorded judgements depend on these: a change is a new version with an entry of its own.
FROZEN = {
    "usefulness-v1": "afd084ea243d9d705472",
    "right-v1": "5a9b1e84da6bca96d099",
    "usefulness-turn-v1": "58cbc3805690fe2d9c65",
    "right-turn-v1": "6f2cdadfa6715bc17dff",
}


def make_top(*pairs: tuple[str, float]) -> list[tuple[str, float]]:
    """Tokens with their probabilities, as a server gives them."""
    return [(token, math.log(probability)) for token, probability in pairs]


def test_the_chat_of_a_draft() -> None:
    shared = (Message("system", "Judge."), Message("user", "1 + 1?"))
    assert build_judge_messages(TINY, "1 + 1?") == shared
    asked = (*shared, Message("assistant", "It is 2.\nAnswer: 2\n\nGood:"))
    for solution in ("It is 2.\nAnswer: 2", "It is 2.\nAnswer: 2\n"):
        assert build_judge_messages(TINY, "1 + 1?", solution) == asked


def test_the_chat_of_a_draft_in_a_turn() -> None:
    """What all share comes first, then the problem and the steps, the question last."""
    in_turn = replace(TINY, in_turn=True)
    system = Message("system", "Judge.")
    assert build_judge_messages(in_turn, "1 + 1?") == (system, Message("user", "1 + 1?"))
    told = "1 + 1?\n\nThe solution so far:\nIt is 2.\nAnswer: 2\n\nGood:"
    for solution in ("It is 2.\nAnswer: 2", "It is 2.\nAnswer: 2\n"):
        asked = build_judge_messages(in_turn, "1 + 1?", solution)
        assert asked == (system, Message("user", told))
    more = len(told) - len("1 + 1?It is 2.\nAnswer: 2")
    assert count_question_bytes(in_turn) == more
    assert count_question_bytes(TINY) == len(TINY.keyword)


def test_each_question_is_asked_in_both_ways() -> None:
    for name, in_turn in zip(list_questions(), list_questions(in_turn=True), strict=True):
        assert in_turn == name.replace("-v1", "-turn-v1")
        assert JUDGE_PROMPTS[name].answers == JUDGE_PROMPTS[in_turn].answers


def test_recorded_questions_are_frozen() -> None:
    found = {}
    for name, question in JUDGE_PROMPTS.items():
        chat = build_judge_messages(question, "the problem", "the steps\n")
        parts = [part for message in chat for part in astuple(message)]
        found[name] = compute_id(*parts, *question.answers)
    assert found == FROZEN


def test_questions_differ_in_their_last_tokens_only() -> None:
    """What a server read for one question serves the other, and the draft's own children."""
    first, second = (build_judge_messages(q, "1 + 1?", "It is 2.\n") for q in (USEFULNESS, RIGHT))
    assert first[:-1] == second[:-1]
    assert first[-1].content.startswith("It is 2.\n")
    assert second[-1].content.startswith("It is 2.\n")
    child = build_judge_messages(RIGHT, "1 + 1?", "It is 2.\nAnswer: 2")
    assert child[-1].content.startswith("It is 2.\n")


@pytest.mark.parametrize(
    ("question", "top", "expected"),
    [
        (USEFULNESS, [("9", 0.5)], 1.0),
        (USEFULNESS, [("0", 0.5), ("So", 0.5)], 0.0),
        (USEFULNESS, [("9", 0.5), ("0", 0.25), (" 3", 0.25)], (0.5 * 9 + 0.25 * 3) / 9),
        (USEFULNESS, [("6", 0.3), ("?", 0.4), ("\n", 0.2), ("3", 0.1)], (0.3 * 6 + 0.1 * 3) / 3.6),
        (USEFULNESS, [("10", 0.5), ("9.5", 0.3), ("0", 0.2)], 0.0),
        (RIGHT, [(" Yes", 0.4), ("No", 0.2), (" yes", 0.2), ("YES", 0.1), (" no", 0.1)], 0.7),
        (RIGHT, [("Yesterday", 0.6), (" Yes", 0.1), (" NO", 0.3)], 0.25),
        (RIGHT, [(" No", 0.01)], 0.0),
        (TINY, [("yes", 0.4), ("no", 0.2)], (0.4 + 0.2 * 0.25) / 0.6),
    ],
)
def test_scores_by_hand(
    question: JudgePrompt, top: Sequence[tuple[str, float]], expected: float
) -> None:
    assert compute_judge_score(question, make_top(*top)) == pytest.approx(expected)


@given(st.lists(st.tuples(st.sampled_from("0123456789?"), st.floats(-700, 0)), min_size=1))
def test_a_score_is_between_0_and_1(top: list[tuple[str, float]]) -> None:
    top.append(("5", -3.0))
    assert 0 <= compute_judge_score(USEFULNESS, top) <= 1


@pytest.mark.parametrize("top", [[], [("So", 0.7), ("", 0.2), ("yes", 0.1)]])
def test_no_answer_is_an_error(top: list[tuple[str, float]]) -> None:
    with pytest.raises(JudgementError, match="most probable tokens answers usefulness-v1") as info:
        compute_judge_score(USEFULNESS, make_top(*top))
    assert isinstance(info.value, ModelError)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((), "at least two answers, each once"),
        ((("yes", 1.0),), "at least two"),
        ((("yes", 1.0), ("yes", 0.0)), "each once"),
        ((("Yes", 1.0), ("no", 0.0)), "'Yes' worth 1.0 must be lower case"),
        (((" yes", 1.0), ("no", 0.0)), "' yes' worth"),
        ((("yes", 1.5), ("no", 0.0)), "between 0 and 1"),
    ],
)
def test_answers_are_checked(answers: tuple[tuple[str, float], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgePrompt("tiny-v1", "Judge.", "Good:", answers)
