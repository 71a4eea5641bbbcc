"""Benchmarks that are files: their official column layouts, and where to get them.

A malformed file is a :class:`BenchmarkError` that names file, line (of a Parquet file: row) and
remedy; no row is ever skipped in silence. Sources: ``openai/gsm8k`` (question, answer),
``HuggingFaceH4/MATH-500`` (unique_id, problem, solution, answer, subject, level),
``EleutherAI/hendrycks_math`` (problem, level, type, solution; one file per subject) and, on GitHub
only, ``KbsdJames/omni-math-rule`` (domain, difficulty, problem, solution, answer, source).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routerlib.benchmarks.splits import compute_split
from routerlib.errors import BenchmarkError
from routerlib.latex import find_last_boxed
from routerlib.records import Problem

_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)  # alphabetical: the row number in their concatenation is a MATH training problem's id

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a benchmark's rows are and which columns hold what. ``hub_files`` maps a file split to
    the files of ``hub_repo`` whose concatenation it is."""

    id_columns: tuple[str, ...]
    text_column: str
    read_answer: Callable[[Row], str | None]
    answer_columns: tuple[str, ...]
    file_splits: tuple[str, ...]
    origin: str
    hub_repo: str | None
    hub_files: dict[str, tuple[str, ...]]


def load_file_split(
    benchmark: str, source: Source, file_split: str, folder: Path | None
) -> list[Problem]:
    """Load all problems of one file split (``train`` or ``test``), in the order of the file, from
    ``folder`` or, where that is None, from the hub."""
    paths = (
        [_find_file(folder / benchmark, file_split, source)]
        if folder is not None
        else _fetch_files(benchmark, source, file_split)
    )
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    rows = ((f"{path}, line {line}", row) for path in paths for line, row in _read_rows(path))
    for number, (place, row) in enumerate(rows):
        problem = _make_problem(
            row,
            source,
            benchmark=benchmark,
            file_split=file_split,
            default_id=f"{benchmark}/{file_split}/{number}",
            place=place,
        )
        if problem.id in seen:
            raise BenchmarkError(
                f"{place}: id {problem.id!r} is also that of {seen[problem.id]}: ids must be "
                "unique; remove one of the two rows"
            )
        seen[problem.id] = place
        problems.append(problem)
    if not problems:
        raise BenchmarkError(f"{paths[0]}: the file has no rows: get it again from {source.origin}")
    return problems


def _find_file(folder: Path, file_split: str, source: Source) -> Path:
    for suffix in (".jsonl", ".parquet"):
        path = folder / f"{file_split}{suffix}"
        if path.is_file():
            return path
    raise BenchmarkError(
        f"{folder / file_split}.jsonl is missing (and no .parquet is beside it): put the file of "
        f"{source.origin} there, or point data_dir or ROUTERLIB_DATA to the folder that holds "
        f"{folder.name}/"
    )


def _fetch_files(benchmark: str, source: Source, file_split: str) -> list[Path]:
    remedy = (
        f"put the file of {source.origin} at {benchmark}/{file_split}.jsonl in a folder and set "
        "ROUTERLIB_DATA to that folder"
    )
    if source.hub_repo is None:
        raise BenchmarkError(f"{benchmark} is not on the Hugging Face hub: {remedy}")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise BenchmarkError(
            f"no folder of benchmarks is set and huggingface_hub is not installed: {remedy}, or "
            "install routerlib[collect]"
        ) from error
    try:
        return [
            Path(hf_hub_download(source.hub_repo, name, repo_type="dataset"))
            for name in source.hub_files[file_split]
        ]
    except Exception as error:  # the hub client raises errors of several libraries
        raise BenchmarkError(
            f"{source.hub_repo} could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {error}): {remedy}"
        ) from error


def _read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    if path.suffix == ".parquet":
        yield from _read_parquet_rows(path)
        return
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            if not data.strip():
                continue
            try:
                row = json.loads(data.decode())
            except ValueError as error:
                raise BenchmarkError(
                    f"{path}, line {line}: not JSON ({error}): the file may be cut off; get it "
                    "again"
                ) from error
            if not isinstance(row, dict):
                raise BenchmarkError(
                    f"{path}, line {line}: expected a JSON object, got {type(row).__name__}: "
                    "write one object per line"
                )
            yield line, row


