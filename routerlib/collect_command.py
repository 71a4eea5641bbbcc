"""``routerlib collect``: from command-line options to a recording with a progress bar."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from routerlib import paths
from routerlib.continuations import CONTINUATIONS
from routerlib.errors import MissingGeneratorError, ModelError
from routerlib.plans import PLANS
from routerlib.prompts import PROMPTS
from routerlib.serve import (
    CONCURRENCY,
    ENGINE_PREFILL,
    ENGINE_TAKES_SEED,
    ENGINES,
    serve_local,
)
from routerlib.weights import get_model_card, get_weights

if TYPE_CHECKING:
    from routerlib.collect import Collector, CollectReport
    from routerlib.models.openai_compatible import OpenAICompatibleModel
    from routerlib.plans import Estimate
    from routerlib.records import ModelCard, Problem

_Result = TypeVar("_Result")

SMALL = "qwen2.5-coder-0.5b-instruct-q4_k_m"
LARGE = "qwen2.5-coder-1.5b-instruct-q4_k_m"
ROLES = ("tiny", "small", "large")
"""What the options call the models, cheapest first; ``tiny`` is left out unless it is named."""


def add_collect_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options to the parser's commands."""
    command = commands.add_parser(
        "collect",
        help="record steps of two or three models into the store",
        description="Records what is missing. Stop it with Ctrl-C and start it again: it goes on.",
    )
    add_problem_options(command, split="train", limit=12)
    command.add_argument("--plan", choices=PLANS, default="lattice")
    command.add_argument(
        "--temperature", type=float, default=0.0, help="0 takes the most probable token"
    )
    command.add_argument(
        "--rollouts", type=at_least(1), default=4, help="solutions of a problem (plan rollout)"
    )
    command.add_argument(
        "--large-probability",
        type=float,
        default=0.5,
        help="how often a rollout draws the dear model",
    )
    command.add_argument(
        "--depth", type=at_least(0), default=5, help="step decisions before the rest"
    )
    command.add_argument("--prompt", choices=sorted(PROMPTS), default="short-lines-v1")
    command.add_argument("--engine", choices=ENGINES, default="llamacpp")
    for role, default, meaning in (
        ("small", SMALL, "weights of the cheap model"),
        ("large", LARGE, "weights of the dear model"),
        ("tiny", None, "weights of a third model, cheaper than both (default: none)"),
    ):
        add_model_options(command, role, default, meaning)
        command.add_argument(
            f"--{role}-continuation",
            choices=CONTINUATIONS,
            default="prefill",
            help="how it is made to go on from the steps so far (default: prefill)",
        )
    command.add_argument(
        "--concurrency", type=at_least(1), default=None, help="calls in flight of each model"
    )
    command.add_argument(
        "--chunk", type=at_least(1), default=150, help="problems recorded together"
    )
    command.add_argument(
        "--separate-machines",
        action="store_true",
        help="the models do not share a machine: call them at the same time",
    )
    command.add_argument("--traces", type=Path, default=paths.TRACES)
    command.add_argument("--dry-run", action="store_true", help="print the expected calls only")
    command.set_defaults(run=run_collect)


def add_problem_options(
    command: argparse.ArgumentParser, *, split: str, limit: int | None = None
) -> None:
    """Add the options that name problems, which ``read_problems`` reads; ``split`` and ``limit``
    are the defaults."""
    command.add_argument("--benchmark", default="gsm8k")
    command.add_argument("--split", default=split)
    command.add_argument(
        "--limit", type=at_least(1), default=limit, help="problems, in the split's order"
    )
    command.add_argument(
        "--balance-levels", action="store_true", help="take the levels of difficulty in turn"
    )
    command.add_argument("--max-level", type=float, help="leave out harder problems")
    command.add_argument("--data", type=Path, default=None, help="folder of benchmark files")


