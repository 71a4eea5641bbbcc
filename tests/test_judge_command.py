"""``routerlib judge`` with a file of models: who can judge, what it costs, what is kept."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Handler, ScriptedServer, answer_with, reply_with
from test_cli_models_file import PRICES
from test_judge import DRAFTS, FOUND, answer, read_question
from test_models_capabilities import answer_chat, get_begun
from tiny_models import (
    MODEL_IDS,
    make_cards,
    make_gsm8k_problems,
    make_tiny_models,
    write_gsm8k_file,
)

from routerlib.cli import main
from routerlib.collect import Collector, make_run
from routerlib.judge_prompts import JUDGE_PROMPTS, build_judge_messages
from routerlib.models.capabilities import BEGUN, QUESTION
from routerlib.models.model_file import load_model_file
from routerlib.models.spending import compute_worst_usd
from routerlib.plans import CollectConfig
from routerlib.records import Request, Sampling
from routerlib.store import TraceWriter, load_table, verify
from routerlib.store.schema import TABLES

AUTHOR, JUDGE = MODEL_IDS[0], "my-judge"
CALLS = 2 * DRAFTS
PRICED = PRICES.format(name=JUDGE)


@dataclass
class JudgeServer:
    """Answers both questions as ``test_judge.answer`` does, with at most ``most`` alternatives, and
    counts what it bills. Refused problems are answered with the key that came."""

    most: int = 20
    takes_prefill: bool = True
    refuses: str = ""
    http: ScriptedServer = field(default_factory=ScriptedServer)
    probes: int = 0
    asked: list[str] = field(default_factory=list)
    top_logprobs: set[int] = field(default_factory=set)
    billed_usd: float = 0.0
    probed_usd: float = 0.0

    def act(self, handler: Handler) -> None:
        body = handler.body
        with self.http.lock:
            if self.refuses and self.refuses in str(body["messages"]):
                said = {"error": {"message": f"denied to {handler.headers['Authorization']}"}}
                handler.answer(403, json.dumps(said).encode())
                return
            if body.get("top_logprobs", 0) > self.most:
                handler.answer(400, b'{"error": {"message": "too many alternatives"}}')
                return
            if body["messages"][0]["content"] == QUESTION:
                self.probes += 1
                begun = get_begun(body) == BEGUN and self.takes_prefill
                reply = answer_chat(body, "is." if begun else "The capital.")
                tokens = reply["usage"]
                self.probed_usd += (
                    tokens["prompt_tokens"] * 1.0 + tokens["completion_tokens"] * 10.0
                ) / 1e6
                reply_with(reply | {"model": body["model"]})(handler)
                return
            request = handler.read_request()
            words = sum(len(re.findall(r"\S+|\s+$", m.content)) for m in request.messages)
            self.billed_usd += (words * 1.0 + 1 * 10.0) / 1e6
            if read_question(request):
                self.asked.append(request.messages[1].content + request.messages[-1].content)
                self.top_logprobs.add(body["top_logprobs"])
        answer_with(answer)(handler)


@dataclass
class Bench:
    folder: Path
    server: JudgeServer

    @property
    def traces(self) -> Path:
        return self.folder / "traces"

    def write_models(self, *, prices: str = "", more: str = "") -> None:
        (self.folder / "models.toml").write_text(
            f'[{AUTHOR}]\nprovider = "anthropic"\n'
            f'[{JUDGE}]\nprovider = "openai-compatible"\nbase_url = "{self.server.http.url}"\n'
            + more
            + prices
        )

    def judge(self, *more: str) -> int:
        return main(
            [
                "judge",
                *("--benchmark", "gsm8k", "--split", "test", "--data", str(self.folder / "data")),
                *("--models", str(self.folder / "models.toml"), "--author", AUTHOR),
                *("--judge", JUDGE, "--concurrency", "2", "--traces", str(self.traces), *more),
            ]
        )

    def load_rows(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = load_table(self.traces, name).to_pylist()
        return rows

    def load_runs(self) -> list[dict[str, Any]]:
        return [row for row in self.load_rows("runs") if row["plan"] == "judge"]

    def load_scores(self) -> dict[tuple[str, str], float]:
        rows = self.load_rows("judgements")
        assert {row["judge_model_id"] for row in rows} <= {JUDGE}
        return {(row["step_id"], row["question"]): row["score"] for row in rows}


def record_drafts(root: Path, config: CollectConfig, **found: Any) -> None:
    models = make_tiny_models()
    with TraceWriter(root) as writer:
        collector = Collector(models, make_cards(), writer, config)
        run = make_run(config, models, "gsm8k", "test", **found)
        asyncio.run(collector.collect(make_gsm8k_problems(), run))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lattice of ``tiny_models`` and their problems, without judgements."""
    folder = tmp_path_factory.mktemp("recorded")
    write_gsm8k_file(folder / "data")
    record_drafts(folder / "traces", CollectConfig(depth=2))
    return folder


