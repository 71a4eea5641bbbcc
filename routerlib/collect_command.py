"""``routerlib collect``: from command-line options to a recording with a progress bar."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from routerlib import paths
from routerlib.calls import run_cancellable
from routerlib.continuations import CONTINUATIONS
from routerlib.errors import MissingGeneratorError, ModelError, SpendingCapError
from routerlib.model_options import (
    LARGE,
    SMALL,
    NamedModel,
    add_model_options,
    add_models_file_option,
    at_least,
    find_capabilities,
    find_model,
    load_capabilities,
    open_model,
)
from routerlib.plans import PLANS
from routerlib.prompts import PROMPTS
from routerlib.serve import CONCURRENCY, ENGINES

if TYPE_CHECKING:
    from routerlib.collect import CollectReport
    from routerlib.continuations import Continuation
    from routerlib.models.capabilities import Capabilities
    from routerlib.models.protocol import Model
    from routerlib.models.spending import SpendingCap
    from routerlib.plans import CollectConfig, Estimate
    from routerlib.records import Problem
    from routerlib.store import TraceIndex, TraceWriter

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
            help="how it is made to go on from the steps so far (default: prefill where the model "
            "can, else continue_turn)",
        )
    add_models_file_option(command)
    command.add_argument(
        "--alone",
        action="store_true",
        help="record each model's own solutions, not the mixtures of both",
    )
    command.add_argument(
        "--max-usd",
        type=above_zero,
        default=math.inf,
        help="most that this run may cost; needs the prices of all models (--models)",
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


def above_zero(text: str) -> float:
    """Read an amount above 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def run_collect(options: argparse.Namespace) -> int:
    """Record what is missing and return the exit status: 1 when calls failed, 130 when stopped, 3
    when the next call might have passed ``--max-usd``."""
    from routerlib.store import TraceIndex, TraceWriter

    named = [find_model(options, role) for role in ROLES if getattr(options, role) is not None]
    _check_different(named)
    cap = _make_cap(options, named)
    problems = read_problems(options)
    groups = [[model] for model in named] if options.alone else [named]
    if options.dry_run:  # reads only, so a recording may be running
        index, known = TraceIndex(options.traces), load_capabilities(options.traces)
        for group in groups:
            config = _make_config(options, group, known)
            _print_estimate(index, problems, group, config)
            _print_price(options, index, problems, group, config)
        return 0
    with contextlib.ExitStack() as opened:
        writer = opened.enter_context(TraceWriter(options.traces))
        known = load_capabilities(options.traces)
        found = {
            model.card.id: find_capabilities(model, known)
            for model in named
            if model.entry is not None
        }
        recording = _Recording(options, problems, writer, found, cap, opened)
        status = 0
        for group in groups:
            status = max(status, recording.record(group))
            if status > 1:  # stopped, or no money left: the other models are not begun
                break
        return status


@dataclass(slots=True)
class _Recording:
    """What a command records into: the groups of models share clients, store and cap."""

    options: argparse.Namespace
    problems: Sequence[Problem]
    writer: TraceWriter
    capabilities: Mapping[str, Capabilities]
    cap: SpendingCap | None
    opened: contextlib.ExitStack
    clients: dict[str, Model] = field(default_factory=dict)

    def record(self, named: Sequence[NamedModel]) -> int:
        """Record what some models miss, tell how it ended, and return the exit status."""
        from routerlib.collect import Collector, make_run

        options = self.options
        config = _make_config(options, named, self.capabilities)
        planned = _print_estimate(self.writer, self.problems, named, config)
        if planned.problems == planned.problems_complete:
            return 0
        models = [self._open(model, config.concurrency) for model in named]
        known = {m.card.id: self.capabilities[m.card.id] for m in named if m.entry is not None}
        run = make_run(config, models, options.benchmark, options.split, known)
        spent_before = self.cap.spent_usd if self.cap else 0.0
        with contextlib.closing(_Bar(planned.calls_expected)) as bar:
            collector = Collector(
                models,
                [model.card for model in named],
                self.writer,
                config,
                bar.show,
                get_spent_usd=lambda: self.cap.spent_usd - spent_before if self.cap else None,
            )

            async def collect() -> CollectReport:
                try:
                    return await collector.collect(self.problems, run)
                finally:
                    for model in models:
                        await model.aclose()

            try:
                report = run_cancellable(collect())
            except asyncio.CancelledError:
                print("\nstopped; what was answered is recorded: run the same command to go on")
                return 130
            except SpendingCapError as full:
                print(
                    f"\n{_describe(collector.report)}\n{full}. What was answered is recorded: run "
                    "the same command with a higher --max-usd to go on"
                )
                return 3
        print(f"\n{_describe(report)}")
        if self.cap is not None:
            print(f"{self.cap.spent_usd - spent_before:.4f} USD spent")
        if report.errors:
            print("run the same command again: it asks only for the calls that failed")
        return 1 if report.errors else 0

    def _open(self, named: NamedModel, concurrency: int) -> Model:
        from routerlib.models.spending import CappedModel

        model_id = named.card.id
        if model_id not in self.clients:
            known = self.capabilities.get(model_id)
            model = open_model(self.options, named, concurrency, self.opened, known)
            self.clients[model_id] = model
            if self.cap is not None and named.entry is not None:
                self.clients[model_id] = CappedModel(
                    model, named.card, self.cap, model.max_retries + 1, named.entry.thinking_tokens
                )
        return self.clients[model_id]


