"""Prompts: the instruction, worked examples of our own, where a step ends, how a prefix goes on.

Invariant: a prompt version is frozen once steps are recorded with it; a change is a new version,
because every recorded step depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from routerlib.example_solutions import (
    ARITHMETIC_EXAMPLES,
    MATH_EXAMPLES,
    WORD_PROBLEM_EXAMPLES,
    WorkedExample,
)
from routerlib.records import Message
from routerlib.steps import StepRule


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """A named system message with its worked examples, and where the steps that it asks for end."""

    name: str
    system: str
    examples: tuple[WorkedExample, ...]
    step_rule: StepRule


def build_messages(
    prompt: PromptVersion, problem_text: str, prefix: str = ""
) -> tuple[Message, ...]:
    """Return the chat that asks for the continuation of ``prefix``.

    The worked examples come first and are the same for all problems, so that a server with
    prefix caching reads them once. A non-empty prefix is the last, assistant, message.
    """
    messages = [Message("system", prompt.system)]
    for example in prompt.examples:
        messages.append(Message("user", example.problem))
        messages.append(Message("assistant", example.render(prompt.step_rule.delimiter)))
    messages.append(Message("user", problem_text))
    if prefix:
        messages.append(Message("assistant", prefix))
    return tuple(messages)


_LINES = StepRule(delimiter="\n", max_step_tokens=100, max_tail_tokens=200)
# A paragraph may hold several lines. The caps: four steps and a tail fit 2,048 tokens of context
# beside the examples and a long problem.
_PARAGRAPHS = StepRule(delimiter="\n\n", max_step_tokens=120, max_tail_tokens=240)
_FREE_PARAGRAPHS = StepRule(delimiter="\n\n", max_step_tokens=200, max_tail_tokens=600)

_LINES_SYSTEM = (
    "You solve grade-school math word problems. Think about what is asked, then write "
    "one short reasoning step per line, each a full sentence with its arithmetic. Do "
    'not skip steps. The last line is "Answer: " and the number alone, without unit.'
)
_PARAGRAPHS_SYSTEM = (
    "You solve mathematics problems. Write two to four short paragraphs with an empty line between "
    "them. Each paragraph is one step of the reasoning, at most three lines, with its "
    'calculation. Below the last one write a line "Answer: " and the final answer alone.'
)

_ARITHMETIC_EXAMPLES = (
    WorkedExample(
        "Calculate 46 + 35 - 18 + 27.",
        ("46 + 35 = 81", "81 - 18 = 63", "63 + 27 = 90"),
        "90",
    ),
    WorkedExample(
        "Calculate (8 - 3) * 6 + 14.",
        ("8 - 3 = 5", "5 * 6 = 30", "30 + 14 = 44"),
        "44",
    ),
    WorkedExample(
        "Solve for t: 6*t + 25 = 97",
        ("6 * t = 97 - 25", "97 - 25 = 72, so 6 * t = 72", "t = 72 / 6 = 12"),
        "12",
    ),
    WorkedExample(
        "Calculate 152 - 340 + 75 - 21 + 6.",
        ("152 - 340 = -188", "-188 + 75 = -113", "-113 - 21 = -134", "-134 + 6 = -128"),
        "-128",
    ),
    WorkedExample(
        "Calculate 7 + -(4 * -2 + 5) * 3.",
        ("4 * -2 = -8", "-8 + 5 = -3", "-(-3) = 3", "3 * 3 = 9", "7 + 9 = 16"),
        "16",
    ),
    WorkedExample(
        "Find the value of k in the equation: 40 - 3*k = -11",
        ("-3 * k = -11 - 40", "-11 - 40 = -51, so -3 * k = -51", "k = -51 / -3 = 17"),
        "17",
    ),
    WorkedExample(
        "Calculate -2 * 9 - -6 - (1 + 5) * 4.",
        ("-2 * 9 = -18", "1 + 5 = 6", "6 * 4 = 24", "-18 - -6 = -12", "-12 - 24 = -36"),
        "-36",
    ),
    WorkedExample(
        "Determine the value of n that satisfies: 15*n - 48 = 252",
        ("15 * n = 252 + 48", "252 + 48 = 300, so 15 * n = 300", "n = 300 / 15 = 20"),
        "20",
    ),
)

PROMPTS: dict[str, PromptVersion] = {
    prompt.name: prompt
    for prompt in (
        PromptVersion(
            name="short-lines-v1",
            system=_LINES_SYSTEM,
            examples=WORD_PROBLEM_EXAMPLES,
            step_rule=_LINES,
        ),
        PromptVersion(
            name="short-lines-arithmetic-v1",
            system=(
                "You calculate and solve equations. Write one short step per line, with one "
                'calculation and its result. Do not skip steps. The last line is "Answer: " and '
                "the number alone."
            ),
            examples=ARITHMETIC_EXAMPLES,
            step_rule=_LINES,
        ),
        PromptVersion(
            name="short-lines-bare-v1", system=_LINES_SYSTEM, examples=(), step_rule=_LINES
        ),
        PromptVersion(
            name="paragraphs-v1",
            system=_PARAGRAPHS_SYSTEM,
            examples=MATH_EXAMPLES,
            step_rule=_PARAGRAPHS,
        ),
        PromptVersion(
            name="paragraphs-bare-v1",
            system=_PARAGRAPHS_SYSTEM,
            examples=(),
            step_rule=_PARAGRAPHS,
        ),
        PromptVersion(
            name="boxed-v1",
            system="Please reason step by step, and put your final answer within \\boxed{}.",
            examples=(),
            step_rule=_FREE_PARAGRAPHS,
        ),
    )
}
