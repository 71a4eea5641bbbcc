"""A server that fails in every way it can: each fault ends as a retried call or as a row with
``error``, and no answer is made of one."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import (
    Act,
    Handler,
    ScriptedServer,
    answer_with,
    build_reply,
    close_mid_body,
    entry,
    fail_with,
    reply_with,
)
from tiny import TEXTS
from tiny_models import (
    LATTICE_CALLS,
    MODEL_IDS,
    make_cards,
    make_gsm8k_problems,
    read_asked,
    write_solution,
)

from routerlib.collect import Collector, CollectReport, make_run
from routerlib.models.openai_compatible import OpenAICompatibleModel
from routerlib.models.transport import Backoff
from routerlib.plans import CollectConfig
from routerlib.store import TraceWriter, compact, load_table, verify

CONFIG = CollectConfig(depth=2, concurrency=2)
RETRIES = 2
TIMEOUT_S = 1.0
POISON = "Answer: 666"


def answer_as(model_index: int) -> Act:
    return answer_with(lambda request: write_solution(model_index, *read_asked(request)))


def stay_silent(handler: Handler) -> None:
    time.sleep(1.5 * TIMEOUT_S)
    handler.close_connection = True


def send(content: bytes) -> Act:
    return lambda handler: handler.answer(200, content)


def poison(**changes: Any) -> Act:
    """A reply that would be an answer, but for what is changed."""
    return lambda handler: reply_with(
        build_reply(POISON, **({"model": handler.body["model"]} | changes))
    )(handler)


POISONED = json.dumps(build_reply(POISON)).encode()
PASSING = {
    "timeout": (stay_silent, "Timeout"),
    "closed mid-body": (close_mid_body, "ReadError|RemoteProtocolError|incomplete"),
    "429 with Retry-After": (fail_with(429, Retry_After="0.01"), "status 429"),
    "500": (fail_with(500), "status 500"),
    "an error that may pass as a reply": (
        reply_with({"error": {"code": 502, "message": POISON}}),
        "answered with the error",
    ),
    "a choice that ends by an error": (
        poison(choice_finish_reason="error"),
        "answered with the error",
    ),
    "malformed JSON": (send(b"<html>" + POISONED), "not JSON"),
    "truncated JSON": (send(POISONED[:-1]), "not JSON"),
    "no content": (send(b""), "not JSON"),
    "brackets without end": (send(b"[" * 100_000), "not JSON"),
}
LASTING = {
    "400": (fail_with(400), "status 400"),
    "empty choices": (poison(choices=[]), "a reply without a choice"),
    "an error as a reply": (reply_with({"error": {"message": POISON}}), "without a choice"),
    "missing usage": (poison(usage=...), "without token counts"),
    "usage of NaN": (
        poison(usage={"prompt_tokens": float("nan"), "completion_tokens": 1}),
        "a token count is nan",
    ),
    "usage without end": (
        poison(usage={"prompt_tokens": float("inf"), "completion_tokens": 1}),
        "a token count is inf",
    ),
    "usage beyond the store": (
        poison(usage={"prompt_tokens": 3_000_000_000, "completion_tokens": 1}),
        "a token count is 3000000000",
    ),
    "a total without end": (
        poison(usage={"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": float("inf")}),
        "a token count is inf",
    ),
    "a log-probability beyond floats": (
        poison(choice_logprobs={"content": [{"token": "Answer", "logprob": -(10**400)}]}),
        "a value that cannot be read",
    ),
    "half a character": (send(b'"\\ud83d"'), "without a choice"),
    "another model": (poison(model="gpt-other"), "'tiny-small' and answered as 'gpt-other'"),
    "no model": (poison(model=...), "'tiny-small' and answered as ''"),
    "filtered": (poison(choice_finish_reason="content_filter"), "ended by 'content_filter'"),
}


class FaultyServer:
    """Serves both models; ``fault`` plays for the small model's first ``times`` tries of the first
    step of problem 1."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.fault: Act = answer_as(0)
        self.times = 0
        self._lock = threading.Lock()
        server.acts = [self.act]

    def act(self, handler: Handler) -> None:
        model_index = MODEL_IDS.index(handler.body["model"])
        is_victim = (model_index, *read_asked(handler.read_request())) == (0, TEXTS[1][0], "")
        with self._lock:
            is_faulty = is_victim and self.times > 0
            self.times -= is_faulty
        (self.fault if is_faulty else answer_as(model_index))(handler)


@pytest.fixture
def faulty() -> Iterator[FaultyServer]:
    with ScriptedServer().serving() as server:
        yield FaultyServer(server)


def collect(root: Path, faulty: FaultyServer) -> CollectReport:
    models = [
        OpenAICompatibleModel(
            name,
            faulty.server.url,
            name,
            timeout_s=TIMEOUT_S if faulty.fault is stay_silent else 30.0,
            max_retries=RETRIES,
            backoff=Backoff(first_delay_s=0.001, longest_delay_s=0.05),
        )
        for name in MODEL_IDS
    ]

    async def record() -> CollectReport:
        with TraceWriter(root) as writer:
            collector = Collector(models, make_cards(), writer, CONFIG)
            run = make_run(CONFIG, models, "gsm8k", "test")
            try:
                return await collector.collect(make_gsm8k_problems(), run)
            finally:
                for model in models:
                    await model.aclose()

    return asyncio.run(record())


