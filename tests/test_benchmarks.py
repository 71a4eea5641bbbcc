"""Benchmarks: layouts, named errors and splits on files of invented problems, and the real ones
where ``ROUTERLIB_DATA`` says where they are."""

from __future__ import annotations

import ast
import itertools
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routerlib.benchmarks import (
    BENCHMARKS,
    GENERATED_BENCHMARKS,
    PROBLEM_FEATURES,
    SPLITS,
    compute_problem_features,
    compute_split,
    load_problems,
)
from routerlib.benchmarks.splits import compute_rank
from routerlib.errors import BenchmarkError, MissingGeneratorError
from routerlib.paths import get_data_dir
from routerlib.records import Problem, compute_id, compute_text_sha256


def make_gsm8k_rows(n: int) -> list[dict[str, object]]:
    return [
        {
            "id": f"gsm8k/train/{i}",
            "question": f"Ira has {i} nuts and finds {i + 1} more. How many nuts are there?",
            "answer": f"There are {i} + {i + 1} nuts.\n#### {2 * i + 1:,}",
        }
        for i in range(n)
    ]


MATH_ROW = {
    "unique_id": "test/algebra/1.json",
    "problem": "What is $2x$ for $x = \\frac{1}{4}$?",
    "solution": "It is $\\boxed{\\frac{1}{2}}$.",
    "answer": "\\frac{1}{2}",
    "subject": "Algebra",
    "level": 3,
}


