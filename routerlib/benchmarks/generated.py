"""Problems that the ``reasoning-gym`` package generates by seed, for no download and no licence.

One benchmark is one generator at one difficulty; ``chain_sum_4x2`` has 4 terms of 2 digits.
Invariants: same benchmark, seed and split, same problems; a larger size only appends; no text of a
benchmark is in two splits; an id names benchmark, split, seed and number, which determine the
problem; a text asks the question only, the prompt says how to answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from routerlib.benchmarks.splits import SPLITS
from routerlib.errors import BenchmarkError, MissingGeneratorError
from routerlib.records import Problem

GENERATED_SIZE = 1000  # problems of a generated split when no limit is given
MAX_GENERATED_SIZE = 50_000
SEEDS_PER_SPLIT = 1_000_000


def _keep_question(question: str) -> str:
    return question


def _reword_chain_sum(question: str) -> str:
    """Return the question without its "State the final answer", which asks for no steps."""
    _, _, expression = question.removesuffix(" =").rpartition(": ")
    return f"Calculate {expression}."


def _reword_basic_arithmetic(question: str) -> str:
    """Return the question without the spaces inside of parentheses."""
    return question.replace("( ", "(").replace(" )", ")")


@dataclass(frozen=True, slots=True)
class GeneratedTask:
    """A benchmark that is generated.

    ``generator`` is reasoning-gym's name of the data set, ``settings`` its difficulty: all that it
    takes but size and seed. ``reword`` makes the problem's text of the generated question.
    """

    benchmark: str
    generator: str
    settings: Mapping[str, Any]
    reword: Callable[[str], str] = _keep_question


def _make_chain_sum(terms: int, digits: int) -> GeneratedTask:
    return GeneratedTask(
        f"chain_sum_{terms}x{digits}",
        "chain_sum",
        {
            "min_terms": terms,
            "max_terms": terms,
            "min_digits": digits,
            "max_digits": digits,
            "allow_negation": False,
        },
        _reword_chain_sum,
    )


def _make_basic_arithmetic(terms: int, digits: int) -> GeneratedTask:
    """Sums, differences and products with parentheses and negative numbers. No quotients: the
    generator rounds them down, whatever the text says."""
    return GeneratedTask(
        f"basic_arithmetic_{terms}x{digits}",
        "basic_arithmetic",
        {
            "min_terms": terms,
            "max_terms": terms,
            "min_digits": digits,
            "max_digits": digits,
            "operators": ("+", "-", "*"),
            "allow_parentheses": True,
            "allow_negation": True,
            "format_style": "simple",
            "whitespace": "single",
        },
        _reword_basic_arithmetic,
    )


def _make_simple_equations(terms: int, digits: int) -> GeneratedTask:
    """Linear equations with one unknown whose left side has so many terms before it is simplified;
    their numbers and the solution are positive and of so many digits at most."""
    return GeneratedTask(
        f"simple_equations_{terms}x{digits}",
        "simple_equations",
        {
            "min_terms": terms,
            "max_terms": terms,
            "min_value": 1,
            "max_value": 10**digits - 1,
            "operators": ("+", "-", "*"),
            "operators_weights": (0.4, 0.4, 0.2),
        },
    )


GENERATED_TASKS: Mapping[str, GeneratedTask] = {
    task.benchmark: task
    for task in (
        # Its text keeps the generator's "Give the result as your final answer": an old benchmark.
        GeneratedTask("gsm_symbolic", "gsm_symbolic", {}),
        # Chosen on pilot problems so that a small and a large model differ, and not all alike.
        _make_chain_sum(4, 2),
        _make_chain_sum(5, 3),
        _make_chain_sum(5, 4),
        _make_chain_sum(6, 3),
        _make_basic_arithmetic(4, 1),
        _make_simple_equations(3, 2),
    )
}


def generate_problems(task: GeneratedTask, split: str, size: int, seed: int) -> list[Problem]:
    """Generate the first ``size`` problems of one split.

    Each (seed, split) draws from item seeds of its own, and a text belongs to the split that its
    hash names, so that no text is in two splits.
    """
    if not 0 <= size <= MAX_GENERATED_SIZE:
        raise BenchmarkError(
            f"limit={size} is too many generated problems: give at most {MAX_GENERATED_SIZE}"
        )
    if seed < 0:
        raise BenchmarkError(f"seed must not be negative, got {seed}")
    try:
        import reasoning_gym
    except ImportError as error:
        raise MissingGeneratorError(
            f"{task.benchmark} needs the package reasoning-gym: install routerlib[collect]"
        ) from error
    position = SPLITS.index(split)
    dataset = reasoning_gym.create_dataset(
        task.generator,
        # One text in four belongs to the split; the margin makes a shortage all but impossible.
        size=12 * size + 200,
        seed=(seed * len(SPLITS) + position) * SEEDS_PER_SPLIT,
        **task.settings,
    )
    problems: dict[str, Problem] = {}
    for number, item in enumerate(dataset):
        if len(problems) == size:
            break
        text = task.reword(item["question"])
        digest = hashlib.sha256(text.encode()).hexdigest()
        if int(digest[:8], 16) % len(SPLITS) == position and text not in problems:
            problem_id = f"{task.benchmark}/{split}-{seed}/{number}"
            problems[text] = Problem(problem_id, task.benchmark, split, text, str(item["answer"]))
    if len(problems) < size:
        raise BenchmarkError(f"only {len(problems)} of {size} problems are distinct: lower limit")
    return list(problems.values())
