"""Tokens per second of the collector, beside a bare loop that sends the very same requests.

The bare loop posts JSON with the HTTP client below the ``openai`` package and keeps only what it
needs to go on: the texts that the next level starts from. It grades, checks and stores nothing.
Both ask one server with the same concurrency, level by level.

Which of the two comes first must not matter: there are two disjoint sets of problems of one size;
at every repetition the two swap both the order and the sets, so that each meets each set as often,
and as often with the server's prefix cache cold.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from bench.measurement import Measurement
from bench.scripted_engine import serve_scripted
from routerlib.benchmarks import load_problems
from routerlib.collect import Collector, make_run
from routerlib.collect_rows import make_request, make_shared_request
from routerlib.errors import BenchmarkError
from routerlib.models.chat_reply import read_completion
from routerlib.models.openai_compatible import OpenAICompatibleModel, Prefill, build_body
from routerlib.plans import (
    CollectConfig,
    get_plan_actions,
    make_expansion,
    make_root,
)
from routerlib.records import Completion, ModelCard, Problem, Request, State
from routerlib.serve import ENGINE_PREFILL, Engine, serve_local
from routerlib.steps import compute_step_text, is_finished
from routerlib.store import TraceWriter


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """How the two are compared.

    The server is the one at ``base_url``, else ``engine`` with the weights ``model``, else the
    scripted one, which answers after ``delay_s`` on average. ``concurrency`` bounds the calls in
    flight; ``problems`` is the size of a set, ``depth`` the step decisions of the lattice.
    """

    base_url: str | None = None
    engine: Engine | None = None
    model: str = "qwen2.5-coder-0.5b-instruct-q4_k_m"
    delay_s: float = 1.5
    concurrency: int = 32
    problems: int = 24
    depth: int = 3
    repetitions: int = 4


@dataclass(frozen=True, slots=True)
class Pass:
    """One set of problems, worked off."""

    calls: int
    tokens: int
    wall_s: float
    processor_s: float


Worker = Callable[[Sequence[Problem]], Awaitable[tuple[int, int]]]


def measure_collector(settings: CollectorSettings) -> list[Measurement]:
    """Return the collector's tokens per second over those of the bare loop."""
    config = CollectConfig(depth=settings.depth, concurrency=settings.concurrency)
    warm_up, first, second = make_problem_sets(settings.problems)
    with open_models(settings) as models:
        workers: dict[str, Worker] = {
            "collector": lambda problems: collect(models, problems, config),
            "bare": lambda problems: ask_bare(models, problems, config),
        }
        passes: dict[str, list[Pass]] = {name: [] for name in workers}
        for worker in workers.values():
            run_pass(worker, warm_up)
        for repetition in range(settings.repetitions):
            names = ("collector", "bare") if repetition % 2 == 0 else ("bare", "collector")
            for name, problems in zip(names, (first, second), strict=True):
                passes[name].append(run_pass(workers[name], problems))
    rates = {name: [p.tokens / p.wall_s for p in found] for name, found in passes.items()}
    medians = {name: statistics.median(found) for name, found in rates.items()}
    detail = {
        "concurrency": settings.concurrency,
        "server": settings.base_url or settings.engine or f"scripted, {settings.delay_s} s",
        "tokens_per_s": rates,
        "median_tokens_per_s": medians,
        "calls": {name: [p.calls for p in found] for name, found in passes.items()},
        "processor_ms_per_call": {
            name: statistics.median(1000 * p.processor_s / p.calls for p in found)
            for name, found in passes.items()
        },
    }
    ratio = medians["collector"] / medians["bare"]
    return [Measurement("collector: tokens/s over a bare loop's", ratio, 0.95, detail=detail)]


def run_pass(worker: Worker, problems: Sequence[Problem]) -> Pass:
    """Work off a set of problems in an event loop of its own."""
    started, processor = time.perf_counter(), time.process_time()
    calls, tokens = asyncio.run(_await(worker(problems)))
    return Pass(calls, tokens, time.perf_counter() - started, time.process_time() - processor)


async def _await(awaitable: Awaitable[tuple[int, int]]) -> tuple[int, int]:
    return await awaitable


def make_problem_sets(size: int) -> tuple[list[Problem], list[Problem], list[Problem]]:
    """Return a small set to warm up with and two disjoint sets of ``size`` problems."""
    try:
        problems = load_problems("gsm_symbolic", "train", limit=2 * size + 2)
    except BenchmarkError:  # without the package that generates them
        problems = [
            Problem(f"gsm_symbolic/{n}", "gsm_symbolic", "train", _write_problem(n), str(n))
            for n in range(2 * size + 2)
        ]
    return problems[:2], problems[2 : size + 2], problems[size + 2 :]


