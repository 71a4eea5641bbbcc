"""``gsm_symbolic``: grade-school problems that the ``reasoning-gym`` package generates by seed.

Invariants: same seed and split, same problems; a larger size only appends; no text is in two
splits.
"""

from __future__ import annotations

import hashlib

from routerlib.benchmarks.splits import SPLITS
from routerlib.errors import BenchmarkError
from routerlib.records import Problem

GENERATED_SIZE = 1000  # problems of a generated split when no limit is given
MAX_GENERATED_SIZE = 50_000
SEEDS_PER_SPLIT = 1_000_000


def generate_problems(split: str, size: int, seed: int) -> list[Problem]:
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
        raise BenchmarkError(
            "gsm_symbolic needs the package reasoning-gym: install routerlib[collect]"
        ) from error
    position = SPLITS.index(split)
    dataset = reasoning_gym.create_dataset(
        "gsm_symbolic",
        # One text in four belongs to the split; the margin makes a shortage all but impossible.
        size=12 * size + 200,
        seed=(seed * len(SPLITS) + position) * SEEDS_PER_SPLIT,
    )
    problems: dict[str, Problem] = {}
    for number, item in enumerate(dataset):
        if len(problems) == size:
            break
        text = item["question"]
        digest = hashlib.sha256(text.encode()).hexdigest()
        if int(digest[:8], 16) % len(SPLITS) == position and text not in problems:
            problem_id = f"gsm_symbolic/{split}-{seed}/{number}"
            problems[text] = Problem(problem_id, "gsm_symbolic", split, text, str(item["answer"]))
    if len(problems) < size:
        raise BenchmarkError(f"only {len(problems)} of {size} problems are distinct: lower limit")
    return list(problems.values())
