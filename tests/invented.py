"""Invented problems, as many as wanted, and two models that solve them by a fixed rule.

A line depends on the problem, the lines before it and, for every third one, on who writes it; so
some states are reached by two paths, and an answer comes after one to four lines.
"""

from __future__ import annotations

from routerlib.records import Problem, compute_id


def make_invented_problems(count: int) -> list[Problem]:
    """Problems in the form of GSM8K's test split."""
    return [
        Problem(f"gsm8k/test/{n}", "gsm8k", "test", f"Ann has {n} pens. How many?", str(n % 3))
        for n in range(count)
    ]


def write_invented(model_index: int, problem_text: str, prefix: str) -> str:
    """What a model writes from a prefix to its end."""
    if not problem_text:  # the prompt is being measured
        return "?"
    written = ""
    while "Answer:" not in written:
        written += _write_line(model_index, problem_text, prefix + written)
    return written


def _write_line(model_index: int, problem_text: str, prefix: str) -> str:
    number = int(compute_id(problem_text, prefix), 16)
    if number % 3 == 0:
        number = int(compute_id(problem_text, prefix, model_index), 16)
    depth = prefix.count("\n")
    if depth >= 3 or (depth >= 1 and number % 5 == 0):
        return f"Answer: {number % 4}"
    return f"Line {depth + 1} says {number % 9}.\n"
