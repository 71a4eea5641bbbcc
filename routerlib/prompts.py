"""Prompts: the instruction, worked examples of our own, and how a prefix is continued.

Invariant: a prompt version is frozen once steps are recorded with it; a change is a new version,
because every recorded step depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from routerlib.records import Message


@dataclass(frozen=True, slots=True)
class WorkedExample:
    """A problem of our own with its solution, one step per line."""

    problem: str
    steps: tuple[str, ...]
    answer: str

    @property
    def solution(self) -> str:
        return "\n".join((*self.steps, f"Answer: {self.answer}"))


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """A named system message with its worked examples."""

    name: str
    system: str
    examples: tuple[WorkedExample, ...]


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
        messages.append(Message("assistant", example.solution))
    messages.append(Message("user", problem_text))
    if prefix:
        messages.append(Message("assistant", prefix))
    return tuple(messages)


_ARITHMETIC_EXAMPLES = (
    WorkedExample(
        (
            "A bakery bakes 12 trays of rolls with 15 rolls on each tray. It sells 140 rolls "
            "before noon and half of the rest in the afternoon. How many rolls are left?"
        ),
        (
            "The bakery bakes 12 * 15 = 180 rolls.",
            "After the morning there are 180 - 140 = 40 rolls left.",
            "In the afternoon it sells 40 / 2 = 20 rolls.",
            "So 40 - 20 = 20 rolls are left.",
        ),
        "20",
    ),
    WorkedExample(
        (
            "Mira has 3 times as many stickers as Theo. Theo has 8 fewer stickers than Ana, "
            "who has 20. How many stickers do the three have together?"
        ),
        (
            "Theo has 20 - 8 = 12 stickers.",
            "Mira has 3 * 12 = 36 stickers.",
            "Together they have 20 + 12 + 36 = 68 stickers.",
        ),
        "68",
    ),
    WorkedExample(
        (
            "A jacket costs $80. In a sale its price falls by 25%, and Leo pays with a $100 "
            "note. How much change does he get, in dollars?"
        ),
        (
            "The discount is 80 * 25 / 100 = 20 dollars.",
            "The sale price is 80 - 20 = 60 dollars.",
            "The change is 100 - 60 = 40 dollars.",
        ),
        "40",
    ),
    WorkedExample(
        (
            "Two pumps fill a pool of 900 liters. The first gives 40 liters per minute and "
            "the second 20 liters per minute. After both ran for 6 minutes the first one "
            "breaks. How many more minutes does the second pump need?"
        ),
        (
            "Together the pumps give 40 + 20 = 60 liters per minute.",
            "In 6 minutes they give 60 * 6 = 360 liters.",
            "There are 900 - 360 = 540 liters missing.",
            "The second pump needs 540 / 20 = 27 more minutes.",
        ),
        "27",
    ),
    WorkedExample(
        (
            "A farmer sells 30 eggs a day, 6 eggs to a box, at $3.50 a box. How many dollars "
            "does he earn in a week?"
        ),
        (
            "He sells 30 / 6 = 5 boxes a day.",
            "He earns 5 * 3.5 = 17.5 dollars a day.",
            "In a week he earns 17.5 * 7 = 122.5 dollars.",
        ),
        "122.5",
    ),
    WorkedExample(
        (
            "Nora is 6 years older than Sam. In 4 years Sam will be twice as old as he was 5 "
            "years ago. How old is Nora now?"
        ),
        (
            "Let Sam be x years old now.",
            "In 4 years Sam will be x + 4, and 5 years ago he was x - 5.",
            "So x + 4 = 2 * (x - 5) = 2x - 10, which gives x = 14.",
            "Nora is 14 + 6 = 20 years old.",
        ),
        "20",
    ),
    WorkedExample(
        (
            "A train has 5 cars with 48 seats each. Three quarters of the seats are taken, "
            "and then 30 people get off and 12 get on. How many people are on the train?"
        ),
        (
            "The train has 5 * 48 = 240 seats.",
            "At first 240 * 3 / 4 = 180 seats are taken.",
            "After 30 people get off there are 180 - 30 = 150 people.",
            "After 12 people get on there are 150 + 12 = 162 people.",
        ),
        "162",
    ),
    WorkedExample(
        (
            "Kim reads 20 pages on Monday, twice as many on Tuesday, and on Wednesday 10 "
            "pages less than on Tuesday. Her book has 150 pages. How many pages must she "
            "still read?"
        ),
        (
            "On Tuesday she reads 20 * 2 = 40 pages.",
            "On Wednesday she reads 40 - 10 = 30 pages.",
            "She has read 20 + 40 + 30 = 90 pages.",
            "She must still read 150 - 90 = 60 pages.",
        ),
        "60",
    ),
)

PROMPTS: dict[str, PromptVersion] = {
    prompt.name: prompt
    for prompt in (
        PromptVersion(
            name="short-lines-v1",
            system=(
                "You solve grade-school math word problems. Think about what is asked, then write "
                "one short reasoning step per line, each a full sentence with its arithmetic. Do "
                'not skip steps. The last line is "Answer: " and the number alone, without unit.'
            ),
            examples=_ARITHMETIC_EXAMPLES,
        ),
    )
}
