"""``routerlib collect`` with a file of models: what they can do, what they cost, each alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Handler, ResponsesApi, ScriptedServer, build_reply_of, reply_with
from test_models_capabilities import answer_chat, get_begun
from tiny_models import LATTICE_CALLS, MODEL_IDS, read_asked, write_gsm8k_file, write_solution

from routerlib.cli import main
from routerlib.models.capabilities import BEGUN, QUESTION
from routerlib.models.scripted import build_completion
from routerlib.models.spending import compute_worst_usd
from routerlib.records import Message, ModelCard, Request, Sampling
from routerlib.store import load_table, query, verify
from routerlib.store.schema import TABLES

SMALL, LARGE = MODEL_IDS
PRICES = """[{name}.prices]
input = 1.0
cached_input = 0.1
output = 10.0
date = 2026-11-01
source = "made up"
"""


@dataclass
class Server:
    """One of the tiny models behind an OpenAI-compatible server. Without ``takes_prefill`` it is a
    reasoning model: no begun answer, temperature, stop sequence, log-probabilities. ``responses``:
    such a model that the Responses API alone reaches."""

    index: int
    takes_prefill: bool = True
    responses: bool = False
    refuses: str = ""  # problems with these words, and repeats the key that it was sent
    write: Callable[[int, str, str], str] = write_solution
    http: ScriptedServer = field(default_factory=ScriptedServer)
    probes: int = 0

    def act(self, handler: Handler) -> None:
        body = handler.body
        if self.responses:
            ResponsesApi(self.answer_response, reasons=True).act(handler)
            return
        refused = [] if self.takes_prefill else ["max_tokens", "temperature", "stop", "logprobs"]
        for name in refused:
            if name in body:
                handler.answer(400, f'{{"error": {{"message": "no {name}"}}}}'.encode())
                return
        if self.refuses and self.refuses in str(body["messages"][-2:]):
            said = json.dumps(
                {"error": {"message": f"denied to {handler.headers['Authorization']}"}}
            )
            handler.answer(403, said.encode())
            return
        if body["messages"][0]["content"] == QUESTION:
            self.probes += 1
            text = "is." if get_begun(body) == BEGUN and self.takes_prefill else "The capital."
            reply_with(answer_chat(body, text) | {"model": body["model"]})(handler)
            return
        request = Request(
            tuple(Message(m["role"], m["content"]) for m in body["messages"]),
            Sampling(max_tokens=body.get("max_tokens") or body["max_completion_tokens"]),
            tuple(body.get("stop", ())),
        )
        text = self.write(self.index, *read_asked(request))
        reply = build_reply_of(build_completion(text, request, body["model"]))
        if not self.takes_prefill:
            reply["choices"][0]["logprobs"] = None
            del reply["choices"][0]["stop_reason"]
        reply_with(reply)(handler)

    def answer_response(self, request: Request) -> str:
        if request.messages[0].content == QUESTION:
            self.probes += 1
            return "The capital."
        return self.write(self.index, *read_asked(request))


@dataclass
class Bench:
    folder: Path
    small: Server
    large: Server

    def write_models(self, *, priced: tuple[str, ...] = (), more: str = "") -> None:
        text = "".join(
            f'[{name}]\nprovider = "openai-compatible"\nbase_url = "{server.http.url}"\n{more}'
            + ('api = "responses"\n' if server.responses else "")
            + (PRICES.format(name=name) if name in priced else "")
            for name, server in ((SMALL, self.small), (LARGE, self.large))
        )
        (self.folder / "models.toml").write_text(text)

    def collect(self, *more: str) -> int:
        return main(
            [
                "collect",
                *("--benchmark", "gsm8k", "--split", "test", "--data", str(self.folder / "data")),
                *("--models", str(self.folder / "models.toml"), "--small", SMALL),
                *("--large", LARGE, "--depth", "2", "--concurrency", "2"),
                *("--traces", str(self.traces), *more),
            ]
        )

    @property
    def traces(self) -> Path:
        return self.folder / "traces"

    def load_rows(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = load_table(self.traces, name).to_pylist()
        return rows


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    write_gsm8k_file(tmp_path / "data")
    made = Bench(tmp_path, Server(0), Server(1, takes_prefill=False))
    made.small.http.acts, made.large.http.acts = [made.small.act], [made.large.act]
    made.write_models()
    with made.small.http.serving(), made.large.http.serving():
        yield made


def test_the_protocol_follows_from_what_a_model_can_do(bench: Bench) -> None:
    assert bench.collect() == 0
    steps = bench.load_rows("steps")
    assert {(row["model_id"], row["prompt_version"]) for row in steps} == {
        (SMALL, "short-lines-v1"),
        (LARGE, "short-lines-v1+dialogue"),
    }
    alone = query(bench.traces, "SELECT model_id, accuracy FROM solo ORDER BY model_id DESC")
    assert alone["accuracy"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert all((row["token_logprobs"] == []) == (row["model_id"] == LARGE) for row in steps)


def test_a_model_that_the_responses_api_alone_reaches(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same lattice comes of it; what it wrote past a step's end, and thought, is paid."""
    least_tokens = {}

    def watch(card: ModelCard, request: Request, thinking: int, least: int) -> float:
        least_tokens[card.id] = least
        return compute_worst_usd(card, request, thinking, least)

    monkeypatch.setattr("routerlib.models.spending.compute_worst_usd", watch)
    bench.large.responses = True
    assert bench.collect() == 1
    assert 'put api = "responses" in its table' in capsys.readouterr().err
    bench.write_models(priced=(SMALL, LARGE))
    assert bench.collect("--max-usd", "5") == 0
    steps = bench.load_rows("steps")
    assert len(steps) == LATTICE_CALLS
    large = [row for row in steps if row["model_id"] == LARGE]
    assert {row["prompt_version"] for row in large} == {"short-lines-v1+dialogue"}
    assert all(row["token_logprobs"] == [] for row in large)
    alone = query(bench.traces, "SELECT model_id, accuracy FROM solo ORDER BY model_id DESC")
    assert alone["accuracy"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert all(row["completion_tokens"] >= len(row["text"].split()) + 3 for row in large)
    assert any(row["completion_tokens"] > len(row["text"].split()) + 4 for row in large)
    thought = {(row["model_id"], row["reasoning_tokens"]) for row in steps}
    assert thought == {(SMALL, None), (LARGE, 3)}
    asked = [body for body in bench.large.http.bodies if "input" in body]
    assert min(body["max_output_tokens"] for body in asked) == 16  # the prompt was measured
    assert least_tokens == {SMALL: 1, LARGE: 16}


def test_another_api_is_asked_anew(bench: Bench) -> None:
    assert bench.collect("--limit", "1") == 0
    probes = bench.small.probes, bench.large.probes
    bench.large.responses = True
    bench.write_models()
    assert bench.collect() == 0
    assert bench.small.probes == probes[0]
    assert bench.large.probes > probes[1]
    found = [json.loads(row["configuration"])["capabilities"] for row in bench.load_rows("runs")]
    assert {capabilities[LARGE]["api"] for capabilities in found} == {"chat", "responses"}


def test_what_a_model_can_do_is_stored_and_not_asked_again(bench: Bench) -> None:
    assert bench.collect("--limit", "1") == 0
    (run,) = bench.load_rows("runs")
    found = json.loads(run["configuration"])["capabilities"]
    assert found[SMALL]["prefill"] == "continue_final_message"
    assert (found[LARGE]["prefill"], found[LARGE]["limit_field"]) == (
        "none",
        "max_completion_tokens",
    )
    assert "no stop" in found[LARGE]["refusals"]["stop"]
    probes = bench.small.probes, bench.large.probes
    assert min(probes) > 0
    assert bench.collect() == 0
    assert (bench.small.probes, bench.large.probes) == probes
    assert len(bench.load_rows("steps")) == LATTICE_CALLS


def test_another_model_under_the_same_name_is_refused(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    def name_models(model_name: str) -> None:
        bench.write_models(more=f'model = "{model_name}"\n')

    name_models("gpt-x")
    assert bench.collect("--limit", "1") == 0
    recorded = bench.load_rows("steps")
    name_models("gpt-y")
    probes = bench.small.probes, bench.large.probes
    assert bench.collect() == 1
    said = capsys.readouterr().err
    assert f"steps of [{SMALL}] that 'gpt-x' wrote, and the table now names 'gpt-y'" in said
    assert bench.load_rows("steps") == recorded
    assert (bench.small.probes, bench.large.probes) == probes
    aliases = ("--small-alias", "gpt-x", "--large-alias", "gpt-x")
    assert bench.collect(*aliases) == 0
    assert len(bench.load_rows("steps")) == LATTICE_CALLS


def test_a_protocol_may_be_named(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.collect("--large-continuation", "one_shot") == 0
    versions = {row["prompt_version"] for row in bench.load_rows("steps")}
    assert versions == {"short-lines-v1", "short-lines-v1+one_shot"}
    capsys.readouterr()
    assert bench.collect("--large-continuation", "prefill") == 1
    assert "does not continue a begun answer" in capsys.readouterr().err


def test_each_model_alone(bench: Bench) -> None:
    """Its own paths only: the small one's 3 + 2 calls, the large one's 3 + 3 + 1."""
    assert bench.collect("--alone") == 0
    alone = query(bench.traces, "SELECT model_id, accuracy FROM solo ORDER BY model_id DESC")
    assert alone["accuracy"].tolist() == pytest.approx([1 / 3, 2 / 3])
    steps = bench.load_rows("steps")
    assert len(steps) < LATTICE_CALLS
    assert len(bench.load_rows("runs")) == 2
    assert bench.collect() == 0  # the rest of the lattice, nothing twice
    assert len(bench.load_rows("steps")) == LATTICE_CALLS


def test_the_cap_stops_the_run_and_keeps_what_was_answered(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write_models(priced=(SMALL, LARGE))
    assert bench.collect("--max-usd", "0.02") == 3
    said = capsys.readouterr().out
    assert "more than the cap of 0.02 USD. What was answered is recorded" in said
    recorded = len(bench.load_rows("steps"))
    assert recorded < LATTICE_CALLS
    (run,) = bench.load_rows("runs")
    assert 0 <= run["spent_usd"] <= 0.02
    assert bench.collect("--max-usd", "5") == 0
    assert "USD spent" in capsys.readouterr().out
    steps = bench.load_rows("steps")
    assert len(steps) == LATTICE_CALLS
    spent = [row["spent_usd"] for row in bench.load_rows("runs")]
    prices = sum(row["prompt_tokens"] * 1.0 + row["completion_tokens"] * 10.0 for row in steps)
    assert sum(spent) >= prices / 1e6  # the shared prompts were measured, too


def test_what_asking_cost_is_kept_where_nothing_is_recorded(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cap ends the questions to the second model: the first one is not asked again."""
    bench.write_models(priced=(SMALL, LARGE))
    assert bench.collect("--max-usd", "0.014") == 3
    assert f"{LARGE} could not be asked all that it can do" in capsys.readouterr().err
    (run,) = bench.load_rows("runs")
    assert 0 < run["spent_usd"] <= 0.014
    assert list(json.loads(run["configuration"])["capabilities"]) == [SMALL]
    assert bench.load_rows("steps") == []
    probes = bench.small.probes
    assert bench.collect("--max-usd", "5") == 0
    assert bench.small.probes == probes
    assert verify(bench.traces) == []


def test_without_money_the_next_model_is_not_begun(bench: Bench) -> None:
    bench.write_models(priced=(SMALL, LARGE))
    assert bench.collect("--alone", "--max-usd", "0.02") == 3
    (run,) = bench.load_rows("runs")
    assert json.loads(run["configuration"])["models"] == [SMALL]


def test_no_cap_without_prices(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write_models(priced=(SMALL,))
    assert bench.collect("--max-usd", "5") == 1
    assert f"UnpricedModelError: model '{LARGE}' has no prices" in capsys.readouterr().err
    assert bench.small.probes == bench.large.probes == 0
    assert bench.collect() == 0
    assert bench.load_rows("runs")[0]["spent_usd"] is None


def test_a_dry_run_asks_nobody(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.collect("--dry-run") == 0
    assert capsys.readouterr().out.startswith("3 problems, 0 of them complete. Expected: 42 calls")
    assert bench.small.http.bodies == bench.large.http.bodies == []


def test_a_dry_run_tells_the_price_of_what_is_left(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write_models(priced=(SMALL, LARGE))
    assert bench.collect("--dry-run") == 0
    assert "No price yet: record 5 problems first (--limit 5)" in capsys.readouterr().out
    monkeypatch.setattr("routerlib.price_estimate.LEAST_PROBLEMS", 2)
    assert bench.collect("--limit", "2") == 0
    capsys.readouterr()
    assert bench.collect("--dry-run") == 0
    found = re.search(r"1 problems left: (.*) USD, .*by 2 recorded ones", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) > 0


def test_the_price_is_that_of_the_plan(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples, another depth and each model alone are recorded of the same problems besides."""
    bench.write_models(priced=(SMALL, LARGE))
    monkeypatch.setattr("routerlib.price_estimate.LEAST_PROBLEMS", 2)
    assert bench.collect("--limit", "2") == 0
    capsys.readouterr()
    assert bench.collect("--dry-run") == 0
    before = [line for line in capsys.readouterr().out.splitlines() if "Price" in line]
    assert len(before) == 1
    for more in (("--plan", "rollout", "--temperature", "0.7"), ("--depth", "0"), ("--alone",)):
        assert bench.collect("--limit", "2", *more) == 0
    capsys.readouterr()
    assert bench.collect("--dry-run") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "Price" in line] == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--large", "gpt-y"), "--large is 'gpt-y': .*models.toml has tiny-small, tiny-large, and"),
        (("--large-url", "http://127.0.0.1:9/v1"), "--large-url is given, but"),
        (("--large", SMALL), "--small and --large are both"),
    ],
)
def test_what_is_refused(
    bench: Bench, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert bench.collect(*more) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_file_model_may_go_with_local_weights(bench: Bench) -> None:
    """A cheap model of one's own machine, a dear one of somebody else's."""
    name = "qwen2.5-coder-0.5b-instruct-q4_k_m"
    served = ("--small", name, "--small-url", bench.small.http.url)
    assert bench.collect(*served) == 0
    assert {row["model_id"] for row in bench.load_rows("steps")} == {
        "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M",
        LARGE,
    }


def test_an_address_that_may_hold_a_key_is_not_repeated(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "qwen2.5-coder-0.5b-instruct-q4_k_m"
    address = bench.small.http.url.replace("//", "//me:s3cret@")
    assert bench.collect("--small", name, "--small-url", address) == 1
    said = capsys.readouterr().err
    assert "--small-url: base_url has an @" in said
    assert "s3cret" not in said
    assert bench.small.http.bodies == []


def test_the_key_is_nowhere_but_in_the_environment(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not in the store, nor in what is printed or logged, though the server repeats it."""
    key = "sk-" + "s3cret" * 4
    monkeypatch.setenv("MY_KEY", key)
    bench.write_models(more='api_key_env = "MY_KEY"\n')
    bench.large.refuses = "Tom has"
    with caplog.at_level("DEBUG"):
        assert bench.collect() == 1
    assert bench.large.http.headers_seen[-1]["Authorization"] == f"Bearer {key}"
    failed = [row["error"] for row in bench.load_rows("steps") if row["error"]]
    assert "denied to Bearer [key]" in failed[0]
    said = capsys.readouterr()
    tables = [str(bench.load_rows(name)) for name in TABLES]
    files = [path.read_bytes() for path in bench.folder.rglob("*") if path.is_file()]
    assert not [text for text in [said.out, said.err, caplog.text, *tables] if key in text]
    assert not [content for content in files if key.encode() in content]
    assert len(files) > 8
