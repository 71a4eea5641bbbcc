"""A collector that is killed at any moment and started again loses nothing and doubles nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import recording_process
from recording_process import CONCURRENCY

from routerlib.store import compact, load_table, verify

KILLS = 50
PROBLEMS = 32


def start_process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, recording_process.__file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process ended; its errors are above"
    return line.strip()


@dataclass
class Bench:
    """The two processes, the server's address and what it was asked."""

    recorder: subprocess.Popen[str]
    address: str
    log: Path

    def start(self, root: Path, run: str) -> int:
        """Start a recording and return the id of its process."""
        self._tell(json.dumps([str(root), self.address, run, PROBLEMS]))
        return int(read_line(self.recorder))

    def wait(self) -> int:
        """Wait for the recording's end and return its exit status."""
        self._tell("")
        return int(read_line(self.recorder))

    def _tell(self, line: str) -> None:
        assert self.recorder.stdin is not None
        self.recorder.stdin.write(line + "\n")
        self.recorder.stdin.flush()

    def list_asked(self) -> list[tuple[str, tuple[str, ...]]]:
        """(run, expansion) of every request, without those that measure a prompt."""
        asked = [json.loads(line) for line in self.log.read_text("utf-8").splitlines()]
        return [(run, tuple(expansion)) for run, *expansion in asked if expansion[1]]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    log = tmp_path / "asked.jsonl"
    with start_process("serve", str(log)) as server, start_process("record") as recorder:
        try:
            yield Bench(recorder, read_line(server), log)
        finally:
            server.kill()
            recorder.kill()


def load_content(root: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows but the runs, without what differs from run to run."""
    names = ("problems", "models", "states", "steps", "judgements")
    content = {name: load_table(root, name).to_pylist() for name in names}
    for row in content["steps"]:
        del row["run_id"], row["latency_s"]
    return content


def wait_for_requests(bench: Bench, count: int) -> None:
    """Wait until the server was asked so often in all, a few seconds at most: the recording may
    have nothing left to ask."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if bench.log.exists() and bench.log.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.001)


@pytest.mark.slow
def test_fifty_kills_lose_nothing_and_double_nothing(bench: Bench, tmp_path: Path) -> None:
    """A third of the kills come at a random moment of the start, when a store is opened and what
    the kill before left is taken in; the others after a random number of requests."""
    generator = random.Random(20251124)
    root = tmp_path / "traces"
    asked = 0
    for number in range(KILLS):
        child = bench.start(root, f"killed-{number}")
        if number % 3 == 0:
            time.sleep(generator.uniform(0.0, 0.15))
        else:
            wait_for_requests(bench, asked + generator.randint(1, 8))
            time.sleep(generator.uniform(0.0, 0.004))
        os.kill(child, signal.SIGKILL)
        assert bench.wait() == -signal.SIGKILL, f"run {number} ended by itself: add problems"
        asked = bench.log.read_bytes().count(b"\n") if bench.log.exists() else 0
        if (root / "writer.lock").exists():
            assert all("`routerlib compact`" in line for line in verify(root))
    bench.start(root, "last")
    assert bench.wait() == 0
    assert verify(root) == []
    assert not list(root.glob("**/.*"))

    bench.start(tmp_path / "undisturbed", "undisturbed")
    assert bench.wait() == 0
    for store in (root, tmp_path / "undisturbed"):
        compact(store)
        assert verify(store) == []
    assert load_content(root) == load_content(tmp_path / "undisturbed")
    check_requests(bench.list_asked())


def check_requests(asked: list[tuple[str, tuple[str, ...]]]) -> None:
    """Of what a killed run asked, only the calls that were in flight are asked again."""
    disturbed = [(run, expansion) for run, expansion in asked if run != "undisturbed"]
    undisturbed = Counter(expansion for run, expansion in asked if run == "undisturbed")
    assert {expansion for _, expansion in disturbed} == set(undisturbed)
    assert set(undisturbed.values()) == {1}
    last_asked = {expansion: index for index, (_, expansion) in enumerate(disturbed)}
    again = Counter(
        run for index, (run, expansion) in enumerate(disturbed) if last_asked[expansion] > index
    )
    assert max(again.values()) <= CONCURRENCY, again
    assert again["last"] == 0
    assert len({run for run, _ in disturbed}) > KILLS / 2  # most were killed in mid-recording
