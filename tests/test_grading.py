"""Grading: a table of real replies judged by reading them, adversarial replies, and invariants.

``data/grading_cases.csv`` has one row per (gold, reply, expected). ``source`` is the model that
wrote the reply (its end is kept, never the problem) or "made up". A reply is judged against the
benchmark's own gold answer or, to test a form that no right reply happened to have, against
another one. Two conventions decide rows that a reader might judge otherwise: an answer that
nothing marks as the answer does not count, and units are not converted.
"""

from __future__ import annotations

import asyncio
import csv
import threading
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerlib.benchmarks import BENCHMARKS, load_problems
from routerlib.errors import GradingError
from routerlib.grading import BENCHMARK_STYLE, extract_answer, grade, math_answer, parse_number
from routerlib.latex import find_last_boxed
from routerlib.paths import get_data_dir

with (Path(__file__).parent / "data" / "grading_cases.csv").open(encoding="utf-8") as file:
    CASES = list(csv.DictReader(file))

fractions = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6)
integers = st.integers(min_value=-(10**15), max_value=10**15)
no_deadline = settings(deadline=None)  # a busy machine is no failure


# The table


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c['category']}" for i, c in enumerate(CASES)])
def test_case(case: dict[str, str]) -> None:
    answer = extract_answer(case["reply"])
    is_right = grade(case["gold"], answer, style=case["style"])  # type: ignore[arg-type]
    assert is_right == (case["expected"] == "right"), f"extracted {answer!r}"


def test_the_table_holds_what_it_should() -> None:
    real = [case for case in CASES if case["source"] != "made up"]
    assert len({case["reply"] for case in real}) >= 60
    assert all(len(case["reply"]) <= 300 for case in real)
    assert {case["expected"] for case in CASES} == {"right", "wrong"}
    assert set(Counter(case["category"] for case in real)) >= {
        "comma",
        "unit",
        "percent",
        "fraction",
        "boxed",
        "truncated",
        "in a sentence",
        "currency",
        "negative",
        "decimal",
    }


def test_every_benchmark_has_a_style() -> None:
    assert set(BENCHMARK_STYLE) == set(BENCHMARKS)


# Extraction


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("1 + 1 = 2\nAnswer: 2", "2"),
        ("Answer: $12.50 in all.", "$12.50 in all"),
        ("Answer: \\(x = 3\\)", "x = 3"),
        ("Answer: $a$ and $b$", "$a$ and $b$"),
        ("Answer: $5", "$5"),
        ("so \\boxed{\\frac{1}{2}}, not \\boxed{3", "\\frac{1}{2}"),
        ("\\boxed 7.", "7"),
        ("the answer is 7", None),
        ("Let us check this answer: 7", None),
        ("#### 7", "7"),
        ("#### 1. Count the apples\nThere are 7.", None),
        ("Answer: \\[\nx = 5\n\\]", "x = 5"),
        ("Answer: $$\n\\boxed{5}\n$$", "5"),
        ("Answer: ∞", "∞"),
        ("", None),
        ("\\boxed{}", None),
    ],
)
def test_extraction_by_hand(reply: str, answer: str | None) -> None:
    assert extract_answer(reply) == answer


SHARDS = ["Answer:", "answer is:", "\\boxed{", "\\boxed ", "}", "{", "$", "\\(", "####", "\n", "**"]
NUMBER_SHARDS = ["-", "/", ",", ".", "1", "000", "\\frac", "{", "}", "=", " and ", "%", "5", "\0"]


