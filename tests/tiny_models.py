"""Models that write the solutions of ``tiny.py``, under the name of a real benchmark, watched.

Completion tokens are words and one more for what ended the text. Recording the plan ``lattice`` of
depth 2 takes each model 3, 4 and 3 calls at depths 0, 1 and 2, the plan ``switch`` the small one
3 and 2 calls (no path of its own gets deeper) and the large one as many. Before its first call a
model is asked once for the tokens that all prompts share. Tokens written by each model alone and
whether it is right: small (9, 9, 3), (0, 0, 1); large (13, 9, 9), (1, 1, 0).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tiny import EXPANSIONS, LARGE, SMALL, TEXTS, make_card, make_problems

from routerlib.errors import ModelError
from routerlib.models import ScriptedModel
from routerlib.models.shared_prompt import LETTER
from routerlib.records import Completion, ModelCard, Problem, Request

MODEL_IDS = (SMALL, LARGE)
CALLS_PER_LEVEL = (3, 4, 3)
LATTICE_CALLS = 20
SWITCH_CALLS = 10

_STEPS = {(TEXTS[number][0], prefix): texts for number, prefix, *texts in EXPANSIONS}


def write_solution(model_index: int, problem_text: str, prefix: str) -> str:
    """What a model writes from a prefix to its end: its steps, one after the other."""
    if problem_text in ("", LETTER):  # the prompt is being measured
        return "?"
    written = ""
    while (problem_text, prefix + written) in _STEPS and "Answer:" not in written:
        written += _STEPS[problem_text, prefix + written][model_index]
    assert written, f"no solution of {problem_text!r} goes on from {prefix!r}"
    return written


def read_asked(request: Request) -> tuple[str, str]:
    """The problem's text and the prefix of a request, by whatever protocol it asks."""
    last = request.messages[-1]
    if last.role == "assistant":
        return request.messages[-2].content, last.content
    if last.content in ("Write the next line only.", "Write the rest, to the end of the solution."):
        steps = []
        for asked, step in zip(request.messages[-3::-2], request.messages[-2::-2], strict=False):
            steps.insert(0, step.content + "\n")
            if asked.content.endswith("Write the first line only."):
                return asked.content.partition("\n\n")[0], "".join(steps)
    problem, _, turn = last.content.partition("\n\n")
    so_far, found, steps = turn.rpartition("\n\n")[0].partition("The solution so far:\n")
    assert not so_far
    return problem, steps + "\n" if found else ""


def make_gsm8k_problems() -> list[Problem]:
    """The problems of ``tiny.py``, graded as those of GSM8K are."""
    return [
        replace(problem, id=problem.id.replace("tiny", "gsm8k"), benchmark="gsm8k")
        for problem in make_problems()
    ]


def write_gsm8k_file(folder: Path) -> Path:
    """Write the problems as a test file in GSM8K's layout and return ``folder``."""
    rows = [
        json.dumps({"question": problem.text, "answer": f"#### {problem.answer}"})
        for problem in make_gsm8k_problems()
    ]
    (folder / "gsm8k").mkdir(parents=True)
    (folder / "gsm8k" / "test.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def make_cards() -> list[ModelCard]:
    return [make_card(SMALL, 100), make_card(LARGE, 300)]


@dataclass
class Watch:
    """What all models saw, in order: (model id, problem text, prefix) of every call; and how many
    calls were in flight together, of each model and of all."""

    calls: list[tuple[str, str, str]] = field(default_factory=list)
    most_in_flight: Counter[str] = field(default_factory=Counter)
    models_together: int = 0
    _in_flight: Counter[str] = field(default_factory=Counter)

    def begin(self, model_id: str, request: Request) -> None:
        self.calls.append((model_id, *read_asked(request)))
        self._in_flight[model_id] += 1
        self.most_in_flight[model_id] = max(
            self.most_in_flight[model_id], self._in_flight[model_id]
        )
        self.models_together = max(self.models_together, len(+self._in_flight))

    def end(self, model_id: str) -> None:
        self._in_flight[model_id] -= 1

    @property
    def expansions(self) -> list[tuple[str, str, str]]:
        """The calls without those that measure a prompt."""
        return [call for call in self.calls if call[1]]


@dataclass
class WatchedModel:
    """A scripted model whose answers take a few turns of the event loop, some more than others.

    ``before`` is called with each request; what it raises is the answer.
    """

    id: str
    scripted: ScriptedModel
    watch: Watch
    before: Callable[[Request], None] = lambda request: None

    async def complete(self, request: Request) -> Completion:
        self.watch.begin(self.id, request)
        try:
            for _ in range(2 + len(self.watch.calls) % 3):
                await asyncio.sleep(0)
            self.before(request)
            return await self.scripted.complete(request)
        finally:
            self.watch.end(self.id)

    async def aclose(self) -> None:
        """Do nothing."""


def make_tiny_models(
    watch: Watch | None = None, before: Callable[[Request], None] = lambda request: None
) -> list[WatchedModel]:
    """Both models; ``before`` is called with each request of either."""
    watch = Watch() if watch is None else watch

    def make_script(index: int) -> Callable[[Request], str]:
        return lambda request: write_solution(index, *read_asked(request))

    return [
        WatchedModel(model_id, ScriptedModel(model_id, make_script(index)), watch, before)
        for index, model_id in enumerate(MODEL_IDS)
    ]


def fail_on(
    count: int, is_asked: Callable[[str, str], bool] = lambda text, prefix: bool(text)
) -> Callable[[Request], None]:
    """Return a ``before`` that fails the first ``count`` calls that ``is_asked`` (of problem text
    and prefix) picks."""
    left = count

    def before(request: Request) -> None:
        nonlocal left
        if left > 0 and is_asked(*read_asked(request)):
            left -= 1
            raise ModelError("the server is tired")

    return before