def add_model_options(
    command: argparse.ArgumentParser, role: str, default: str | None, meaning: str
) -> None:
    """Add the options that name a model and its server; ``open_model`` reads them."""
    command.add_argument(f"--{role}", default=default, help=meaning)
    command.add_argument(f"--{role}-url", help="its server that already runs, up to and with /v1")
    command.add_argument(
        f"--{role}-name", help="what that server calls it (default: as serve-local does)"
    )
    command.add_argument(
        f"--{role}-alias",
        action="append",
        default=[],
        metavar="NAME",
        help="another name that its answers may carry",
    )


def at_least(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers that refuses those below ``least``."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return integer  # argparse calls what it refuses by this name


def run_collect(options: argparse.Namespace) -> int:
    """Record what is missing and return the exit status: 1 when calls failed, 130 when stopped."""
    from routerlib.collect import Collector
    from routerlib.plans import CollectConfig, estimate
    from routerlib.store import TraceIndex, TraceWriter

    rule = PROMPTS[options.prompt].step_rule
    roles = [role for role in ROLES if getattr(options, role) is not None]
    config = CollectConfig(
        plan=options.plan,
        depth=options.depth,
        prompt_version=options.prompt,
        delimiter=rule.delimiter,
        max_step_tokens=rule.max_step_tokens,
        max_tail_tokens=rule.max_tail_tokens,
        temperature=options.temperature,
        continuations=tuple(getattr(options, f"{role}_continuation") for role in roles),
        rollouts=options.rollouts,
        large_probability=options.large_probability,
        concurrency=options.concurrency or CONCURRENCY[options.engine],
        shared_machine=not options.separate_machines,
        chunk_problems=options.chunk,
    )
    cards = [get_model_card(getattr(options, role), options.engine) for role in roles]
    _check_different(roles, cards)
    problems = read_problems(options)

    def print_estimate(recorded: TraceIndex | TraceWriter) -> Estimate:
        recorded.open_problems(problem.id for problem in problems)
        planned = estimate(
            problems,
            [card.id for card in cards],
            config,
            recorded.get_next_state,
            recorded.summarise_tokens(),
        )
        print(describe_estimate(planned), flush=True)
        return planned

    if options.dry_run:  # reads only, so a recording may be running
        print_estimate(TraceIndex(options.traces))
        return 0
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(TraceWriter(options.traces))
        planned = print_estimate(writer)
        if planned.problems == planned.problems_complete:
            return 0
        models = [
            open_model(options, role, card, config.concurrency, opened)
            for role, card in zip(roles, cards, strict=True)
        ]
        bar = opened.enter_context(contextlib.closing(_Bar(planned.calls_expected)))
        collector = Collector(models, cards, writer, config, on_change=bar.show)
        return _record(collector, problems, options)


def _check_different(roles: Sequence[str], cards: Sequence[ModelCard]) -> None:
    seen: dict[str, str] = {}
    for role, card in zip(roles, cards, strict=True):
        if card.id in seen:
            raise ModelError(
                f"--{seen[card.id]} and --{role} are both {card.id}: name different models"
            )
        seen[card.id] = role


def read_problems(options: argparse.Namespace) -> list[Problem]:
    """Load the problems that the options name; without the package that generates them, those
    whose texts are in the store, if there are as many as wanted."""
    from routerlib.benchmarks import load_problems
    from routerlib.store import load_problem_texts

    try:
        return load_problems(
            options.benchmark,
            options.split,
            data_dir=options.data,
            limit=options.limit,
            balance_levels=options.balance_levels,
            max_level=options.max_level,
        )
    except MissingGeneratorError as error:
        stored = []
        if options.traces.is_dir():
            stored = load_problem_texts(options.traces, options.benchmark, options.split)
        if not stored:
            raise
        if options.limit is None or len(stored) >= options.limit:
            return stored[: options.limit]
        raise MissingGeneratorError(
            f"{error}, or ask for those that {options.traces} has: --limit {len(stored)}"
        ) from error


def describe_estimate(planned: Estimate) -> str:
    """Return the line that ``--dry-run`` prints."""
    return (
        f"{planned.problems} problems, {planned.problems_complete} of them complete. Expected: "
        f"{planned.calls_expected} calls (at most {planned.calls_most}), "
        f"{planned.completion_tokens_expected} completion tokens and "
        f"{planned.prompt_tokens_expected} prompt tokens, by {planned.basis}."
    )


def open_model(
    options: argparse.Namespace,
    role: str,
    card: ModelCard,
    concurrency: int,
    opened: contextlib.ExitStack,
) -> OpenAICompatibleModel:
    """Make a client of the model with this role (``add_model_options``), of the server that was
    named or of one that is started here and lives as long as ``opened``."""
    from routerlib.models.openai_compatible import OpenAICompatibleModel

    weights, base_url, given_name, aliases = (
        getattr(options, role + suffix) for suffix in ("", "_url", "_name", "_alias")
    )
    model_name = given_name or get_weights(weights).model_id
    if base_url is None:
        server = serve_local(
            options.engine,
            weights,
            served_name=model_name,
            concurrency=concurrency,
            report=print_report,
        )
        base_url = opened.enter_context(server).base_url
    return OpenAICompatibleModel(
        id=card.id,
        base_url=base_url,
        model_name=model_name,
        prefill=ENGINE_PREFILL[options.engine],
        takes_seed=ENGINE_TAKES_SEED[options.engine],
        max_in_flight=concurrency,
        also_named=tuple(aliases),
    )


def _record(collector: Collector, problems: Sequence[Problem], options: argparse.Namespace) -> int:
    from routerlib.collect import make_run

    run = make_run(collector.config, collector.models, options.benchmark, options.split)

    async def record() -> CollectReport:
        try:
            return await collector.collect(problems, run)
        finally:
            for model in collector.models:
                await model.aclose()

    try:
        report = run_cancellable(record())
    except asyncio.CancelledError:
        print("\nstopped; what was answered is recorded: run the same command to go on")
        return 130
    print(
        f"\n{report.problems_done} of {report.problems_total} problems complete, "
        f"{report.calls} calls ({report.errors} failed, {report.retries} retried"
        + (f", {report.refused} refused and asked for again" if report.refused else "")
        + "), "
        f"{report.completion_tokens} tokens"
    )
    if report.errors:
        print("run the same command again: it asks only for the calls that failed")
    return 1 if report.errors else 0


def run_cancellable(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a coroutine in a thread of its own; an interrupt cancels it and waits for its end.

    A notebook runs an event loop in its own thread already, and this way every signal keeps the
    handler that it has: whatever that raises here (``KeyboardInterrupt``, ``SystemExit``) is an
    interrupt, a second one included.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)
    with contextlib.closing(loop), ThreadPoolExecutor(max_workers=1) as thread:
        ended = thread.submit(loop.run_until_complete, task)
        while True:
            try:
                return ended.result()
            except (KeyboardInterrupt, SystemExit):
                loop.call_soon_threadsafe(task.cancel)


class _Bar:
    """A progress bar of calls with problems, tokens/s, errors and the time left."""

    def __init__(self, expected_calls: int) -> None:
        from tqdm import tqdm

        self._expected_calls = expected_calls
        self._bar = tqdm(total=expected_calls, unit="step", dynamic_ncols=True, mininterval=1.0)

    def show(self, report: CollectReport) -> None:
        self._bar.total = max(self._expected_calls, report.calls)
        self._bar.set_postfix_str(
            f"problems {report.problems_done}/{report.problems_total}, "
            f"{report.tokens_per_s:.0f} tokens/s, errors {report.errors}",
            refresh=False,
        )
        self._bar.update(report.calls - self._bar.n)

    def close(self) -> None:
        self._bar.close()


def print_report(line: str) -> None:
    """Print a line of progress where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)