def _describe(report: CollectReport) -> str:
    refused = f", {report.refused} refused and asked for again" if report.refused else ""
    return (
        f"{report.problems_done} of {report.problems_total} problems complete, "
        f"{report.calls} calls ({report.errors} failed, {report.retries} retried{refused}), "
        f"{report.completion_tokens} tokens"
    )


def _make_config(
    options: argparse.Namespace,
    named: Sequence[NamedModel],
    capabilities: Mapping[str, Capabilities],
) -> CollectConfig:
    from routerlib.plans import CollectConfig

    rule = PROMPTS[options.prompt].step_rule
    served_here = [model for model in named if model.entry is None or model.entry.is_local]
    return CollectConfig(
        plan=options.plan,
        depth=options.depth,
        prompt_version=options.prompt,
        delimiter=rule.delimiter,
        max_step_tokens=rule.max_step_tokens,
        max_tail_tokens=rule.max_tail_tokens,
        temperature=options.temperature,
        continuations=tuple(
            _choose_continuation(options, model, capabilities.get(model.card.id)) for model in named
        ),
        rollouts=options.rollouts,
        large_probability=options.large_probability,
        concurrency=options.concurrency or CONCURRENCY[options.engine],
        shared_machine=not options.separate_machines and len(served_here) > 1,
        chunk_problems=options.chunk,
    )


def _choose_continuation(
    options: argparse.Namespace, named: NamedModel, capabilities: Capabilities | None
) -> Continuation:
    """What the option says, or else what the model can do. Raises ModelError for prefill where the
    model was found not to continue a begun answer."""
    wanted: Continuation | None = getattr(options, f"{named.role}_continuation")
    if capabilities is None or capabilities.prefill != "none":
        return wanted or "prefill"
    if wanted == "prefill":
        raise ModelError(
            f"{named.card.id} does not continue a begun answer (`routerlib models check` says what "
            f"it refused): use --{named.role}-continuation continue_turn or one_shot"
        )
    return wanted or "continue_turn"


def _make_cap(options: argparse.Namespace, named: Sequence[NamedModel]) -> SpendingCap | None:
    """The cap of the models of the file; without --max-usd one that counts, if all have prices.
    Local weights cost no money."""
    from routerlib.models.spending import SpendingCap, get_prices

    hosted = [model for model in named if model.entry is not None]
    if math.isfinite(options.max_usd):
        for model in hosted:
            get_prices(model.card)
    elif not hosted or any(model.card.price_date is None for model in hosted):
        return None
    return SpendingCap(options.max_usd)


def _print_estimate(
    recorded: TraceIndex | TraceWriter,
    problems: Sequence[Problem],
    named: Sequence[NamedModel],
    config: CollectConfig,
) -> Estimate:
    from routerlib.plans import estimate

    recorded.open_problems(problem.id for problem in problems)
    planned = estimate(
        problems,
        [model.card.id for model in named],
        config,
        recorded.get_next_state,
        recorded.summarise_tokens(),
    )
    print(describe_estimate(planned), flush=True)
    return planned


def _print_price(
    options: argparse.Namespace,
    index: TraceIndex,
    problems: Sequence[Problem],
    named: Sequence[NamedModel],
    config: CollectConfig,
) -> None:
    """Print what is left will cost, where models of the file have prices."""
    import numpy as np

    from routerlib.plans import list_expansions
    from routerlib.price_estimate import LEAST_PROBLEMS, load_problem_costs, predict_total

    cards = [model.card for model in named if model.entry is not None]
    if not cards or any(card.price_date is None for card in cards):
        return
    ids = [model.card.id for model in named]
    missing, _ = list_expansions(problems, ids, config, index.get_next_state)
    unfinished = {expansion.problem.id for expansion in missing}
    complete = [problem.id for problem in problems if problem.id not in unfinished]
    costs = load_problem_costs(options.traces, complete, cards) if complete else np.zeros(0)
    price = predict_total(costs, len(unfinished))
    if price is None:
        print(f"No price yet: record {LEAST_PROBLEMS} problems first (--limit {LEAST_PROBLEMS})")
    else:
        print(
            f"Price of the {len(unfinished)} problems left: {price.expected:.3g} USD, 95% interval "
            f"[{price.low:.3g}, {price.high:.3g}], by {price.n} recorded ones."
        )


def _check_different(named: Sequence[NamedModel]) -> None:
    seen: dict[str, str] = {}
    for model in named:
        if model.card.id in seen:
            raise ModelError(
                f"--{seen[model.card.id]} and --{model.role} are both {model.card.id}: name "
                "different models"
            )
        seen[model.card.id] = model.role


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
