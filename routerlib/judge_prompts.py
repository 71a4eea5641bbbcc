"""What a judge is asked about a step, and how its answer becomes a score.

A judge reads the system message, the problem as the user's message, and the solution so far, its
newest step last, as its own unfinished reply, which ends with the question's keyword. It writes one
token, and the probabilities of that token's alternatives are the score. What all calls share comes
first, then the problem, then the steps: a server with prefix caching reads a step once however
many drafts follow it, and another question costs a few tokens more. A model that does not go on
with a begun reply is asked in a turn: the user's message holds all of it, in the same order, and
the first token of the judge's reply is its answer.

Invariant: a question is frozen once judgements are recorded with it; a change is a new version.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from routerlib.errors import JudgementError
from routerlib.records import Message

_SYSTEM = (
    "You check solutions of grade-school math word problems, written one step per line. Look only "
    'at the last line written so far. "Score" asks how useful it is for reaching the correct final '
    'answer: a digit from 0 (wrong or useless) to 9 (correct and useful). "Right" asks whether it '
    "is correct: yes or no."
)


_SO_FAR = "\n\nThe solution so far:\n"
_DIGITS = tuple((str(digit), digit / 9) for digit in range(10))
_YES_OR_NO = (("yes", 1.0), ("no", 0.0))


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A question with its version.

    ``keyword`` stands after the solution so far; the judge's next token is its answer.
    ``answers`` maps the tokens that count, lower case and without white space around them, to what
    each is worth, in [0, 1]. ``in_turn``: solution and keyword are the user's words, not a reply
    that the judge began.
    """

    name: str
    system: str
    keyword: str
    answers: tuple[tuple[str, float], ...]
    in_turn: bool = False

    def __post_init__(self) -> None:
        worths = dict(self.answers)
        if len(worths) < 2 or len(worths) < len(self.answers):
            raise ValueError(f"{self.name}: give at least two answers, each once")
        for token, worth in self.answers:
            if token != _read_token(token) or not 0 <= worth <= 1:
                raise ValueError(
                    f"{self.name}: the answer {token!r} worth {worth} must be lower case, without "
                    "white space around it, and worth between 0 and 1"
                )


def build_judge_messages(
    question: JudgePrompt, problem_text: str, solution: str = ""
) -> tuple[Message, ...]:
    """Return the chat that asks ``question`` about the last step of ``solution``.

    Without a solution it is what comes before a problem's own tokens: the same for all problems.
    """
    messages = (Message("system", question.system), Message("user", problem_text))
    if not solution:
        return messages
    asked = solution.rstrip() + question.keyword
    if question.in_turn:
        return (messages[0], Message("user", f"{problem_text}{_SO_FAR}{asked}"))
    return (*messages, Message("assistant", asked))


def list_questions(*, in_turn: bool = False) -> tuple[str, ...]:
    """Return the names of the questions that are asked in one of the two ways."""
    return tuple(name for name, found in JUDGE_PROMPTS.items() if found.in_turn is in_turn)


def count_question_bytes(question: JudgePrompt) -> int:
    """Return the bytes of what is said beside instructions, problem and steps: no tokeniser makes
    more tokens of it."""
    return len((_SO_FAR if question.in_turn else "").encode() + question.keyword.encode())


def compute_judge_score(
    question: JudgePrompt, first_token_top: Sequence[tuple[str, float]]
) -> float:
    """Return the expected worth of the answer, in [0, 1].

    ``first_token_top`` holds (token, log-probability) pairs of the judge's one token. The score is
    ``sum(p_t * worth_t) / sum(p_t)`` over the tokens t that are answers: the probabilities are
    renormalised over them, whatever the case and the spaces around them. Raises
    ``JudgementError`` when none is among the pairs.

    >>> half = math.log(0.5)
    >>> compute_judge_score(JUDGE_PROMPTS["right-v1"], [(" Yes", half), ("no", half), ("So", -9)])
    0.5
    """
    worths = dict(question.answers)
    weighted = total = 0.0
    for token, logprob in first_token_top:
        worth = worths.get(_read_token(token))
        if worth is not None:
            probability = math.exp(logprob)
            weighted += probability * worth
            total += probability
    if total <= 0:
        raise JudgementError(
            f"none of the {len(first_token_top)} most probable tokens answers {question.name}: "
            f"{[token for token, _ in first_token_top]!r:.300}; ask for more top tokens, "
            "or use a judge that follows the instruction"
        )
    return min(1.0, max(0.0, weighted / total))


def _read_token(token: str) -> str:
    return token.strip().casefold()


JUDGE_PROMPTS: dict[str, JudgePrompt] = {
    question.name: question
    for question in (
        JudgePrompt(
            name="usefulness-v1",
            system=_SYSTEM,
            keyword="\n\nScore=",
            answers=_DIGITS,
        ),
        JudgePrompt(
            name="right-v1",
            system=_SYSTEM,
            keyword="\n\nRight:",
            answers=_YES_OR_NO,
        ),
        JudgePrompt(
            name="usefulness-turn-v1",
            system=_SYSTEM,
            keyword="\n\nScore? Reply with one digit, nothing else.",
            answers=_DIGITS,
            in_turn=True,
        ),
        JudgePrompt(
            name="right-turn-v1",
            system=_SYSTEM,
            keyword="\n\nRight? Reply yes or no, nothing else.",
            answers=_YES_OR_NO,
            in_turn=True,
        ),
    )
}
