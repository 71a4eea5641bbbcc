"""Every benchmark runs on toy sizes; what they compute is right on values worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.collector_overhead import CollectorSettings, measure_collector
from bench.measurement import Measurement, render_table
from bench.prefix_cache import measure_prefix_cache, simulate
from bench.prompt_tree import Call, count_unique_tokens, group_lengths


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