@pytest.fixture
def bench(recorded: Path, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "bench", JudgeServer())
    shutil.copytree(recorded, made.folder)
    made.server.http.acts = [made.server.act]
    made.write_models()
    with made.server.http.serving():
        yield made


def test_a_model_of_the_file_judges(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Once: neither what it can do nor a score is asked for again."""
    assert bench.judge() == 0
    scores = bench.load_scores()
    assert len(scores) == CALLS
    # 3 and yes for a draft with a 5, 9 and no for the others.
    assert {round(score, 6) for score in scores.values()} == {round(3 / 9, 6), 0.0, 1.0}
    (run,) = bench.load_runs()
    asked = json.loads(run["configuration"])
    assert asked["capabilities"][JUDGE]["prefill"] == "continue_final_message"
    assert (asked["models"], asked["author_id"], asked["top_logprobs"]) == ([JUDGE], AUTHOR, 20)
    assert run["spent_usd"] is None
    assert bench.server.probes > 0
    before = len(bench.server.http.bodies)
    assert bench.judge() == 0
    assert f"{CALLS} scores were there, 0 calls" in capsys.readouterr().out
    assert len(bench.server.http.bodies) == before
    assert len(bench.load_runs()) == 1
    assert verify(bench.traces) == []


def test_who_continues_no_begun_answer_is_asked_in_a_turn(bench: Bench, recorded: Path) -> None:
    """The same scores come of it, under names of their own, and nothing is asked again."""
    assert bench.judge() == 0
    begun = bench.load_scores()
    shutil.rmtree(bench.traces)
    shutil.copytree(recorded / "traces", bench.traces)
    bench.server.takes_prefill = False
    bench.server.http.bodies.clear()
    assert bench.judge() == 0
    in_turn = bench.load_scores()
    named = {(step_id, name.replace("-v1", "-turn-v1")): s for (step_id, name), s in begun.items()}
    assert in_turn == named
    asked = [body for body in bench.server.http.bodies if body.get("max_tokens") == 1]
    assert len(asked) >= CALLS
    assert all(body["messages"][-1]["role"] == "user" for body in asked)
    before = len(bench.server.http.bodies)
    assert bench.judge() == 0
    assert len(bench.server.http.bodies) == before


def test_a_dry_run_asks_nobody_and_tells_the_most_it_costs(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write_models(prices=PRICED)
    with TraceWriter(bench.traces):  # a recording may be running
        assert bench.judge("--dry-run") == 0
    said = capsys.readouterr().out
    assert (
        f"{DRAFTS} drafts of 3 problems (0 not recorded): 0 scores are there, {CALLS} calls" in said
    )
    most = float(re.search(r"at most (\S+) USD", said).group(1))  # type: ignore[union-attr]
    assert bench.server.http.bodies == []
    assert bench.judge() == 0
    assert 0 < bench.server.billed_usd < most
    capsys.readouterr()
    assert bench.judge("--dry-run") == 0
    assert f"{CALLS} scores are there, 0 calls are missing.\n" in capsys.readouterr().out


def test_fewer_alternatives_than_a_score_likes(bench: Bench) -> None:
    bench.server.most = 5
    assert bench.judge() == 0
    assert bench.server.top_logprobs == {5}
    assert json.loads(bench.load_runs()[0]["configuration"])["top_logprobs"] == 5
    assert len(bench.load_scores()) == CALLS


@pytest.mark.parametrize(
    ("lack", "more", "reason"),
    [
        ({"most": 0}, (), "it gives no log-probabilities"),
        ({"most": 0, "takes_prefill": False}, (), "it gives no log-probabilities"),
        (
            {"takes_prefill": False},
            ("--question", "right-v1"),
            "it does not continue a begun answer, as right-v1 ask it to (--question "
            "usefulness-turn-v1 right-turn-v1 ask in a turn)",
        ),
    ],
)
def test_who_cannot_judge_is_refused_before_any_call(
    bench: Bench,
    capsys: pytest.CaptureFixture[str],
    lack: dict[str, Any],
    more: tuple[str, ...],
    reason: str,
) -> None:
    for name, value in lack.items():
        setattr(bench.server, name, value)
    bench.write_models(prices=PRICED)
    assert bench.judge("--max-usd", "5", *more) == 1
    said = capsys.readouterr().err
    assert f"ModelError: {JUDGE} cannot judge: {reason}" in said
    assert "Use a judge that gives log-probabilities" in said
    assert (bench.server.billed_usd, bench.load_scores()) == (0, {})
    (run,) = bench.load_runs()
    assert run["spent_usd"] == pytest.approx(bench.server.probed_usd)
    assert bench.judge("--max-usd", "5", *more) == 1, "what it can do is known, so nothing is paid"
    assert len(bench.load_runs()) == 1
    assert verify(bench.traces) == []


def test_the_cap_keeps_what_was_answered_and_more_money_goes_on(
    bench: Bench, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Together the runs ask and score what one run without a cap does, and book what is billed."""
    bench.write_models(prices=PRICED)
    assert bench.judge() == 0
    undisturbed, asked = bench.load_scores(), sorted(bench.server.asked)
    assert len(asked) == CALLS
    server = bench.server
    assert server.probed_usd > 0
    assert bench.load_runs()[0]["spent_usd"] == pytest.approx(server.billed_usd + server.probed_usd)

    shutil.rmtree(bench.traces)
    shutil.copytree(recorded / "traces", bench.traces)
    server.asked.clear()
    server.billed_usd = server.probed_usd = 0.0
    capsys.readouterr()
    assert bench.judge("--max-usd", "0.0044") == 3
    said = capsys.readouterr().out
    assert re.search(rf"{DRAFTS} drafts of 3 problems .* calls \(0 failed", said)
    assert (
        "more than the cap of 0.0044 USD. What was answered is recorded: run the same command to "
        "go on, which may then spend --max-usd once more, or with a higher --max-usd where that is "
        "less than one call may cost"
    ) in said
    kept = bench.load_scores()
    assert 0 < len(kept) == len(bench.server.asked) < CALLS
    (run,) = bench.load_runs()
    assert run["spent_usd"] == pytest.approx(server.billed_usd + server.probed_usd)
    assert run["spent_usd"] <= 0.0044
    assert run["ended_at"] is not None

    assert bench.judge("--max-usd", "5") == 0
    assert "USD spent" in capsys.readouterr().out
    assert bench.load_scores() == undisturbed
    assert kept.items() <= undisturbed.items()
    assert sorted(bench.server.asked) == asked
    spent = [run["spent_usd"] for run in bench.load_runs()]
    assert sum(spent) == pytest.approx(server.billed_usd + server.probed_usd)
    assert verify(bench.traces) == []


def test_the_worst_case_of_all_tries_is_reserved(bench: Bench) -> None:
    """The first call, which measures the prompt, may be sent five times."""
    bench.write_models(prices=PRICED)
    card = load_model_file(bench.folder / "models.toml")[JUDGE].card
    messages = build_judge_messages(JUDGE_PROMPTS["usefulness-v1"], "")
    worst_usd = compute_worst_usd(card, Request(messages, Sampling(max_tokens=1)))
    assert bench.judge("--max-usd", str(4.99 * worst_usd)) == 3
    assert (bench.server.billed_usd, bench.load_scores()) == (0, {})
    spent = [run["spent_usd"] for run in bench.load_runs()]
    assert spent == pytest.approx([bench.server.probed_usd])
    assert bench.judge("--max-usd", str(5.01 * worst_usd)) == 3
    assert bench.server.billed_usd > 0


def test_asking_what_the_judge_can_do_is_paid_from_the_cap(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write_models(prices=PRICED)
    assert bench.judge("--max-usd", "0.0000001") == 3
    said = capsys.readouterr().err
    assert "SpendingCapError: 0.0000 USD are spent" in said
    assert f"{JUDGE} could not be asked all that it can do" in said
    assert "run it again with a higher --max-usd" in said
    assert bench.server.http.bodies == []
    assert bench.judge("--max-usd", "0.0017") == 3  # enough for some of its questions
    assert 0 < bench.server.probed_usd < 0.0017
    assert bench.server.billed_usd == 0
    (run,) = bench.load_runs()
    assert run["spent_usd"] == pytest.approx(bench.server.probed_usd)
    assert run["ended_at"] >= run["started_at"]
    assert verify(bench.traces) == []


def test_no_cap_without_prices(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.judge("--max-usd", "5") == 1
    assert f"UnpricedModelError: model '{JUDGE}' has no prices" in capsys.readouterr().err
    assert bench.server.http.bodies == []


def test_drafts_of_an_author_that_continues_no_begun_answer(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its protocol is that of its recording, unless it is named."""
    shutil.rmtree(bench.traces)
    known = {AUTHOR: replace(FOUND, prefill="none")}
    config = CollectConfig(depth=2, continuations=("dialogue", "prefill"))
    record_drafts(bench.traces, config, capabilities=known)
    assert bench.judge("--question", "right-v1", "--author-continuation", "one_shot") == 0
    assert "0 drafts of 3 problems" in capsys.readouterr().out
    assert bench.judge("--question", "right-v1") == 0
    assert f"{DRAFTS} drafts of 3 problems" in capsys.readouterr().out
    assert bench.judge("--author-continuation", "prefill") == 1
    assert f"{AUTHOR} does not continue a begun answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--judge", "gpt-y"), r"--judge is 'gpt-y': .*models.toml has tiny-small, my-judge, and"),
        (("--author", "gpt-y"), r"--author is 'gpt-y': .*models.toml has tiny-small, my-judge,"),
        (("--judge-url", "http://127.0.0.1:9/v1"), "--judge-url is given, but"),
    ],
)
def test_what_is_refused(
    bench: Bench, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert bench.judge(*more) == 1
    assert re.search(message, capsys.readouterr().err)
    assert bench.server.http.bodies == []


def test_the_key_is_nowhere_but_in_the_environment(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not in the store, nor in what is printed or logged, though the server repeats it."""
    key = "sk-" + "s3cret" * 4
    monkeypatch.setenv("MY_KEY", key)
    bench.write_models(more='api_key_env = "MY_KEY"\n', prices=PRICED)
    bench.server.refuses = "Tom has"
    with caplog.at_level("DEBUG"):
        assert bench.judge("--max-usd", "5") == 1
    assert bench.server.http.headers_seen[-1]["Authorization"] == f"Bearer {key}"
    said = capsys.readouterr()
    assert "denied to Bearer [key]" in said.out
    assert 0 < len(bench.load_scores()) < CALLS
    tables = [str(bench.load_rows(name)) for name in TABLES]
    files = [path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()]
    assert not [text for text in [said.out, said.err, caplog.text, *tables] if key in text]
    assert not [content for content in files if key.encode() in content]
    assert len(files) > 8
