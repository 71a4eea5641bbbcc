"""Memory and time of a store of many synthetic steps: compaction, opening, verifying, a query.

Each is measured in a process of its own: the seconds without its imports, and the most memory that
it ever held, imports included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.measurement import Measurement
from bench.synthetic_store import count_problems, get_problem_id, write_synthetic_store
from routerlib import paths
from routerlib.store import TraceWriter, compact, query, verify

MOST_MB = 1000.0
MOST_QUERY_S = 1.0
SUMMARY = "SELECT model_id, count(*), avg(completion_tokens) FROM steps GROUP BY ALL"
_OPENED_PROBLEMS = 100


def measure_store_scale(steps: int) -> list[Measurement]:
    """Return peak memory of what is done with a store of ``steps`` steps, and the time of a
    summary query. The store is a temporary one: up to about 1 kB of disk a step, in compaction."""
    found = []
    with tempfile.TemporaryDirectory(prefix="routerlib-") as folder:
        root = Path(folder) / "store"
        measured = {name: run_apart(name, root, steps) for name in OPERATIONS}
        size = sum(path.stat().st_size for path in root.glob("*/*.parquet"))
    detail = {"steps": steps, "store_mb": size / 1e6, "operations": measured}
    for name, numbers in measured.items():
        if name != "write":
            label = f"store of {steps:,} steps: peak MB to {name}"
            found.append(Measurement(label, numbers["peak_mb"], at_most=MOST_MB, detail=detail))
    seconds = measured["query"]["seconds"]
    label = f"store of {steps:,} steps: s of a summary query"
    found.append(Measurement(label, seconds, at_most=MOST_QUERY_S, detail=detail))
    return found


def run_apart(operation: str, root: Path, steps: int) -> dict[str, float]:
    """Return seconds and peak memory of an operation in a process of its own."""
    command = [sys.executable, "-m", "bench.store_scale", operation, str(root), str(steps)]
    done = subprocess.run(command, cwd=paths.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


def _open(root: Path, steps: int) -> None:
    problems = count_problems(steps)
    with TraceWriter(root) as writer:
        numbers = range(0, problems, max(1, problems // _OPENED_PROBLEMS))
        writer.open_problems([get_problem_id(number) for number in numbers])


def _verify(root: Path, _: int) -> None:
    if lines := verify(root):
        raise RuntimeError(f"the synthetic store has {len(lines)} problems: {lines[0]}")


def _query(root: Path, steps: int) -> None:
    counted = int(query(root, SUMMARY)["count_star()"].sum())
    if counted < steps:
        raise RuntimeError(f"the query counted {counted} steps of {steps}")


OPERATIONS: dict[str, Callable[[Path, int], Any]] = {
    "write": write_synthetic_store,
    "compact": lambda root, _: compact(root),
    "open": _open,
    "query": _query,
    "verify": _verify,
}


def read_peak_mb() -> float:
    """Return the most memory that this process ever held. Linux counts it in a file; what
    ``getrusage`` says there includes the process that started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes, on macOS


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one operation and print its seconds and peak memory as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.store_scale", description=__doc__)
    parser.add_argument("operation", choices=OPERATIONS)
    parser.add_argument("root", type=Path)
    parser.add_argument("steps", type=int)
    options = parser.parse_args(arguments)
    started, processor = time.perf_counter(), time.process_time()
    OPERATIONS[options.operation](options.root, options.steps)
    numbers = {
        "seconds": time.perf_counter() - started,
        "processor_s": time.process_time() - processor,
        "peak_mb": read_peak_mb(),
    }
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
