"""``routerlib collect``: from command-line options to a recording with a progress bar."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from routerlib import paths
from routerlib.errors import ModelError
from routerlib.model_options import (
    LARGE,
    SMALL,
    NamedModel,
    add_continuation_option,
    add_model_options,
    add_models_file_option,
    add_spending_option,
    at_least,
    check_recorded,
    choose_continuation,
    find_capabilities,
    find_model,
    load_capabilities,
    make_cap,
    open_model,
)
from routerlib.plans import PLANS
from routerlib.prompts import PROMPTS
from routerlib.recording_command import (
    account_for,
    add_problem_options,
    read_problems,
    run_recording,
)
from routerlib.serve import CONCURRENCY, ENGINES

if TYPE_CHECKING:
    from routerlib.collect import CollectReport
    from routerlib.models.capabilities import Capabilities
    from routerlib.models.protocol import Model
    from routerlib.plans import CollectConfig, Estimate
    from routerlib.records import Problem
    from routerlib.runs import RunSpending
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
        add_continuation_option(command, role, "how it is made to go on from the steps so far")
    add_models_file_option(command)
    command.add_argument(
        "--alone",
        action="store_true",
        help="record each model's own solutions, not the mixtures of both",
    )
    add_spending_option(command)
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


def run_collect(options: argparse.Namespace) -> int:
    """Record what is missing and return the exit status: 1 when calls failed, 130 when stopped, 3
    when the next call might have passed ``--max-usd``."""
    from routerlib.store import TraceIndex, TraceWriter

    named = [find_model(options, role) for role in ROLES if getattr(options, role) is not None]
    _check_different(named)
    cap = make_cap(options.max_usd, named)
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
        check_recorded(options, named)
        found: dict[str, Capabilities] = {}
        spending = opened.enter_context(
            account_for(cap, writer, options.plan, options, named=named, found=found)
        )
        for model in named:
            if model.entry is not None:
                found[model.card.id] = find_capabilities(model, known, cap)
        recording = _Recording(options, problems, writer, found, spending, opened)
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
    spending: RunSpending
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
        cap, told_usd = self.spending.cap, self.spending.told_usd
        with contextlib.closing(_Bar(planned.calls_expected)) as bar:
            collector = Collector(
                models,
                [model.card for model in named],
                self.writer,
                config,
                bar.show,
                get_spent_usd=self.spending.tell,
            )
            return run_recording(
                collector.collect(self.problems, run),
                models,
                lambda: _describe(collector.report),
                lambda: None if cap is None else cap.spent_usd - told_usd,
            )

    def _open(self, named: NamedModel, concurrency: int) -> Model:
        model_id = named.card.id
        if model_id not in self.clients:
            self.clients[model_id] = open_model(
                self.options,
                named,
                concurrency,
                self.opened,
                capabilities=self.capabilities.get(model_id),
                cap=self.spending.cap,
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
            choose_continuation(options, model, capabilities.get(model.card.id)) for model in named
        ),
        rollouts=options.rollouts,
        large_probability=options.large_probability,
        concurrency=options.concurrency or CONCURRENCY[options.engine],
        shared_machine=not options.separate_machines and len(served_here) > 1,
        chunk_problems=options.chunk,
    )


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
    from routerlib.plans import walk_expansions
    from routerlib.price_estimate import LEAST_PROBLEMS, load_problem_costs, predict_total

    cards = [model.card for model in named if model.entry is not None]
    if not cards or any(card.price_date is None for card in cards):
        return
    ids = [model.card.id for model in named]
    step_ids: dict[str, list[str]] = {problem.id: [] for problem in problems}
    unfinished = set()
    for expansion, reached in walk_expansions(problems, ids, config, index.get_next_state):
        step_ids[expansion.problem.id].append(expansion.id)
        if reached is None:
            unfinished.add(expansion.problem.id)
    complete = {name: found for name, found in step_ids.items() if name not in unfinished}
    price = None
    if complete:  # else there may be no store yet
        costs = load_problem_costs(options.traces, complete, cards)
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