def _read_parquet_rows(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BenchmarkError(f"{path}: not a readable Parquet file ({error}): get it again") from (
            error
        )
    yield from enumerate(rows, start=1)


def _make_problem(
    row: Row, source: Source, *, benchmark: str, file_split: str, default_id: str, place: str
) -> Problem:
    wanted = (source.text_column, *source.answer_columns[:1])
    answer_column = next((name for name in source.answer_columns if name in row), None)
    if source.text_column not in row or answer_column is None:
        raise BenchmarkError(
            f"{place}: expected the columns {', '.join(wanted)}, found {', '.join(row) or 'none'}: "
            f"use the column layout of {source.origin}"
        )
    for column in (source.text_column, answer_column):
        if not isinstance(row[column], str) or not row[column].strip():
            raise BenchmarkError(
                f"{place}: column {column!r} is empty or not text ({row[column]!r}): fill it in or "
                f"get the file again from {source.origin}"
            )
    answer = source.read_answer(row)
    if not answer:
        raise BenchmarkError(
            f"{place}: no final answer in column {answer_column!r} (its end is "
            f"{row[answer_column][-40:]!r}): use the layout of {source.origin}"
        )
    id_column = next((name for name in source.id_columns if name in row), None)
    problem_id = default_id if id_column is None else row[id_column]
    if not isinstance(problem_id, str) or not problem_id.strip():
        raise BenchmarkError(
            f"{place}: column {id_column!r} must hold text, got {problem_id!r}: fill it in, or "
            "drop the column so that row numbers become the ids"
        )
    return Problem(
        id=problem_id,
        benchmark=benchmark,
        split=compute_split(problem_id, file_split),
        text=row[source.text_column],
        answer=answer,
        subject=_read_subject(row),
        level=_read_level(row),
    )


def _read_subject(row: Row) -> str | None:
    domains = row.get("domain")
    subject = row.get("subject", row.get("type", domains[0] if domains else None))
    return str(subject) if subject else None


def _read_level(row: Row) -> str | None:
    """Return the level as text: ``3`` for 3 or "Level 3"; None where there is none ("Level ?")."""
    level = row.get("level", row.get("difficulty"))
    text = "" if level is None else str(level).removeprefix("Level ").strip()
    return text if text not in ("", "?") else None


def _read_gsm8k_answer(row: Row) -> str | None:
    _, mark, answer = str(row["answer"]).rpartition("####")
    return answer.strip().replace(",", "") if mark else None


def _read_math_answer(row: Row) -> str | None:
    r"""Return the answer column, or where there is none (the hub's MATH) the content of the last
    ``\boxed`` of the worked solution."""
    if "answer" in row:
        return str(row["answer"]).strip()
    return find_last_boxed(str(row["solution"]))


SOURCES = {
    "gsm8k": Source(
        id_columns=("id",),
        text_column="question",
        read_answer=_read_gsm8k_answer,
        answer_columns=("answer",),
        file_splits=("train", "test"),
        origin="openai/gsm8k",
        hub_repo="openai/gsm8k",
        hub_files={
            "train": ("main/train-00000-of-00001.parquet",),
            "test": ("main/test-00000-of-00001.parquet",),
        },
    ),
    "math": Source(
        id_columns=("unique_id",),
        text_column="problem",
        read_answer=_read_math_answer,
        answer_columns=("answer", "solution"),
        file_splits=("train",),
        origin="EleutherAI/hendrycks_math",
        hub_repo="EleutherAI/hendrycks_math",
        hub_files={"train": tuple(f"{s}/train-00000-of-00001.parquet" for s in _MATH_SUBJECTS)},
    ),
    "math500": Source(
        id_columns=("unique_id",),
        text_column="problem",
        read_answer=_read_math_answer,
        answer_columns=("answer",),
        file_splits=("test",),
        origin="HuggingFaceH4/MATH-500",
        hub_repo="HuggingFaceH4/MATH-500",
        hub_files={"test": ("test.jsonl",)},
    ),
    "omni_math_rule": Source(
        id_columns=("id",),
        text_column="problem",
        read_answer=_read_math_answer,
        answer_columns=("answer",),
        file_splits=("test",),
        # The hub's KbsdJames/Omni-MATH is the whole set of 4,428 and does not mark the subset.
        origin="github.com/KbsdJames/omni-math-rule (omni_math_rule.jsonl)",
        hub_repo=None,
        hub_files={},
    ),
}