def write_rows(folder: Path, name: str, rows: list[dict[str, object]]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# Known answers


def test_gsm8k_answer_is_the_number_behind_the_mark_without_commas(tmp_path: Path) -> None:
    rows = make_gsm8k_rows(3)
    rows[2]["answer"] = "Not #### 7 yet.\n#### 1,234,500"
    write_rows(tmp_path, "gsm8k/test.jsonl", rows)
    problems = {p.id: p for p in load_problems("gsm8k", "test", data_dir=tmp_path)}
    assert [problems[f"gsm8k/train/{i}"].answer for i in range(3)] == ["1", "3", "1234500"]
    first = problems["gsm8k/train/0"]
    assert first.text == rows[0]["question"]
    assert first.text_sha256 == compute_text_sha256(str(rows[0]["question"]))
    assert (first.benchmark, first.split, first.subject, first.level) == (
        "gsm8k",
        "test",
        None,
        None,
    )


def test_row_numbers_are_the_ids_where_the_layout_has_none(tmp_path: Path) -> None:
    """The hub's GSM8K has the columns question and answer only."""
    rows = [{k: v for k, v in row.items() if k != "id"} for row in make_gsm8k_rows(4)]
    write_rows(tmp_path, "gsm8k/test.jsonl", rows)
    ids = {p.id: p.text for p in load_problems("gsm8k", "test", data_dir=tmp_path)}
    assert ids == {f"gsm8k/test/{i}": row["question"] for i, row in enumerate(rows)}


def test_parquet_reads_like_jsonl(tmp_path: Path) -> None:
    rows = make_gsm8k_rows(5)
    write_rows(tmp_path / "a", "gsm8k/test.jsonl", rows)
    (tmp_path / "b" / "gsm8k").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b" / "gsm8k" / "test.parquet")
    loaded = [load_problems("gsm8k", "test", data_dir=tmp_path / name) for name in "ab"]
    assert loaded[0] == loaded[1]


def test_math500_columns(tmp_path: Path) -> None:
    write_rows(tmp_path, "math500/test.jsonl", [MATH_ROW])
    (problem,) = load_problems("math500", "test", data_dir=tmp_path)
    assert (problem.id, problem.answer, problem.subject, problem.level) == (
        "test/algebra/1.json",
        "\\frac{1}{2}",
        "Algebra",
        "3",
    )


def test_omni_math_rule_columns(tmp_path: Path) -> None:
    row = {
        "id": "omni_math_rule/test/0",
        "domain": ["Mathematics -> Algebra -> Sums", "Mathematics -> Number Theory"],
        "difficulty": 4.5,
        "problem": "Find the sum of the first three squares.",
        "answer": "14",
        "source": "invented",
    }
    other = {**row, "id": "omni_math_rule/test/1", "domain": []}
    write_rows(tmp_path, "omni_math_rule/test.jsonl", [row, other])
    problems = {p.id: p for p in load_problems("omni_math_rule", "test", data_dir=tmp_path)}
    first = problems["omni_math_rule/test/0"]
    assert (first.answer, first.subject, first.level) == (
        "14",
        "Mathematics -> Algebra -> Sums",
        "4.5",
    )
    assert problems["omni_math_rule/test/1"].subject is None


@pytest.mark.parametrize(("level", "expected"), [("Level 5", "5"), ("Level ?", None), (None, None)])
def test_math_train_in_the_layout_of_the_hub(
    tmp_path: Path, level: str | None, expected: str | None
) -> None:
    """There the answer is in the worked solution, the subject is ``type``, and there is no id."""
    row = {k: v for k, v in MATH_ROW.items() if k in ("problem", "solution")}
    rows = [{**row, "type": "Geometry", "level": level, "problem": f"No. {i}"} for i in range(40)]
    write_rows(tmp_path, "math/train.jsonl", rows)
    problem = load_problems("math", "train", data_dir=tmp_path)[0]
    assert (problem.answer, problem.subject, problem.level) == (
        "\\frac{1}{2}",
        "Geometry",
        expected,
    )
    assert problem.id.startswith("math/train/")


# Named errors: file, line, remedy


def break_row(column: str, value: object) -> list[dict[str, object]]:
    rows = make_gsm8k_rows(3)
    rows[1] = {**rows[1], column: value}
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (break_row("answer", " "), ["line 2", "'answer'", "empty", "fill it in"]),
        (break_row("answer", None), ["line 2", "'answer'", "None"]),
        (break_row("answer", "so 12"), ["line 2", "no final answer", "so 12"]),
        (break_row("answer", "so ####  "), ["line 2", "no final answer"]),
        (break_row("question", ""), ["line 2", "'question'", "empty"]),
        (break_row("question", 7), ["line 2", "'question'", "7"]),
        (break_row("id", ""), ["line 2", "'id'", "drop the column"]),
        (break_row("id", 7), ["line 2", "'id'", "7"]),
        (break_row("id", "gsm8k/train/0"), ["line 2", "line 1", "gsm8k/train/0", "unique"]),
        (
            [{"problem": "x?", "answer": "#### 1"}],
            ["line 1", "question", "problem", "openai/gsm8k"],
        ),
        ([{"question": "x?"}], ["line 1", "answer", "openai/gsm8k"]),
        ([{}], ["line 1", "none"]),
        ([], ["no rows", "openai/gsm8k"]),
    ],
)
def test_malformed_rows_are_named(
    tmp_path: Path, rows: list[dict[str, object]], words: list[str]
) -> None:
    path = write_rows(tmp_path, "gsm8k/train.jsonl", rows)
    with pytest.raises(BenchmarkError) as caught:
        load_problems("gsm8k", "train", data_dir=tmp_path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("line", "word"),
    [(b'{"question": "cut o', "not JSON"), (b"[1, 2]", "list"), (b'"\xff"', "not JSON")],
)
def test_bad_json_is_named_with_its_line(tmp_path: Path, line: bytes, word: str) -> None:
    path = write_rows(tmp_path, "gsm8k/test.jsonl", make_gsm8k_rows(2))
    path.write_bytes(path.read_bytes() + b"\n" + line + b"\n")
    with pytest.raises(BenchmarkError, match=f"line 4: .*{word}"):
        load_problems("gsm8k", "test", data_dir=tmp_path)


def test_missing_file_names_path_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError) as caught:
        load_problems("math500", "test", data_dir=tmp_path)
    for word in (str(tmp_path / "math500" / "test.jsonl"), "MATH-500", "ROUTERLIB_DATA"):
        assert word in str(caught.value)


def test_unreadable_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(BenchmarkError, match=r"test\.parquet: not a readable Parquet file"):
        load_problems("gsm8k", "test", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("gsm9k", "test"), "choose one of gsm8k"),
        (("gsm8k", "dev"), "choose one of pilot"),
        (("math500", "train"), "only a test file"),
        (("math", "test"), "only a train file"),
    ],
)
def test_unknown_names_say_what_there_is(
    tmp_path: Path, arguments: tuple[str, str], word: str
) -> None:
    with pytest.raises(BenchmarkError, match=word):
        load_problems(*arguments, data_dir=tmp_path)


