"""``python -m bench``: run the benchmarks, print a table, write all numbers as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.collector_overhead import CollectorSettings, measure_collector
from bench.measurement import Measurement, render_table
from bench.prefix_cache import measure_prefix_cache
from bench.single_stream import measure_single_stream
from bench.store_scale import measure_store_scale
from bench.store_write import measure_store_write
from routerlib import paths
from routerlib.serve import ENGINES

COLLECTOR = CollectorSettings()
Benchmark = Callable[[argparse.Namespace], list[Measurement]]

BENCHMARKS: dict[str, Benchmark] = {
    "prefix-cache": lambda options: measure_prefix_cache(options.traces),
    "collector": lambda options: measure_collector(
        CollectorSettings(
            base_url=options.base_url,
            engine=options.engine,
            model=options.model,
            delay_s=options.delay,
            concurrency=options.concurrency,
            problems=options.problems,
        )
    ),
    "single-stream": lambda options: measure_single_stream(options.engine, options.model),
    "store-write": lambda options: measure_store_write(options.traces),
    "store-scale": lambda options: measure_store_scale(options.steps),
}


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"all by default: {', '.join(BENCHMARKS)}")
    parser.add_argument("--traces", type=Path, default=paths.TRACES, help="the recorded store")
    server = parser.add_argument_group(
        "collector, single-stream",
        "a scripted server answers the collector unless one is named; single-stream needs --engine",
    )
    server.add_argument("--base-url", help="a server that runs, up to and with /v1")
    server.add_argument("--engine", choices=ENGINES, help="start this engine")
    server.add_argument("--model", default=COLLECTOR.model, help="name of the weights")
    server.add_argument(
        "--delay", type=float, default=COLLECTOR.delay_s, help="seconds of a scripted answer"
    )
    server.add_argument(
        "--concurrency", type=int, default=COLLECTOR.concurrency, help="calls in flight"
    )
    server.add_argument(
        "--problems", type=int, default=COLLECTOR.problems, help="problems of one set"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=10_000_000,
        help="size of the synthetic store (store-scale); a million take about a minute",
    )
    parser.add_argument("--output", type=Path, default=paths.BUILD / "bench.json")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and return the exit status: 1 when a goal is missed."""
    options = parse_options(arguments)
    measurements: list[Measurement] = []
    for name in options.names or BENCHMARKS:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        measurements += BENCHMARKS[name](options)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    results = [asdict(m) | {"is_met": m.is_met} for m in measurements]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine, "measurements": results}, indent=2)
    options.output.write_text(text + "\n", encoding="utf-8")
    print(render_table(measurements))
    return 1 if any(m.is_met is False for m in measurements) else 0


if __name__ == "__main__":
    sys.exit(main())
