"""The commands: what they print, their exit statuses, and `routerlib collect` against servers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from scripted_server import (
    Act,
    Handler,
    ScriptedServer,
    answer_with,
    build_reply,
    fail_with,
    reply_with,
    score_words,
)
from tiny import TEXTS, add_records, make_tiny_records
from tiny_models import LATTICE_CALLS, read_asked, write_gsm8k_file, write_solution

from routerlib import __version__
from routerlib.calls import run_cancellable
from routerlib.cli import main
from routerlib.collect_rows import make_problem_row
from routerlib.lattice import load_lattice
from routerlib.model_options import LARGE, SMALL
from routerlib.records import Problem, ProblemText, Request
from routerlib.store import TraceWriter, compact, load_table, query

SMALL_ID = "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M"
LARGE_ID = "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M"
TINY_ID = "SmolLM2-135M-Instruct-Q4_1"
TINY = "smollm2-135m-instruct-q4_1"


def answer_as(model_index: int) -> Act:
    """Answer as a model of ``tiny_models`` does, in the form that vLLM gives it."""
    return answer_with(lambda request: write_solution(model_index, *read_asked(request)))


def hold_after(answers: int, act: Act, released: threading.Event) -> Act:
    """Answer so many requests and let the others wait; they get no answer."""
    numbers = itertools.count()

    def held(handler: Handler) -> None:
        if next(numbers) < answers:
            act(handler)
            return
        released.wait(60)
        handler.close_connection = True

    return held


def fail_at(problem_text: str, act: Act) -> Act:
    """Refuse all requests about one problem."""
    return lambda handler: (
        fail_with(400) if read_asked(handler.read_request())[0] == problem_text else act
    )(handler)


@dataclass
class Bench:
    """Two servers, a benchmark file of three problems, and a place for the traces."""

    folder: Path
    small: ScriptedServer = field(default_factory=ScriptedServer)
    large: ScriptedServer = field(default_factory=ScriptedServer)

    def list_arguments(self, traces: str = "traces") -> list[str]:
        return [
            "collect",
            *("--benchmark", "gsm8k", "--split", "test", "--data", str(self.folder / "data")),
            *("--small-url", self.small.url, "--large-url", self.large.url),
            *("--depth", "2", "--concurrency", "2", "--traces", str(self.folder / traces)),
        ]

    def answer(self) -> None:
        self.small.acts, self.large.acts = [answer_as(0)], [answer_as(1)]

    def take_asked(self) -> list[tuple[str, str, str]]:
        """(server, problem text, prefix) of every request since the last look, without those that
        measure a prompt."""
        asked = []
        for name, server in (("small", self.small), ("large", self.large)):
            for body in server.bodies:
                texts = [message["content"] for message in body["messages"]]
                is_prefilled = body["messages"][-1]["role"] == "assistant"
                asked.append((name, *(texts[-2:] if is_prefilled else (texts[-1], ""))))
            server.bodies.clear()
        return [call for call in asked if call[1]]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    write_gsm8k_file(tmp_path / "data")
    made = Bench(tmp_path)
    made.answer()
    with made.small.serving(), made.large.serving():
        yield made


def load_content(root: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of a store, without what differs from run to run."""
    compact(root)
    content = {name: load_table(root, name).to_pylist() for name in ("states", "steps", "problems")}
    for row in content["steps"]:
        del row["run_id"], row["latency_s"]
    return content


