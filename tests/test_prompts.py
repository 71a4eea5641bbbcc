"""Prompts: the chat that is built, and that a recorded version never changes."""

from __future__ import annotations

import re
from dataclasses import astuple
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib.grading import extract_answer, grade
from routerlib.prompts import PROMPTS, PromptVersion, WorkedExample, build_messages
from routerlib.records import Message, compute_id
from routerlib.steps import StepRule, is_finished, split_steps

TINY = PromptVersion("tiny", "Think.", (WorkedExample("1 + 1?", ("1 + 1 = 2.",), "2"),))

# Recorded steps depend on these messages: a change is a new version with an entry of its own.
FROZEN = {"short-lines-v1": "7206077a32d3da6ce394"}


def test_the_chat_of_a_problem() -> None:
    shared = (
        Message("system", "Think."),
        Message("user", "1 + 1?"),
        Message("assistant", "1 + 1 = 2.\nAnswer: 2"),
    )
    asked = (*shared, Message("user", "2 + 2?"))
    assert build_messages(TINY, "2 + 2?") == asked
    assert build_messages(TINY, "2 + 2?", "2 + 2") == (*asked, Message("assistant", "2 + 2"))


@given(st.text(), st.text(), st.text(min_size=1))
def test_problems_share_all_but_the_end(first: str, second: str, prefix: str) -> None:
    """What a server may cache: the messages before the problem, and a state's before its steps."""
    chat, other = build_messages(TINY, first, prefix), build_messages(TINY, second)
    assert chat[:3] == other[:3]
    assert chat[:-1] == build_messages(TINY, first)
    assert chat[-1] == Message("assistant", prefix)


def test_recorded_prompts_are_frozen() -> None:
    found = {}
    for name, prompt in PROMPTS.items():
        chat = build_messages(prompt, "the problem", "the steps\n")
        found[name] = compute_id(*(part for message in chat for part in astuple(message)))
    assert found == FROZEN


EXAMPLES = [
    pytest.param(prompt, example, id=f"{name}-{number}")
    for name, prompt in PROMPTS.items()
    for number, example in enumerate(prompt.examples)
]


@pytest.mark.parametrize(("prompt", "example"), EXAMPLES)
def test_worked_examples_follow_the_rule(prompt: PromptVersion, example: WorkedExample) -> None:
    """Each line is one step, only the last one ends the solution, and its answer is read."""
    assert PROMPTS[prompt.name] is prompt
    *steps, last = split_steps(example.solution + "\n")
    assert tuple(step.removesuffix("\n") for step in steps) == example.steps
    assert not any(is_finished(step, "delimiter", "step", StepRule()) for step in steps)
    assert is_finished(last, "delimiter", "step", StepRule())
    assert grade(example.answer, extract_answer(example.solution), style="number")


@pytest.mark.parametrize(("prompt", "example"), EXAMPLES)
def test_worked_examples_calculate_right(prompt: PromptVersion, example: WorkedExample) -> None:
    equations = re.findall(r"(\d[\d.]*(?: [-+*/] \d[\d.]*)+) = (\d+(?:\.\d+)?)", example.solution)
    assert equations, prompt.name
    for left, right in equations:
        assert calculate(left) == Fraction(right), left
    assert equations[-1][1] == example.answer  # the last step finds the answer


def calculate(expression: str) -> Fraction:
    """The value of numbers joined by + - * /, the latter two first."""
    first, *rest = expression.split()
    terms = [Fraction(first)]
    for operator, number in zip(rest[::2], map(Fraction, rest[1::2]), strict=True):
        if operator in "*/":
            terms[-1] *= number if operator == "*" else 1 / number
        else:
            terms.append(number if operator == "+" else -number)
    return sum(terms, Fraction(0))
