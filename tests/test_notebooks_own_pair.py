"""The notebook of a pilot, from a file of models to its numbers, against scripted servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from invented import make_invented_problems, write_invented
from test_cli_models_file import Server

from routerlib import paths
from routerlib.errors import NotebookError
from routerlib.evaluate import CalibratedRouter, save_routers
from routerlib.metrics import compute_wilson_interval
from routerlib.notebooks import run_notebook
from routerlib.policies import BASELINES
from routerlib.store import load_table, query

NOTEBOOK = paths.NOTEBOOKS / "12_your_own_pair.ipynb"
N_PROBLEMS, N_FULL = 12, 40
PRICES = {"my-small": (1.0, 0.1, 4.0), "my-large": (10.0, 1.0, 40.0)}
TABLE = """[{name}]
provider = "openai-compatible"
base_url = "{url}"
[{name}.prices]
input = {prices[0]}
cached_input = {prices[1]}
output = {prices[2]}
date = 2026-11-01
source = "made up"
"""


@dataclass
class Bench:
    """A folder with problems, a file of models and the two servers that it names; the large model
    gives no log-probabilities and continues no begun answer."""

    folder: Path
    servers: tuple[Server, Server]

    def run(self, **parameters: object) -> str:
        """Run the notebook and return what its cells printed."""
        small, large = PRICES
        given = {
            "models_file": str(self.folder / "models.toml"),
            "pilot_dir": str(self.store),
            "data_dir": str(self.folder / "data"),
            "small": small,
            "large": large,
            "depth": 2,
            "n_full": N_FULL,
            "lens": "usd",
            "router": "problem length",
            "results_dir": str(self.folder / "results"),
            "figures_dir": str(self.folder / "figures"),
        }
        executed = run_notebook(
            NOTEBOOK, self.folder / "out", given | parameters, show_progress=False
        )
        cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
        printed = (output for cell in cells for output in cell.get("outputs", []))
        return "".join("".join(output.get("text", "")) for output in printed)

    @property
    def store(self) -> Path:
        return self.folder / "pilot"

    @property
    def n_calls(self) -> int:
        """Requests that the servers got, those that ask what they can do included."""
        return sum(len(server.http.bodies) for server in self.servers)

    def load_result(self, name: str, key: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / "results" / name).set_index(key)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    problems = tmp_path / "data" / "gsm8k" / "test.jsonl"
    problems.parent.mkdir(parents=True)
    rows = [
        json.dumps({"question": problem.text, "answer": f"#### {problem.answer}"})
        for problem in make_invented_problems(20)
    ]
    problems.write_text("\n".join(rows), encoding="utf-8")
    small = Server(0, write=write_invented)
    large = Server(1, takes_prefill=False, write=write_invented)
    tables = [
        TABLE.format(name=name, url=server.http.url, prices=prices)
        for (name, prices), server in zip(PRICES.items(), (small, large), strict=True)
    ]
    (tmp_path / "models.toml").write_text("".join(tables), encoding="utf-8")
    small.http.acts, large.http.acts = [small.act], [large.act]
    with small.http.serving(), large.http.serving():
        yield Bench(tmp_path, (small, large))


def compute_row_usd(row: dict[str, object]) -> float:
    """What a recorded call cost."""
    uncached, cached, written = PRICES[str(row["model_id"])]
    prompt, hit, tokens = (
        float(str(row[f"{name}_tokens"])) for name in ("prompt", "cached_prompt", "completion")
    )
    return (uncached * (prompt - hit) + cached * hit + written * tokens) / 1e6


@pytest.mark.slow
def test_a_pilot_is_recorded_once_and_its_numbers_are_those_of_the_store(bench: Bench) -> None:
    with pytest.raises(NotebookError, match=r"SpendingCapError: .* could not be asked all that it"):
        bench.run(max_usd=0.03)  # less than the answer to one question may cost
    assert load_table(bench.store, "steps").num_rows == 0
    with pytest.raises(NotebookError, match=r"SpendingCapError: the cap of 0.08 USD ended the"):
        bench.run(max_usd=0.08)
    begun = load_table(bench.store, "steps").num_rows
    assert begun > 0
    printed = bench.run()
    assert f"{N_PROBLEMS} of {N_PROBLEMS} recorded problems are complete" in printed
    assert "no router in" in printed
    steps = load_table(bench.store, "steps").to_pylist()
    assert len(steps) > begun
    assert len({row["id"] for row in steps}) == len(steps)
    assert load_table(bench.store, "problems").num_rows == N_PROBLEMS

    alone = bench.load_result("pilot.csv", "router")
    right = query(
        bench.store,
        "SELECT model_id, count(*) FILTER (is_correct) AS n FROM solo_paths WHERE is_complete "
        "GROUP BY ALL",
    ).set_index("model_id")["n"]
    for router, model_id in zip(("always small", "always large"), PRICES, strict=True):
        found, counted = alone.loc[router], np.array([float(right[model_id])])
        assert found["n_right"] == counted[0]
        assert 0 < counted[0] < N_PROBLEMS
        assert found["accuracy"] == pytest.approx(counted[0] / N_PROBLEMS)
        low, high = compute_wilson_interval(counted, np.array([N_PROBLEMS]))
        assert found[["accuracy_low", "accuracy_high"]].tolist() == pytest.approx([low[0], high[0]])
    price = bench.load_result("pilot_price.csv", "quantity")
    spent = sum(compute_row_usd(row) for row in steps) / N_PROBLEMS
    assert price.loc["usd", "per_problem"] == pytest.approx(spent)
    assert price.loc["usd", "total"] == pytest.approx(N_FULL * spent)
    assert price.loc["usd", "low"] < price.loc["usd", "total"] < price.loc["usd", "high"]
    assert price.loc["calls", "per_problem"] == pytest.approx(len(steps) / N_PROBLEMS)

    asked = bench.n_calls
    threshold = CalibratedRouter(BASELINES["problem length"], (), (), np.array([0.5]))
    save_routers({"problem length": threshold}, bench.folder / "results" / "routers")
    printed = bench.run()
    assert bench.n_calls == asked, "what was recorded was asked for again"
    assert load_table(bench.store, "steps").num_rows == len(steps)
    assert "read as the mean of its training: last_mean_logprob (" in printed
    gaps = bench.load_result("pilot_gaps.csv", "gap")
    assert list(gaps.index) == ["area"]
    assert gaps.loc["area", "verdict"] in printed
    plotted = pd.read_csv(bench.folder / "figures" / "your_own_pair.csv")
    assert set(plotted["router"]) == {*alone.index, "oracle", "problem length"}


@pytest.mark.slow
def test_no_pilot_goes_into_the_shipped_store(bench: Bench) -> None:
    with pytest.raises(NotebookError, match="name pilot_dir: a pilot has a store of its own"):
        bench.run(pilot_dir="")
    assert bench.n_calls == 0