def get_last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_recording_from_two_servers(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(bench.list_arguments()) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == (
        "3 problems, 0 of them complete. Expected: 42 calls (at most 42), 756 completion tokens "
        "and 46200 prompt tokens, by a first recording of GSM8K."
    )
    assert get_last_line(said.out).startswith(
        "3 of 3 problems complete, 20 calls (0 failed, 0 retried),"
    )
    assert "problems 3/3" in said.err  # the progress bar
    traces = bench.folder / "traces"
    alone = query(traces, "SELECT model_id, accuracy FROM solo ORDER BY model_id")
    assert alone["model_id"].tolist() == [SMALL_ID, LARGE_ID]
    assert alone["accuracy"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert {body["model"] for body in bench.small.bodies} == {SMALL_ID}
    assert {body["model"] for body in bench.large.bodies} == {LARGE_ID}
    assert len(bench.take_asked()) == LATTICE_CALLS

    assert main(bench.list_arguments()) == 0
    assert capsys.readouterr().out == (
        "3 problems, 3 of them complete. Expected: 0 calls (at most 0), 0 completion tokens and 0 "
        "prompt tokens, by a first recording of GSM8K.\n"
    )
    assert main(["verify", "--traces", str(traces)]) == 0
    assert bench.take_asked() == []


def test_a_dry_run_asks_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*bench.list_arguments(), "--limit", "2", "--plan", "switch", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(
        "2 problems, 0 of them complete. Expected: 12 calls (at most 12),"
    )
    assert bench.take_asked() == []


def test_a_third_model_is_the_cheapest(bench: Bench) -> None:
    """With the tiny model's answers like the small one's, paths merge and nothing else changes."""
    server = ScriptedServer()
    server.acts = [answer_as(0)]
    with server.serving():
        assert main([*bench.list_arguments(), "--tiny", TINY, "--tiny-url", server.url]) == 0
    traces = bench.folder / "traces"
    asked = [body["messages"][-1] for body in server.bodies]
    assert len(asked) == 1 + LATTICE_CALLS // 2  # one call measures the shared prompt
    ids = [TINY_ID, SMALL_ID, LARGE_ID]
    lattice = load_lattice(traces, benchmark="gsm8k", split="test", model_ids=ids, depth=2)
    assert (lattice.n_models, len(lattice.problem_ids)) == (3, 3)


def test_names_and_engine_reach_the_servers(bench: Bench) -> None:
    names = ["--small-name", "tiny", "--large-name", "big", "--engine", "vllm"]
    assert main([*bench.list_arguments(), *names, "--separate-machines"]) == 0
    assert {body["model"] for body in bench.small.bodies} == {"tiny"}
    assert {body["model"] for body in bench.large.bodies} == {"big"}
    prefilled = [body for body in bench.small.bodies if body["messages"][-1]["role"] != "user"]
    assert prefilled
    assert all(body["continue_final_message"] for body in prefilled)
    models = load_table(bench.folder / "traces", "models").to_pylist()
    assert {row["id"] for row in models} == {f"{SMALL_ID}-bf16", f"{LARGE_ID}-bf16"}


def test_an_alias_is_another_name_of_a_model(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """The large server answers under a name that nobody asked for."""

    def answer_as_other(handler: Handler) -> None:
        handler.body["model"] = "other"
        answer_as(1)(handler)

    bench.large.acts = [answer_as_other]
    assert main([*bench.list_arguments(), "--small-alias", "other"]) == 1
    assert f"was asked for model '{LARGE_ID}' and answered as 'other'" in capsys.readouterr().err
    assert main([*bench.list_arguments(), "--large-alias", "more", "--large-alias", "other"]) == 0


def test_servers_are_started_where_none_is_named(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the models' ids, for as many calls as are in flight, and stopped at the end."""
    started: list[tuple[str, str, dict[str, Any]]] = []
    stopped: list[str] = []

    @contextlib.contextmanager
    def serve(engine: str, name: str, **options: Any) -> Iterator[SimpleNamespace]:
        del options["report"]
        started.append((engine, name, options))
        yield SimpleNamespace(base_url=(bench.small if name == SMALL else bench.large).url)
        stopped.append(name)

    monkeypatch.setattr("routerlib.model_options.serve_local", serve)
    arguments = bench.list_arguments()
    at = arguments.index("--small-url")
    assert main([*arguments[:at], *arguments[at + 4 :]]) == 0
    assert started == [
        ("llamacpp", SMALL, {"served_name": SMALL_ID, "concurrency": 2}),
        ("llamacpp", LARGE, {"served_name": LARGE_ID, "concurrency": 2}),
    ]
    assert stopped == [LARGE, SMALL]
    assert len(bench.take_asked()) == LATTICE_CALLS


def test_failed_calls_are_an_exit_status(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.large.acts = [fail_at(TEXTS[2][0], answer_as(1))]
    assert main(bench.list_arguments()) == 1
    out = capsys.readouterr().out
    assert "2 of 3 problems complete, 18 calls (1 failed, 0 retried)" in out
    assert get_last_line(out) == (
        "run the same command again: it asks only for the calls that failed"
    )
    bench.take_asked()
    bench.answer()
    assert main(bench.list_arguments()) == 0
    assert sorted(bench.take_asked()) == [
        ("large", TEXTS[2][0], ""),
        ("large", TEXTS[2][0], "8 / 2 = 4\n"),
        ("small", TEXTS[2][0], "8 / 2 = 4\n"),
    ]


def test_a_server_that_refuses_everything(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.small.acts = [fail_with(404)]
    assert main(bench.list_arguments()) == 1
    assert re.fullmatch(
        rf"routerlib: ModelError: {SMALL_ID} at http://\S+ refused the request with status 404.*",
        get_last_line(capsys.readouterr().err),
    )


def test_recording_from_a_notebook(bench: Bench) -> None:
    """The thread of a notebook's kernel runs an event loop."""

    async def run_cell() -> int:
        return main(bench.list_arguments())

    assert asyncio.run(run_cell()) == 0
    assert len(bench.take_asked()) == LATTICE_CALLS


def list_judge_arguments(bench: Bench) -> list[str]:
    return [
        "judge",
        *("--benchmark", "gsm8k", "--split", "test", "--data", str(bench.folder / "data")),
        *("--judge-url", bench.large.url, "--concurrency", "2"),
        *("--traces", str(bench.folder / "traces")),
    ]


def test_judging_what_was_recorded(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The small model's drafts get both scores, once."""
    assert main([*bench.list_arguments(), "--limit", "2"]) == 0
    capsys.readouterr()

    def answer_yes_or_no(request: Request) -> str:
        return "9" if request.messages[-1].content.endswith("Score=") else "no"

    bench.large.acts = [answer_with(answer_yes_or_no)]
    bench.take_asked()
    assert main([*list_judge_arguments(bench), "--question", "right-v1"]) == 0
    assert "7 drafts of 2 problems (1 not recorded): 0 scores were there, 7 calls (0 failed" in (
        get_last_line(capsys.readouterr().out)
    )
    assert main(list_judge_arguments(bench)) == 0
    assert "7 scores were there, 7 calls (0 failed" in get_last_line(capsys.readouterr().out)
    rows = load_table(bench.folder / "traces", "judgements").to_pylist()
    assert sorted((row["question"], row["score"]) for row in rows) == (
        [("right-v1", 0.0)] * 7 + [("usefulness-v1", 1.0)] * 7
    )
    assert {row["judge_model_id"] for row in rows} == {LARGE_ID}
    assert bench.small.bodies == []
    assert main([*list_judge_arguments(bench), "--max-level", "3"]) == 1
    assert "gsm8k has no levels: leave out" in capsys.readouterr().err
    assert main(["verify", "--traces", str(bench.folder / "traces")]) == 0


def test_a_judge_that_says_something_else(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(bench.list_arguments()) == 0
    bench.large.acts = [answer_with(lambda request: "maybe")]
    capsys.readouterr()
    assert main(list_judge_arguments(bench)) == 1
    assert f"20 calls of {LARGE_ID} in a row failed" in get_last_line(capsys.readouterr().err)
    bench.large.acts = [
        answer_with(lambda r: "9" if r.messages[-1].content.endswith("Score=") else "maybe")
    ]
    assert main(list_judge_arguments(bench)) == 1
    out = capsys.readouterr().out
    assert "20 calls (10 failed" in out
    assert "the last failure was JudgementError: none of the 2 most probable tokens" in out
    assert get_last_line(out) == (
        "run the same command again: it asks only for the calls that failed"
    )


def test_scoring_the_texts_of_problems(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*bench.list_arguments(), "--limit", "2", "--engine", "vllm"]) == 0
    bench.small.acts = [score_words]
    arguments = ["score-prompts", *list_judge_arguments(bench)[1:]]
    at = arguments.index("--judge-url")
    arguments[at : at + 2] = ["--model-url", bench.small.url]
    capsys.readouterr()
    for calls, recorded in ((2, 0), (0, 2)):
        assert main(arguments) == 0
        assert get_last_line(capsys.readouterr().out).startswith(
            f"2 problems (1 not recorded): {recorded} scores were there, {calls} calls (0 failed"
        )
    rows = load_table(bench.folder / "traces", "prompt_scores").to_pylist()
    assert {row["model_id"] for row in rows} == {f"{SMALL_ID}-bf16"}
    assert all(row["logprob"] == -0.5 * (row["tokens"] - 1) for row in rows)
    assert main(["verify", "--traces", str(bench.folder / "traces")]) == 0


def test_an_engine_that_scores_no_texts(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """A llama.cpp server answers without the field."""
    assert main(bench.list_arguments()) == 0
    bench.small.acts = [reply_with(build_reply(model=SMALL_ID))]
    arguments = ["score-prompts", *list_judge_arguments(bench)[1:], "--engine", "llamacpp"]
    at = arguments.index("--judge-url")
    arguments[at : at + 2] = ["--model-url", bench.small.url]
    capsys.readouterr()
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "3 calls (3 failed" in out
    assert "this engine does not give them; ask one that does (--engine vllm)" in out


COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
from routerlib.cli import main
sys.exit(main())
"""


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name
)
def test_an_interrupted_recording_goes_on(
    bench: Bench, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """The small model answers two requests, that for its prompt and one root; the two other roots
    are in flight when the signal comes."""
    released = threading.Event()
    bench.small.acts = [hold_after(2, answer_as(0), released)]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *bench.list_arguments()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        wait_until(lambda: len(bench.small.bodies) == 4, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
        released.set()
    assert process.returncode == 130, err
    assert get_last_line(out) == (
        "stopped; what was answered is recorded: run the same command to go on"
    )
    assert "Traceback" not in err
    traces = bench.folder / "traces"
    assert main(["verify", "--traces", str(traces)]) == 0
    assert get_last_line(capsys.readouterr().out) == f"{traces} is sound"
    (recorded,) = load_table(traces, "steps").to_pylist()
    (run,) = load_table(traces, "runs").to_pylist()
    assert run["ended_at"] is not None

    bench.take_asked()
    bench.answer()
    assert main(bench.list_arguments()) == 0
    asked = bench.take_asked()
    assert len(asked) == len(set(asked)) == LATTICE_CALLS - 1
    answered = next(
        text for i, (text, _) in enumerate(TEXTS) if recorded["problem_id"][-1] == f"{i}"
    )
    assert ("small", answered, "") not in asked
    assert main(["verify", "--traces", str(traces)]) == 0
    assert main(bench.list_arguments("undisturbed")) == 0
    assert load_content(traces) == load_content(bench.folder / "undisturbed")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--benchmark", "gsm9k"], "BenchmarkError: unknown benchmark 'gsm9k': choose one of"),
        (["--split", "dev"], "BenchmarkError: unknown split 'dev'"),
        (["--data", "nowhere"], "BenchmarkError: "),
        (["--small", "gpt"], "WeightsError: no weights are known by the name 'gpt'"),
        (["--large", SMALL], f"ModelError: --small and --large are both {SMALL_ID}: name diff"),
        (["--tiny", LARGE], f"ModelError: --tiny and --large are both {LARGE_ID}: name diff"),
    ],
)
def test_a_named_error_is_one_line(
    bench: Bench, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    assert main([*bench.list_arguments(), *changes]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"routerlib: {message}")
    assert said.err.count("\n") == 1
    assert bench.take_asked() == []


def run_command(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


def list_contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.glob("**/*") if path.is_file()}


def test_one_recording_at_a_time(bench: Bench) -> None:
    """A second process is refused by the first one's id and asks nothing; a dry run reads what is
    in files already, and changes nothing."""
    assert main([*bench.list_arguments(), "--limit", "1"]) == 0
    bench.take_asked()
    released = threading.Event()
    bench.small.acts = [hold_after(1, answer_as(0), released)]
    first = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *bench.list_arguments()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: len(bench.small.bodies) == 3, first)
        asked = bench.take_asked()
        before = list_contents(bench.folder / "traces")
        second = run_command(bench.list_arguments())
        dry = run_command([*bench.list_arguments(), "--dry-run"])
        assert list_contents(bench.folder / "traces") == before
        assert bench.take_asked() == []
        assert len(asked) == 2
    finally:
        first.terminate()
        first.communicate()
        released.set()
    assert second.returncode == 1
    assert get_last_line(second.stderr) == (
        f"routerlib: StoreError: {bench.folder / 'traces'} is being written by process "
        f"{first.pid}: wait until it ends, or stop it"
    )
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout.startswith("3 problems, 1 of them complete. Expected: ")


@pytest.mark.parametrize(
    "changes",
    [
        ["--depth", "-1"],
        ["--limit", "0"],
        ["--concurrency", "0"],
        ["--chunk", "many"],
        ["--prompt", "no-such-prompt"],
        ["--plan", "tree"],
        ["--rollouts", "0"],
        ["--engine", "steam"],
    ],
)
def test_impossible_options_are_usage_errors(
    changes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["collect", *changes])
    assert caught.value.code == 2
    assert f"argument {changes[0]}: " in capsys.readouterr().err


def test_generated_problems_need_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("reasoning_gym")
    arguments = ["collect", "--benchmark", "gsm_symbolic", "--limit", "5", "--dry-run"]
    assert main([*arguments, "--traces", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("5 problems, 0 of them complete. Expected: 200 calls")


def test_generated_problems_of_the_store_need_no_package(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    traces = bench.folder / "traces"
    arguments = [*bench.list_arguments(), "--benchmark", "gsm_symbolic", "--limit"]
    assert main([*arguments, "3"]) == 1
    missing = (
        "routerlib: MissingGeneratorError: gsm_symbolic needs the package reasoning-gym: install "
        "routerlib[collect]"
    )
    assert capsys.readouterr().err.strip() == missing
    with TraceWriter(traces) as writer:
        for number, (text, answer) in enumerate(TEXTS):
            problem = Problem(f"gsm_symbolic/test-0/{number}", "gsm_symbolic", "test", text, answer)
            writer.add_problem(make_problem_row(problem))
            if number < 2:
                writer.add_problem_text(ProblemText(problem.id, text, answer))
    assert main([*arguments, "3"]) == 1
    assert capsys.readouterr().err.strip() == (
        f"{missing}, or ask for those that {traces} has: --limit 2"
    )
    assert main([*arguments, "1"]) == 0
    assert {text for _, text, _ in bench.take_asked()} == {TEXTS[0][0]}
    assert main([*arguments, "2"]) == 0
    assert {text for _, text, _ in bench.take_asked()} == {TEXTS[1][0]}
    bench.large.acts = [answer_with(lambda request: "9")]
    capsys.readouterr()
    judge = [*list_judge_arguments(bench), "--benchmark", "gsm_symbolic"]
    assert main([*judge, "--max-level", "3"]) == 1
    assert "gsm_symbolic has no levels" in capsys.readouterr().err
    assert main([*judge, "--question", "usefulness-v1"]) == 0
    assert "drafts of 2 problems (0 not recorded)" in get_last_line(capsys.readouterr().out)


def test_query(tiny_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT model_id, count(*) AS steps FROM steps GROUP BY ALL ORDER BY ALL"
    assert main(["query", sql, "--traces", str(tiny_store)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["model_id", "steps"],
        ["tiny-large", "10"],
        ["tiny-small", "10"],
    ]
    assert main(["query", sql, "--traces", str(tiny_store), "--csv"]) == 0
    assert capsys.readouterr().out == "model_id,steps\ntiny-large,10\ntiny-small,10\n"


def test_what_a_query_finds_moves_no_cursor(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["query", "SELECT chr(27) || '[31mred' AS said", "--traces", str(tiny_store)]
    assert main(ask) == 0
    assert capsys.readouterr().out.split() == ["said", "[31mred"]
    assert main([*ask, "--csv"]) == 0
    assert capsys.readouterr().out == "said\n\x1b[31mred\n"  # to a file or another program
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main([*ask, "--csv"]) == 0
    assert capsys.readouterr().out == "said\n [31mred\n"


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM steps",
        "DROP VIEW steps",
        "CREATE TABLE mine AS SELECT 1",
        "INSERT INTO models VALUES (1)",
        "COPY steps TO 'steps.csv'",
        "ATTACH 'other.duckdb'",
        "SET threads = 1",
        "SELECT 1; DROP VIEW steps",
        "SELECT * FROM read_csv('/etc/hostname')",
    ],
)
def test_query_only_reads(
    tiny_store: Path, capsys: pytest.CaptureFixture[str], sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_store.parent)
    before = {path: path.read_bytes() for path in tiny_store.rglob("*") if path.is_file()}
    assert main(["query", sql, "--traces", str(tiny_store)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("routerlib: StoreError: ")
    assert {path: path.read_bytes() for path in tiny_store.rglob("*") if path.is_file()} == before
    assert not Path("steps.csv").exists()


def test_verify_lists_every_problem(tiny_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--traces", str(tiny_store)]) == 0
    assert capsys.readouterr().out == f"{tiny_store} is sound\n"
    (steps,) = (tiny_store / "steps").glob("*.parquet")
    steps.write_bytes(steps.read_bytes()[:-100])
    (models,) = (tiny_store / "models").glob("*.parquet")
    models.unlink()
    assert main(["verify", "--traces", str(tiny_store)]) == 1
    *problems, last = capsys.readouterr().out.splitlines()
    assert last == f"{len(problems)} problems found"
    assert any(str(steps) in problem and "cannot be read" in problem for problem in problems)
    assert any(str(models) in problem for problem in problems)


def test_compact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "traces"
    with TraceWriter(store, flush_rows=3) as writer:
        add_records(writer, make_tiny_records())
    assert len(list((store / "steps").glob("*.parquet"))) > 1
    assert main(["compact", "--traces", str(store)]) == 0
    assert capsys.readouterr().out == f"{store} is compact\n"
    assert [path.name for path in (store / "steps").glob("*.parquet")] == ["steps-000.parquet"]


def test_db(tiny_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "--traces", str(tiny_store)]) == 0
    path = capsys.readouterr().out.strip()
    with duckdb.connect(path, read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM steps").fetchone() == (20,)


@pytest.mark.parametrize("command", ["compact", "db", "verify", "query"])
def test_where_there_is_no_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    nowhere = tmp_path / "nowhere"
    sql = ["SELECT 1"] if command == "query" else []
    assert main([command, *sql, "--traces", str(nowhere)]) == 1
    said = capsys.readouterr()
    assert str(nowhere) in said.out + said.err
    assert not nowhere.exists()


def test_weights_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTERLIB_CACHE", str(tmp_path))
    assert main(["weights", "list"]) == 0
    assert capsys.readouterr().out == (
        f"{SMALL}: not here: routerlib weights fetch {SMALL}\n"
        f"{LARGE}: not here: routerlib weights fetch {LARGE}\n"
        f"{TINY}: not here: routerlib weights fetch {TINY}\n"
    )
    assert main(["weights", "list", "gpt"]) == 1
    assert capsys.readouterr().err.startswith("routerlib: WeightsError: no weights are known by")


def test_an_interrupt_is_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """SIGTERM is the interrupt that Ctrl-C is while a command runs, and what it was afterwards."""
    before = signal.getsignal(signal.SIGTERM)

    def stop_self(root: Path) -> list[str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return ["not reached"]

    monkeypatch.setattr("routerlib.store.verify", stop_self)
    assert main(["verify", "--traces", str(tmp_path)]) == 130
    assert capsys.readouterr() == ("", "routerlib: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_while_a_thread_is_awaited_is_one_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As where a model is asked what it can do, before anything is recorded."""

    async def stop_self() -> list[str]:
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        await asyncio.sleep(0.2)  # until it waits
        signal.pthread_kill(main_thread, signal.SIGTERM)
        await asyncio.sleep(20)
        return ["not reached"]

    monkeypatch.setattr("routerlib.store.verify", lambda root: run_cancellable(stop_self()))
    assert main(["verify", "--traces", str(tmp_path)]) == 130
    assert capsys.readouterr() == ("", "routerlib: interrupted\n")


def test_an_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang_up(root: Path) -> list[str]:
        os.kill(os.getpid(), signal.SIGHUP)
        return []

    monkeypatch.setattr("routerlib.store.verify", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert main(["verify", "--traces", str(tmp_path)]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_may_run_a_command(tiny_store: Path) -> None:
    """Only the main thread can set signal handlers."""
    statuses: list[int] = []
    arguments = ["verify", "--traces", str(tiny_store)]
    thread = threading.Thread(target=lambda: statuses.append(main(arguments)))
    thread.start()
    thread.join()
    assert statuses == [0]


COMMANDS = [["weights"], ["serve-local"], ["collect"], ["verify"], ["compact"], ["db"], ["query"]]
COMMANDS += [["notebooks", action] for action in ("run", "check", "strip", "verify")]


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {' '.join(['routerlib', *command])}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"routerlib {__version__}\n"


def test_the_recorded_run_is_described(bench: Bench) -> None:
    """The options are in the run's row, for whoever reads the store later."""
    more = ["--chunk", "2", "--separate-machines"]
    assert main([*bench.list_arguments(), *more]) == 0
    (run,) = load_table(bench.folder / "traces", "runs").to_pylist()
    configuration = json.loads(run["configuration"])
    expected = {"depth": 2, "concurrency": 2, "chunk_problems": 2, "shared_machine": False}
    expected |= {"benchmark": "gsm8k", "split": "test", "models": [SMALL_ID, LARGE_ID]}
    assert expected.items() <= configuration.items()


def test_a_servers_words_cannot_move_the_cursor(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.dumps({"error": {"message": "no \x1b[2J\x07\r such model"}}).encode()
    bench.small.acts = [lambda handler: handler.answer(404, content)]
    assert main(bench.list_arguments()) == 1
    said = capsys.readouterr().err
    assert "such model" in said
    assert not {"\x1b", "\x07"} & set(said)