def test_seed_is_refused_where_it_would_do_nothing(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="seed=3 means nothing for gsm8k"):
        load_problems("gsm8k", "test", data_dir=tmp_path, seed=3)
    with pytest.raises(BenchmarkError, match="limit must not be negative, got -1"):
        load_problems("gsm8k", "test", data_dir=tmp_path, limit=-1)


# Where files come from


def test_folder_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path, "gsm8k/test.jsonl", make_gsm8k_rows(2))
    monkeypatch.setenv("ROUTERLIB_DATA", str(tmp_path))
    assert len(load_problems("gsm8k", "test")) == 2


def test_hub_is_asked_when_no_folder_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str]] = []

    def download(repo: str, name: str, *, repo_type: str) -> str:
        asked.append((repo, name, repo_type))
        subject = name.partition("/")[0]
        rows = [{"problem": f"{subject} {i}", "solution": "\\boxed{3}"} for i in range(30)]
        path = tmp_path / f"{subject}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        return str(path)

    monkeypatch.delenv("ROUTERLIB_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    problems = [p for split in SPLITS[:3] for p in load_problems("math", split)]
    assert asked[0] == (
        "EleutherAI/hendrycks_math",
        "algebra/train-00000-of-00001.parquet",
        "dataset",
    )
    # The ids are row numbers of the seven subjects' concatenation.
    by_id = {p.id: p.text for p in problems}
    assert len(by_id) == 210
    assert by_id["math/train/30"] == "counting_and_probability 0"


def test_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError("no route")

    monkeypatch.delenv("ROUTERLIB_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    with pytest.raises(BenchmarkError, match=r"no route.*gsm8k/test\.jsonl.*ROUTERLIB_DATA"):
        load_problems("gsm8k", "test")
    with pytest.raises(BenchmarkError, match=r"not on the .*hub: .*KbsdJames/omni-math-rule"):
        load_problems("omni_math_rule", "test")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BenchmarkError, match=r"routerlib\[collect\]"):
        load_problems("gsm8k", "test")


# Splits


def test_splits_are_disjoint_complete_ordered_and_stable(tmp_path: Path) -> None:
    write_rows(tmp_path, "gsm8k/train.jsonl", make_gsm8k_rows(400))
    ids = {
        split: [p.id for p in load_problems("gsm8k", split, data_dir=tmp_path)]
        for split in SPLITS[:3]
    }
    everything = [i for part in ids.values() for i in part]
    assert len(everything) == len(set(everything)) == 400
    for part in ids.values():
        assert part == sorted(part, key=compute_rank)
    # Fixed for ever: these are the first problems of the hash order.
    assert {split: part[0] for split, part in ids.items()} == FIRST_IDS


FIRST_IDS = {
    "pilot": "gsm8k/train/392",
    "train": "gsm8k/train/75",
    "calibration": "gsm8k/train/300",
}


def test_levels_in_turn_and_no_harder_than_asked(tmp_path: Path) -> None:
    """Whole levels take turns while they last, each in the split's own order."""
    levels = ["4.5", "1.0", "4.0", "6.0", "1.5", "4.0", "", "2.0"]
    rows = [
        {"id": f"o/{number}", "problem": f"{number}?", "answer": "1", "difficulty": level or None}
        for number, level in enumerate(levels)
    ]
    write_rows(tmp_path, "omni_math_rule/test.jsonl", rows)

    def load(limit: int | None = None, **options: Any) -> list[Problem]:
        return load_problems("omni_math_rule", "test", data_dir=tmp_path, limit=limit, **options)

    balanced = load(balance_levels=True, max_level=5)
    assert [int(float(p.level or 0)) for p in balanced] == [1, 2, 4, 1, 4, 4]
    for level in (1, 4):
        own = [p.id for p in balanced if int(float(p.level or 0)) == level]
        assert own == sorted(own, key=compute_rank)
    assert load(3, balance_levels=True, max_level=5) == balanced[:3]
    assert {p.level for p in load(max_level=1.0)} == {"1.0"}
    assert len(load(balance_levels=True)) == 7
    assert len(load()) == 8
    write_rows(tmp_path, "gsm8k/test.jsonl", [{"question": "1 + 1?", "answer": "#### 2"}])
    with pytest.raises(BenchmarkError, match="gsm8k has no levels"):
        load_problems("gsm8k", "test", data_dir=tmp_path, balance_levels=True)


def test_limit_keeps_a_prefix(tmp_path: Path) -> None:
    write_rows(tmp_path, "gsm8k/train.jsonl", make_gsm8k_rows(100))
    whole = load_problems("gsm8k", "train", data_dir=tmp_path)
    assert load_problems("gsm8k", "train", data_dir=tmp_path, limit=7) == whole[:7]
    assert load_problems("gsm8k", "train", data_dir=tmp_path, limit=0) == []


@settings(deadline=None)
@given(st.text())
def test_a_split_follows_from_the_id_alone(problem_id: str) -> None:
    share = int(compute_rank(problem_id)[:8], 16) / 2**32
    expected = "pilot" if share < 0.05 else "calibration" if share < 0.3 else "train"
    assert compute_split(problem_id, "train") == expected
    assert compute_split(problem_id, "test") == "test"


def test_split_shares_are_5_25_70_percent() -> None:
    splits = [compute_split(f"invented/{i}", "train") for i in range(4000)]
    for split, share in (("pilot", 0.05), ("calibration", 0.25), ("train", 0.70)):
        # four standard deviations of a binomial share
        assert abs(splits.count(split) / 4000 - share) < 4 * math.sqrt(share * (1 - share) / 4000)


# Generated problems


# The hash of the first five training problems: recorded steps depend on them.
FROZEN = {
    "gsm_symbolic": "4cdd3b2002157c68284f",
    "chain_sum_4x2": "3c398897458fd2427009",
    "chain_sum_5x3": "f2162501217323c3f501",
    "chain_sum_5x4": "5e0d229bd3764deccef1",
    "chain_sum_6x3": "8b78a037c9cacff111b7",
    "basic_arithmetic_4x1": "0675cff1c6d709e2b671",
    "simple_equations_3x2": "309891a24279aee08951",
}


def load_generated(benchmark: str, split: str, limit: int, seed: int = 0) -> list[Problem]:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym (extra: collect) is not installed")
    return load_problems(benchmark, split, limit=limit, seed=seed)


@pytest.mark.parametrize("benchmark", GENERATED_BENCHMARKS)
def test_generated_problems_are_a_function_of_seed_and_split(benchmark: str) -> None:
    first = load_generated(benchmark, "train", 20, seed=1)
    assert first == load_generated(benchmark, "train", 20, seed=1)
    assert first[:5] == load_generated(benchmark, "train", 5, seed=1)
    other = load_generated(benchmark, "train", 20, seed=2)
    assert not {p.text for p in first} & {p.text for p in other}
    assert len({p.id for p in first}) == 20
    assert all(p.answer and p.split == "train" for p in first)
    assert all(p.id.startswith(f"{benchmark}/train-1/") for p in first)


def test_generated_problems_are_frozen() -> None:
    found = {}
    for benchmark in GENERATED_BENCHMARKS:
        problems = load_generated(benchmark, "train", 5)
        parts = [(p.id, p.text, p.answer) for p in problems]
        found[benchmark] = compute_id(*itertools.chain(*parts))
    assert found == FROZEN


@pytest.mark.parametrize("benchmark", GENERATED_BENCHMARKS)
def test_generated_splits_share_no_text_and_no_id(benchmark: str) -> None:
    problems = [
        p
        for seed in (0, 1)
        for split in SPLITS
        for p in load_generated(benchmark, split, 150, seed=seed)
    ]
    assert len({p.id for p in problems}) == len(problems) == 1200
    splits_of: dict[str, set[str]] = {}
    for p in problems:
        splits_of.setdefault(p.text, set()).add(p.split)
    assert all(len(splits) == 1 for splits in splits_of.values())


ARITHMETIC = [name for name in GENERATED_BENCHMARKS if name != "gsm_symbolic"]


@pytest.mark.parametrize("benchmark", ARITHMETIC)
def test_generated_answers_solve_the_problem(benchmark: str) -> None:
    """The text asks for one number and nothing else, and putting it in makes the text true."""
    for p in load_generated(benchmark, "test", 300):
        if calculation := re.fullmatch(r"Calculate ([-+*() \d]+)\.", p.text):
            assert compute_value(calculation[1]) == int(p.answer), p
            continue
        equation = re.fullmatch(
            r"(?:Solve for|Find the value of|Determine the value of) ([a-z])"
            r"(?::| in the equation:| that satisfies:) ([-+* \da-z]+) = (-?\d+)",
            p.text,
        )
        assert equation, p
        unknown, left, right = equation.groups()
        assert compute_value(left.replace(unknown, f"({p.answer})")) == int(right), p


def compute_value(expression: str) -> int:
    """The value of a sum, difference or product of whole numbers, in Python's own order."""

    def compute(node: ast.expr) -> int:
        if isinstance(node, ast.UnaryOp):
            assert isinstance(node.op, ast.USub)
            return -compute(node.operand)
        if isinstance(node, ast.BinOp):
            left, right = compute(node.left), compute(node.right)
            return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[
                type(node.op)
            ]
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return node.value

    return compute(ast.parse(expression, mode="eval").body)


@pytest.mark.parametrize("benchmark", ARITHMETIC)
def test_the_name_of_a_generated_benchmark_tells_its_size(benchmark: str) -> None:
    named = re.fullmatch(r"(\w+)_(\d)x(\d)", benchmark)
    assert named
    terms, digits = int(named[2]), int(named[3])
    for p in load_generated(benchmark, "test", 50):
        numbers = re.findall(r"\d+", p.text)
        if named[1] == "simple_equations":  # whose terms are simplified
            numbers = [p.answer]
        else:
            assert len(numbers) == terms
        assert max(map(len, numbers)) <= digits


def test_generation_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchmarkError, match="limit=1000000 is too many"):
        load_problems("gsm_symbolic", "train", limit=1_000_000)
    with pytest.raises(BenchmarkError, match="seed must not be negative, got -1"):
        load_problems("gsm_symbolic", "train", limit=1, seed=-1)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    for benchmark in GENERATED_BENCHMARKS:
        with pytest.raises(MissingGeneratorError, match=rf"{benchmark} .*routerlib\[collect\]"):
            load_problems(benchmark, "train", limit=1)


