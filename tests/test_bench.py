"""Every benchmark runs on toy sizes; what they compute is right on values worked out by hand."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tiny import add_records, make_tiny_records

from bench import __main__ as command
from bench import store_scale
from bench.collector_overhead import CollectorSettings, measure_collector
from bench.measurement import Measurement, render_table
from bench.prefix_cache import measure_prefix_cache, simulate
from bench.prompt_tree import Call, count_unique_tokens, group_lengths
from bench.single_stream import WRITTEN, measure_once, measure_single_stream
from bench.store_scale import OPERATIONS, main, measure_store_scale, read_peak_mb, run_apart
from bench.store_write import measure_store_write
from bench.synthetic_store import count_problems, write_synthetic_store
from routerlib.models.scripted import build_completion
from routerlib.records import Completion, Request, Step
from routerlib.store import TraceWriter, compact, load_table, verify


def make_call(text: str, next_text: str, prompt_tokens: int, problem: str = "p") -> Call:
    return Call(problem, text.count("\n"), text, next_text, prompt_tokens, 0, 8)


CALLS = [
    make_call("", "ab\n", 16),  # the model's own step, then one of another model
    make_call("ab\n", "ab\nx", 20),
    make_call("cd\n", "cd\nx", 20),
]


def test_unique_tokens_count_each_token_once() -> None:
    assert count_unique_tokens(8, group_lengths(CALLS).values()) == 8 + 8 + 4 + 4
    again = [*CALLS, *(make_call("", "ab\n", 12, problem) for problem in "qr")]
    assert count_unique_tokens(8, group_lengths(again).values()) == 24 + 4 + 4


def test_a_cache_of_blocks_computes_the_rest_of_the_last_block_again() -> None:
    lengths = group_lengths(CALLS)
    # 16; then a hit of 16, a hit of 16: the own step filled one whole block more.
    assert simulate(CALLS, lengths, 8, 4, None) == 16 + (20 - 16) + (20 - 16)
    assert simulate(CALLS, lengths, 8, 1, None) == 16 + 1 + 4
    assert simulate(CALLS, lengths, 8, 4, 0) == 16 + 20 + 20


def test_prefix_cache_of_the_tiny_store(tiny_store: Path) -> None:
    small, large = sorted(measure_prefix_cache(tiny_store), key=lambda m: m.name, reverse=True)
    for found in (small, large):
        assert found.detail["calls"] == 10
        assert found.detail["recomputed_tokens"] == found.detail["prompt_tokens"]  # none cached
        assert found.is_met is False


def test_prompts_that_share_less_have_a_tree_of_their_own(tiny_store: Path) -> None:
    """A second prompt with a longer shared beginning changes nothing for the first."""
    before = measure_prefix_cache(tiny_store)
    longer = [
        replace(r, prompt_version="long-v1", shared_prompt_tokens=90, prompt_tokens=100)
        if isinstance(r, Step)
        else r
        for r in make_tiny_records("train")
    ]
    with TraceWriter(tiny_store) as writer:
        add_records(writer, longer)
    after = measure_prefix_cache(tiny_store)
    for one, both in zip(before, after, strict=True):
        (prompt,) = one.detail["ratio_by_prompt"]
        assert both.detail["ratio_by_prompt"][prompt] == one.value
        assert len(both.detail["ratio_by_prompt"]) == 2
        assert both.detail["calls"] == 2 * one.detail["calls"]
        of_the_longer = 90 + 3 * (100 - 90)  # no text is longer than another of its problem
        assert both.detail["unique_tokens"] == one.detail["unique_tokens"] + of_the_longer


@dataclass
class TimedModel:
    """Answers in no time and says that it took what its speeds and the way there would take; of a
    prompt that it has seen it reads again what fills no ``block`` of tokens."""

    id: str = "timed"
    block: int = 1
    counts_cached: bool = True
    prefill: float = 500.0
    decode: float = 40.0
    seen: set[str] = field(default_factory=set)

    async def complete(self, request: Request) -> Completion:
        text, tokens = request.messages[-1].content, request.sampling.max_tokens
        length = len(text.split())
        cached = length // self.block * self.block if text in self.seen else 0
        self.seen.add(text)
        return replace(
            build_completion("x", request, self.id),
            prompt_tokens=length,
            cached_prompt_tokens=cached if self.counts_cached else 0,
            completion_tokens=tokens,
            latency_s=0.3 + (length - cached) / self.prefill + tokens / self.decode,
        )

    async def aclose(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("block", [1, 32, 256])
def test_speeds_are_told_apart_from_each_other_and_from_the_way_there(block: int) -> None:
    model = TimedModel(block=block)
    for seed in (0, 1):  # each prompt is new
        found = asyncio.run(measure_once(model, seed))
        assert (found.prefill, found.decode) == pytest.approx((500.0, 40.0))
    assert len(model.seen) == 2
    assert WRITTEN > 1
    with pytest.raises(ValueError, match="let nothing else run"):
        asyncio.run(measure_once(TimedModel(prefill=-1.0), 0))
    assert measure_single_stream(None, "any") == []


def test_a_server_that_counts_no_cached_tokens_is_taken_to_have_read_the_new_prompt() -> None:
    """It caches all the same: the known prompt takes no time."""
    model = TimedModel(counts_cached=False)
    found = asyncio.run(measure_once(model, 0))
    assert (found.prefill, found.decode) == pytest.approx((500.0, 40.0))


def test_goals() -> None:
    assert Measurement("a", 1.0, at_least=0.5, at_most=0.9).is_met is False
    table = render_table([Measurement("a", 1.0, at_most=2), Measurement("longer", 0.12345)])
    assert table.splitlines()[1:] == ["a       1.000  <= 2  met", "longer  0.123"]


def test_command_writes_all_numbers(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "bench.json"
    arguments = ["prefix-cache", "--traces", str(tiny_store), "--output", str(output)]
    assert command.main(arguments) == 1  # the tiny store has no cache, so the goal is missed
    assert "MISSED" in capsys.readouterr().out
    assert len(json.loads(output.read_text())["measurements"]) == 2
    with pytest.raises(SystemExit):
        command.main(["nothing"])
    assert "unknown benchmark 'nothing': choose from prefix-cache" in capsys.readouterr().err


def test_collector_and_bare_loop_ask_the_same() -> None:
    settings = CollectorSettings(delay_s=0.0, concurrency=4, problems=2, depth=2, repetitions=2)
    (found,) = measure_collector(settings)
    assert found.detail["calls"]["collector"] == found.detail["calls"]["bare"][::-1]
    assert found.value > 0


def test_writer_and_copy_write_the_same_rows(tiny_store: Path) -> None:
    ratio, size = measure_store_write(tiny_store, repetitions=1)
    assert ratio.detail["rows"] == 40
    assert ratio.value > 0
    columns = size.detail["bytes_per_step_by_column"]
    assert columns.keys() == set(load_table(tiny_store, "steps").column_names)
    assert size.value == pytest.approx(sum(columns.values()))
    few, _ = measure_store_write(tiny_store, most_steps=1, repetitions=1)
    assert 0 < few.detail["rows"] < 40  # one problem, whole


def test_a_synthetic_store_is_sound(tmp_path: Path) -> None:
    write_synthetic_store(tmp_path, 100)
    assert count_problems(100) == 2
    compact(tmp_path)
    assert verify(tmp_path) == []
    assert load_table(tmp_path, "steps").num_rows == 124
    assert load_table(tmp_path, "states").num_rows == 126


def test_a_synthetic_store_is_measured_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_here(operation: str, root: Path, steps: int) -> dict[str, float]:
        main([operation, str(root), str(steps)])
        numbers: dict[str, float] = json.loads(capsys.readouterr().out)
        return numbers

    assert run_apart("write", tmp_path, 100)["peak_mb"] > 10
    monkeypatch.setattr(store_scale, "run_apart", run_here)
    found = measure_store_scale(100)
    assert len(found) == len(OPERATIONS)
    assert found[0].detail["operations"].keys() == OPERATIONS.keys()
    assert all(m.value > 0 for m in found)
    assert read_peak_mb() > 10
