"""What one step is: where it ends, what text it adds, and when a solution is finished.

Invariants: the text of a state is the concatenation of its steps' texts, nothing added and
nothing lost; a finished text is never continued.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

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


def cut_completion(completion: Completion, start: int, end: int, ended_by: EndedBy) -> Completion:
    """Return a completion with ``text[start:end]`` alone, and with all tokens that were written.

    Log-probabilities are those of the tokens of the text that is left and, where something follows
    it, of the one that ends it. There are none where the start was cut off, or where the tokens'
    texts do not make up the text.
    """
    return replace(
        completion,
        text=completion.text[start:end],
        ended_by=ended_by,
        token_logprobs=_keep_logprobs(completion, end) if start == 0 else (),
        first_token_top=completion.first_token_top if start == 0 else (),
    )


def cut_at_stops(completion: Completion, stops: Iterable[str]) -> Completion:
    """Return a completion cut before the first of the stop strings that is in its text, as a
    server would have cut it; see ``cut_completion``."""
    places = [completion.text.index(stop) for stop in stops if stop in completion.text]
    return cut_completion(completion, 0, min(places), "delimiter") if places else completion


def _keep_logprobs(completion: Completion, end: int) -> tuple[float, ...]:
    if end >= len(completion.text):
        return completion.token_logprobs
    texts = completion.token_texts
    makes_up_text = "".join(texts).startswith(completion.text)
    if not makes_up_text or len(texts) != len(completion.token_logprobs):
        return ()
    length = count = 0
    while length <= end:
        length += len(texts[count])
        count += 1
    return completion.token_logprobs[:count]


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