def _write_problem(number: int) -> str:
    return (
        f"Ann has {number} red apples and twice as many green ones. She gives {number % 7} of them "
        f"to Ben, who has {3 * number + 1} already. How many apples do both have together?"
    )


@contextlib.contextmanager
def open_models(settings: CollectorSettings) -> Iterator[list[OpenAICompatibleModel]]:
    """Hold the models that are asked: two of the scripted server, else the one that is served."""
    with contextlib.ExitStack() as opened:
        prefill: Prefill = "continue_final_message"
        names = [settings.model]
        if settings.base_url is not None:
            base_url = settings.base_url
        elif settings.engine is not None:
            prefill = ENGINE_PREFILL[settings.engine]
            server = serve_local(
                settings.engine,
                settings.model,
                served_name=settings.model,
                concurrency=settings.concurrency,
            )
            base_url = opened.enter_context(server).base_url
        else:
            base_url = opened.enter_context(serve_scripted(settings.delay_s))
            names = ["scripted-small", "scripted-large"]
        yield [
            OpenAICompatibleModel(
                name, base_url, name, prefill=prefill, max_in_flight=settings.concurrency
            )
            for name in names
        ]


async def collect(
    models: Sequence[OpenAICompatibleModel], problems: Sequence[Problem], config: CollectConfig
) -> tuple[int, int]:
    """Record the problems into a store that is thrown away; return calls and tokens."""
    cards = [ModelCard(m.id, "bench", "bench", 1, "none", None, "none", 2048) for m in models]
    with tempfile.TemporaryDirectory() as folder, TraceWriter(Path(folder)) as writer:
        run = make_run(config, models, "gsm_symbolic", "train")
        report = await Collector(models, cards, writer, config).collect(problems, run)
    for model in models:
        await model.aclose()
    if report.errors:
        raise RuntimeError(f"{report.errors} of {report.calls} calls failed: is the server well?")
    return report.calls, report.completion_tokens


async def ask_bare(
    models: Sequence[OpenAICompatibleModel], problems: Sequence[Problem], config: CollectConfig
) -> tuple[int, int]:
    """Send the same requests and keep only the texts; return calls and tokens."""
    rule, model_ids = config.step_rule, [model.id for model in models]
    frontier = {(problem.id, ""): (problem, make_root(problem)) for problem in problems}
    calls = tokens = 0
    measured: set[str] = set()
    limits = httpx2.Limits(max_connections=config.concurrency)
    async with httpx2.AsyncClient(limits=limits, timeout=600, trust_env=False) as client:
        for depth in range(config.depth + 1):
            following: dict[tuple[str, str], tuple[Problem, State]] = {}
            for action in get_plan_actions(config.plan, depth, config.depth, len(models)):
                level = [
                    make_expansion(problem, state, action, model_ids, config)
                    for problem, state in frontier.values()
                ]
                model = models[action[0]]
                if model.id not in measured:  # as the collector does, and waits for the answer
                    measured.add(model.id)
                    await _post_all(client, model, [make_shared_request(config, action[0])], 1)
                requests = [make_request(expansion, config) for expansion in level]
                answers = await _post_all(client, model, requests, config.concurrency)
                for expansion, answer in zip(level, answers, strict=True):
                    calls += 1
                    tokens += answer.completion_tokens
                    step_text = compute_step_text(answer, rule)
                    if not is_finished(step_text, answer.ended_by, expansion.kind, rule):
                        problem, text = expansion.problem, expansion.state.text + step_text
                        reached = State("", problem.id, depth + 1, text, False, None, None)
                        following[problem.id, text] = (problem, reached)
            frontier = following
    return calls, tokens


async def _post_all(
    client: httpx2.AsyncClient, model: OpenAICompatibleModel, requests: Sequence[Request], most: int
) -> list[Completion]:
    """Post requests, at most so many at a time; return the answers in order."""
    free = asyncio.Semaphore(most)

    async def post(request: Request) -> Completion:
        body = build_body(request, model.model_name, model.prefill)
        async with free:
            response = await client.post(f"{model.base_url}/chat/completions", json=body)
        last = request.messages[-1]
        return read_completion(
            response.raise_for_status().json(),
            request,
            echoed=last.content if model.prefill == "plain" and last.role == "assistant" else "",
            request_id=None,
            latency_s=0.0,
            retries=0,
        )

    return await asyncio.gather(*map(post, requests))