# Features


def test_features_counted_by_hand() -> None:
    text = (
        "Ola sells 1,200 stamps at $0.50 each. Half of the money, less a fee of 3%, goes to Bo. "
        "Bo gets twice a quarter of that. How many dollars does Bo get?"
    )
    assert compute_problem_features(text) == {
        "n_chars": float(len(text)),
        "n_words": 32.0,
        "n_sentences": 4.0,
        "n_numbers": 3.0,
        "n_operators": 0.0,
        "max_log10_number": math.log10(1201),
        "n_fraction_words": 2.0,
        "n_percent": 1.0,
        "n_money": 2.0,
        "n_times_words": 2.0,
        "question_words": 6.0,
    }


@pytest.mark.parametrize(
    ("text", "operators"),
    [
        ("Calculate 0 + -(-6 * -9) + -3.", 7),
        ("Solve for x: 8x - y = 274", 2),
        ("a well-known 3-digit number", 0),
        (r"If $x-y \le \dfrac{1}{2} \cdot 3^n$", 4),
    ],
)
def test_operators_are_no_hyphens(text: str, operators: int) -> None:
    assert compute_problem_features(text)["n_operators"] == operators


@settings(deadline=None)
@given(st.text())
def test_features_are_finite_and_in_order(text: str) -> None:
    features = compute_problem_features(text)
    assert tuple(features) == PROBLEM_FEATURES
    assert all(math.isfinite(value) and value >= 0 for value in features.values())


def test_a_giant_number_has_a_finite_feature() -> None:
    assert compute_problem_features("9" * 5000)["max_log10_number"] == pytest.approx(300)


# The real files


REAL_ROWS = {
    ("gsm8k", "test"): 1000,
    ("gsm8k", "train"): 7473,
    ("math", "train"): 7497,
    ("math500", "test"): 400,
    ("omni_math_rule", "test"): 2500,
}


@pytest.mark.skipif(
    get_data_dir() is None, reason="ROUTERLIB_DATA is not set: no benchmark files to read"
)
@pytest.mark.parametrize(("benchmark", "file_split"), sorted(REAL_ROWS))
def test_real_files_load_whole(benchmark: str, file_split: str) -> None:
    splits = SPLITS[:3] if file_split == "train" else SPLITS[3:]
    problems = [p for split in splits for p in load_problems(benchmark, split)]
    assert len(problems) == len({p.id for p in problems})
    assert len(problems) >= REAL_ROWS[benchmark, file_split]
    assert all(p.text.strip() and p.answer.strip() for p in problems)
    assert benchmark in BENCHMARKS
