"""What one step is: where it ends, what text it adds, and when a solution is finished.

Invariants: the text of a state is the concatenation of its steps' texts, nothing added and
nothing lost; a finished text is never continued.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from routerlib.records import Completion, EndedBy, StepKind


@dataclass(frozen=True, slots=True)
class StepRule:
    """Where steps end.

    ``delimiter`` ends a step and belongs to it; ``max_step_tokens`` and ``max_tail_tokens`` cap
    the tokens of one step and of a completion to the end; ``answer_pattern`` is a regular
    expression that matches a line which ends the solution.
    """

    delimiter: str = "\n"
    max_step_tokens: int = 100
    max_tail_tokens: int = 200
    answer_pattern: str = r"^\s*(?:\*\*)?Answer:.*\S|\\boxed\{"

    def __post_init__(self) -> None:
        if not self.delimiter:
            raise ValueError("delimiter is empty: give the text that ends a step, such as '\\n'")
        if min(self.max_step_tokens, self.max_tail_tokens) < 1:
            raise ValueError(
                f"token caps must be positive, got max_step_tokens={self.max_step_tokens}, "
                f"max_tail_tokens={self.max_tail_tokens}"
            )
        re.compile(self.answer_pattern)

    def get_max_tokens(self, kind: StepKind) -> int:
        """Return the token cap of a step or of a tail."""
        return self.max_step_tokens if kind == "step" else self.max_tail_tokens


def compute_step_text(completion: Completion, rule: StepRule) -> str:
    """Return the text that a completion adds to the state: its own text, and the delimiter when
    the delimiter is what ended it."""
    ending = rule.delimiter if completion.ended_by == "delimiter" else ""
    return completion.text + ending


def is_finished(step_text: str, ended_by: EndedBy, kind: StepKind, rule: StepRule) -> bool:
    r"""Say whether a solution ends with this step: its model stopped by itself, it completed the
    rest, or it wrote an answer line.

    >>> is_finished("Answer: 4\n", "delimiter", "step", StepRule())
    True
    >>> is_finished("2 + 2 = 4\n", "delimiter", "step", StepRule())
    False
    """
    if kind == "tail" or ended_by == "eos":
        return True
    return ended_by == "delimiter" and bool(
        re.search(rule.answer_pattern, step_text, flags=re.MULTILINE)
    )


def split_steps(text: str, delimiter: str = "\n") -> list[str]:
    r"""Split a text into steps, each with the delimiter that ended it.

    >>> split_steps("a\nb\n\nc")
    ['a\n', 'b\n', '\n', 'c']
    """
    pieces = text.split(delimiter)
    steps = [piece + delimiter for piece in pieces[:-1]]
    return [*steps, pieces[-1]] if pieces[-1] else steps


def join_steps(steps: Iterable[str]) -> str:
    """Join steps to the text they came from."""
    return "".join(steps)