def load_answers(root: Path) -> list[list[dict[str, Any]]]:
    """States and successful steps, without what differs from run to run."""
    compact(root)
    assert verify(root) == []
    steps = [row for row in load_table(root, "steps").to_pylist() if row["error"] is None]
    for row in steps:
        for name in ("run_id", "latency_s", "attempt", "retries", "doubtful_tries"):
            del row[name]
    return [load_table(root, "states").to_pylist(), steps]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("undisturbed")
    with ScriptedServer().serving() as server:
        assert collect(root, FaultyServer(server)).errors == 0
    return load_answers(root)


@pytest.mark.parametrize(("fault", "reason"), PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_a_retried_call(
    faulty: FaultyServer,
    tmp_path: Path,
    undisturbed: list[list[dict[str, Any]]],
    fault: Act,
    reason: str,
) -> None:
    faulty.fault, faulty.times = fault, RETRIES
    report = collect(tmp_path, faulty)
    assert (report.errors, report.retries, report.calls) == (0, RETRIES, LATTICE_CALLS)
    retries = [row["retries"] for row in load_table(tmp_path, "steps").to_pylist()]
    assert sorted(retries) == [0] * (LATTICE_CALLS - 1) + [RETRIES]
    doubtful = [row["doubtful_tries"] for row in load_table(tmp_path, "steps").to_pylist()]
    assert [tries for tries in doubtful if tries] == ([] if "429" in reason else [RETRIES])
    assert load_answers(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("fault", "reason", "tries"),
    [(*case, RETRIES + 1) for case in PASSING.values()] + [(*case, 1) for case in LASTING.values()],
    ids=[*PASSING, *LASTING],
)
def test_a_fault_that_stays_is_a_row_with_an_error(
    faulty: FaultyServer,
    tmp_path: Path,
    undisturbed: list[list[dict[str, Any]]],
    fault: Act,
    reason: str,
    tries: int,
) -> None:
    faulty.fault, faulty.times = fault, tries
    report = collect(tmp_path, faulty)
    assert faulty.times == 0
    assert (report.errors, report.problems_done) == (1, 2)
    failed = load_table(tmp_path, "steps").to_pylist()
    (row,) = [row for row in failed if row["error"] is not None]
    assert row["error"].startswith("TransientModelError" if tries > 1 else "ModelError")
    assert any(part in row["error"] for part in reason.split("|")), row["error"]
    is_free = "400" in reason or "429" in reason or "content_filter" in reason  # or it was counted
    assert row["doubtful_tries"] == (None if is_free else tries)
    written = 4 if "content_filter" in row["error"] else 0  # where the server counted what it wrote
    assert (row["text"], row["next_state_id"], row["completion_tokens"]) == (None, None, written)
    texts = load_table(tmp_path, "states")["text"].to_pylist()
    assert not any("666" in text for text in texts)
    assert verify(tmp_path) == []

    assert collect(tmp_path, faulty).errors == 0  # the server is well again
    assert load_answers(tmp_path) == undisturbed


def test_an_answer_all_in_thought_is_a_billed_failure(
    faulty: FaultyServer, tmp_path: Path, undisturbed: list[list[dict[str, Any]]]
) -> None:
    """It would lead from a state to itself; a begun answer has no turn in which to complain."""
    faulty.fault = poison(choice_message={"content": None}, choice_finish_reason="length")
    faulty.times = 1
    report = collect(tmp_path, faulty)
    assert (report.errors, report.refused) == (1, 0)
    (row,) = [r for r in load_table(tmp_path, "steps").to_pylist() if r["error"] is not None]
    assert row["error"].startswith("StepRefusedError: it holds no text")
    assert row["completion_tokens"] == 4
    assert verify(tmp_path) == []
    assert collect(tmp_path, faulty).errors == 0
    assert load_answers(tmp_path) == undisturbed


def test_half_a_character_beside_an_answer_loses_no_answer(
    faulty: FaultyServer, tmp_path: Path
) -> None:
    tokens = [entry("Answer", -0.1, ("Answer", -0.1), ("\ud83d", -2.5)), entry("\n", -0.1)]
    faulty.fault = poison(choice_logprobs={"content": tokens}, id="\ud83d")
    faulty.times = 1
    assert collect(tmp_path, faulty).errors == 0
    (row,) = [r for r in load_table(tmp_path, "steps").to_pylist() if r["text"] == POISON + "\n"]
    assert (row["first_token_texts"], row["request_id"]) == (["Answer", "?"], "?")
    assert verify(tmp_path) == []


def test_an_answer_with_nan_logprobs_is_kept_without(faulty: FaultyServer, tmp_path: Path) -> None:
    nan = [entry("Answer", float("nan"), ("Answer", float("nan"))), entry("\n", -0.1)]
    faulty.fault = poison(choice_logprobs={"content": nan})
    faulty.times = 1
    assert collect(tmp_path, faulty).errors == 0
    (row,) = [r for r in load_table(tmp_path, "steps").to_pylist() if r["text"] == POISON + "\n"]
    assert (row["token_logprobs"], row["first_token_logprobs"]) == ([], [])
    assert row["completion_tokens"] == 4
    assert verify(tmp_path) == []
