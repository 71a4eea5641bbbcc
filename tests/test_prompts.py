"""Prompts: the chat that is built, and that a recorded version never changes."""

from __future__ import annotations

import re
from dataclasses import astuple
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerlib.example_solutions import (
    ARITHMETIC_EXAMPLES,
    WORD_PROBLEM_EXAMPLES,
    WorkedExample,
)
from routerlib.grading import extract_answer, grade
from routerlib.prompts import PROMPTS, PromptVersion, build_messages
from routerlib.records import Message, compute_id
from routerlib.steps import StepRule, is_finished, split_steps

TINY = PromptVersion("tiny", "Think.", (WorkedExample("1 + 1?", ("1 + 1 = 2.",), "2"),), StepRule())

# Recorded steps depend on these messages: a change is a new version with an entry of its own.
FROZEN = {
    "short-lines-v1": ("7206077a32d3da6ce394", "\n", 100, 200),
    "short-lines-bare-v1": ("6d6ea9389d78e02c8866", "\n", 100, 200),
    "short-lines-arithmetic-v1": ("0b9b8984eaeb763fe4db", "\n", 100, 200),
    "paragraphs-v1": ("5030089a27a4be67f3c4", "\n\n", 120, 240),
    "paragraphs-bare-v1": ("e077ebdfce52c1a679fd", "\n\n", 120, 240),
    "boxed-v1": ("9a0ca41465a54766547b", "\n\n", 200, 600),
}


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
        rule = prompt.step_rule
        found[name] = (
            compute_id(*(part for message in chat for part in astuple(message))),
            rule.delimiter,
            rule.max_step_tokens,
            rule.max_tail_tokens,
        )
    assert found == FROZEN


EXAMPLES = [
    pytest.param(prompt, example, id=f"{name}-{number}")
    for name, prompt in PROMPTS.items()
    for number, example in enumerate(prompt.examples)
]


@pytest.mark.parametrize(("prompt", "example"), EXAMPLES)
def test_worked_examples_follow_the_rule(prompt: PromptVersion, example: WorkedExample) -> None:
    """Each piece is one step, only the last one ends the solution, and its answer is read."""
    assert PROMPTS[prompt.name] is prompt
    rule = prompt.step_rule
    solution = example.render(rule.delimiter)
    *steps, last = split_steps(solution + rule.delimiter, rule.delimiter)
    last = last.removesuffix(rule.delimiter)
    if rule.delimiter == "\n":  # the answer's line is a step of its own
        assert last == f"Answer: {example.answer}"
    else:
        assert last == f"{example.steps[-1]}\nAnswer: {example.answer}"
        steps.append(example.steps[-1])
    assert tuple(step.removesuffix(rule.delimiter) for step in steps) == example.steps
    assert not any(is_finished(step, "delimiter", "step", rule) for step in steps)
    assert is_finished(last, "delimiter", "step", rule)
    style = "number" if rule.delimiter == "\n" else "math"
    assert grade(example.answer, extract_answer(solution), style=style)


EQUATION = r"(-?\d[\d.]*(?: [-+*/] -?\d[\d.]*)+) = (-?\d+(?:\.\d+)?)"


@pytest.mark.parametrize("example", [*WORD_PROBLEM_EXAMPLES, *ARITHMETIC_EXAMPLES])
def test_arithmetic_examples_calculate_right(example: WorkedExample) -> None:
    equations = re.findall(EQUATION, example.render("\n"))
    assert equations
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