@no_deadline
@given(st.lists(st.one_of(st.sampled_from(SHARDS), st.text(max_size=8)), max_size=30).map("".join))
def test_extraction_never_raises_and_is_never_blank(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or answer.strip()
    assert answer is None or answer in text


@no_deadline
@given(st.lists(st.one_of(st.sampled_from(NUMBER_SHARDS), st.text(max_size=4))).map("".join))
def test_number_grading_never_raises(text: str) -> None:
    assert grade("7", text, style="number") in (True, False)


@no_deadline
@given(st.text(), st.text(alphabet="0123456789abc +-*/^", min_size=1))
def test_the_last_answer_line_wins(reply: str, answer: str) -> None:
    expected = extract_answer(f"Answer: {answer}")
    if expected is not None:
        assert extract_answer(f"{reply}\nAnswer: {answer}") == expected


@no_deadline
@given(st.text(alphabet="ab{}\\", max_size=12))
def test_boxed_content_has_matching_braces(text: str) -> None:
    inner = find_last_boxed(f"\\boxed{{{text}}}")
    assert inner is None or inner.count("{") == inner.count("}")


# Numbers: any way of writing one is read back exactly


def write_integer(n: int) -> list[str]:
    return [
        f"{n}",
        f"{n:,}",
        f"{n}.",
        f"{n}.00",
        f"${n:,}" if n >= 0 else f"-${-n:,}",
        f"\\${n:,}".replace(",", "{,}"),
        f"{n:,} dollars",
        f"{n}%",
        f"{n}\\%",
        f"**{n:,}** apples",
        f"x = {n}",
        f"1 + 2 = {n} km/h",
        f"\\text{{about }} {n}",
        f"{n}^\\circ",
        f"{n}".replace("-", "−"),
    ]


@no_deadline
@given(integers)
def test_integers_in_many_dresses(n: int) -> None:
    for text in write_integer(n):
        assert grade(str(n), text, style="number"), text
        assert not grade(str(n + 1), text, style="number"), text


@no_deadline
@given(fractions)
def test_fractions_in_many_dresses(x: Fraction) -> None:
    sign, n, d = "-" if x < 0 else "", abs(x.numerator), x.denominator
    texts = [
        f"{sign}{n}/{d}",
        f"{sign}{n} / {d} of it",
        f"{sign}\\frac{{{n}}}{{{d}}}",
        f"${sign}\\dfrac{{{n}}}{{{d}}}$",
        f"{sign}{2 * n}/{2 * d}",
        f"{sign}{n // d} {n % d}/{d}",
        f"{sign}{n // d}\\frac{{{n % d}}}{{{d}}}",
    ]
    for text in texts:
        assert parse_number(text) == x, text
        assert grade(f"{x.numerator}/{d}", text, style="number"), text


@no_deadline
@given(st.decimals(min_value=-(10**9), max_value=10**9, places=4))
def test_decimals_are_exact(value: object) -> None:
    assert parse_number(f"{value}") == Fraction(str(value))
    assert parse_number(f"${value}0 each") == Fraction(str(value))


@no_deadline
@given(integers, integers)
def test_two_numbers_are_no_answer(a: int, b: int) -> None:
    texts = [f"{a} or {b}", f"{a} {b}", f"({a}, {b})", f"{a} * {b}", f"{a} - {b}"]
    for text in [*texts, f"x = {a}, y = {b}, z = 1"]:
        assert parse_number(text) is None, text


def test_unreadable_numbers() -> None:
    assert parse_number("9" * 501) is None
    assert parse_number("2 7/3") is None, "no mixed number"


# Golds


@pytest.mark.parametrize(("gold", "style"), [("", "number"), (" ", "math"), ("many", "number")])
def test_unreadable_gold_is_an_error(gold: str, style: str) -> None:
    with pytest.raises(GradingError, match="gold answer"):
        grade(gold, None, style=style)  # type: ignore[arg-type]


def test_a_boxed_gold_is_opened() -> None:
    assert grade("\\[\n\\boxed{12}\n\\]", "12", style="math")


def test_no_answer_is_wrong() -> None:
    assert not grade("1", None, style="number")
    assert not grade("x", None, style="math")
    assert not grade("x", "x" * 501, style="math")


@no_deadline
@given(st.text(alphabet="x12+-^{}()\\ ", min_size=1, max_size=15).filter(str.strip))
def test_a_math_answer_equals_its_own_text(text: str) -> None:
    assert grade(text, f" {text}", style="math")


# math-verify in its own process


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("\\frac{1}{2}", "0.5", True),
        ("x+1", "1+x", True),
        ("x+1", "x-1", False),
        ("$x+1$", "the sum is \\(1+x\\)", True),
        ("3\\sqrt{2}", "\\sqrt{18} meters", True),
        ("\\frac{1}{2", "0.5", True),
        ("x", "{x", False),
        ("x", "", False),
    ],
)
def test_comparison_in_this_process(gold: str, answer: str, same: bool) -> None:
    assert math_answer.compare_math(gold, answer) is same


def test_worker_answers_from_threads() -> None:
    replies: dict[int, bool] = {}

    def ask(n: int) -> None:
        replies[n] = grade("\\sqrt{8}", f"{n}\\sqrt{{2}}", style="math")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == {0: False, 1: False, 2: True, 3: False, 4: False}


def test_worker_answers_inside_an_event_loop() -> None:
    async def ask(answer: str) -> bool:
        here = grade("\\sqrt{12}", answer, style="math")
        there = await asyncio.to_thread(grade, "\\sqrt{12}", answer + " ", style="math")
        assert here == there
        return here

    assert asyncio.run(ask("2\\sqrt{3}")) is True
    assert asyncio.run(ask("3\\sqrt{2}")) is False


@pytest.fixture
def worker() -> Iterator[math_answer._Worker]:
    worker = math_answer._Worker(timeout_s=3.0)
    yield worker
    worker._stop()


def test_a_comparison_that_hangs_is_ended(worker: math_answer._Worker) -> None:
    """The power is worked out in C, where a signal would change nothing."""
    assert worker.compare("x+1", "1+x")
    start = time.monotonic()
    assert not worker.compare("x", "10^{10^{10}}")
    assert time.monotonic() - start < 30
    assert worker.compare("x+1", "1+x"), "the next comparison has a new process"


def test_a_killed_worker_is_replaced(worker: math_answer._Worker) -> None:
    assert worker.compare("x+1", "1+x")
    assert worker._process is not None
    worker._process.kill()
    assert worker.compare("x+1", "1+x")


def test_an_interrupt_leaves_no_late_reply(
    worker: math_answer._Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.compare("x+1", "1+x")

    def interrupt(line: str | None) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_exchange", interrupt)
        with pytest.raises(KeyboardInterrupt):
            worker.compare("x", "x^2")
    assert worker._process is None


def test_a_worker_that_cannot_start_is_an_error(
    worker: math_answer._Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(math_answer, "_WORKER_CODE", "raise SystemExit({timeout_s})")
    with pytest.raises(GradingError, match="math-verify did not start"):
        worker.compare("x", "y")


def test_worker_loop(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that runs in the other process, run here."""
    monkeypatch.setattr(math_answer.signal, "signal", lambda *_: None)
    monkeypatch.setattr(math_answer.sys, "stdin", ['["x+1", "1+x"]', '["x", "y"]'])
    math_answer.run_worker(60.0)
    assert capsys.readouterr().out.split() == ['"ready"', "true", "false"]


@pytest.mark.skipif(
    get_data_dir() is None, reason="ROUTERLIB_DATA is not set: no benchmark files to read"
)
@pytest.mark.parametrize("benchmark", ["gsm8k", "math500", "omni_math_rule"])
def test_every_real_gold_answer_can_be_read(benchmark: str) -> None:
    for problem in load_problems(benchmark, "test"):
        style = BENCHMARK_STYLE[benchmark]
        assert grade(problem.answer, problem.answer, style=style), problem.id
