"""The README's results are those of ``figures/numbers.json``, and its commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from routerlib import paths
from routerlib.cli import main, make_parser
from routerlib.errors import RouterlibError
from routerlib.readme import END, START, render_results, update_readme

README = paths.ROOT / "README.md"
NUMBERS = paths.FIGURES / "numbers.json"


def test_the_readme_quotes_the_tracked_numbers() -> None:
    written = README.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    assert written.strip() == render_results(json.loads(NUMBERS.read_text(encoding="utf-8")))


def test_the_tracked_numbers_are_those_of_the_main_results() -> None:
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))["results"]
    results = pd.read_csv(paths.FIGURES / "main_results.csv")
    quoted = {(router, metric) for router, found in numbers.items() for metric in found}
    assert quoted == set(zip(results["router"], results["metric"], strict=True))
    for row in results.dropna(subset=["value"]).itertuples():
        assert numbers[row.router][row.metric]["value"] == pytest.approx(row.value, abs=1e-6)


# What the prose below the table says of the learned router's area, rival by rival.
SAID_OF_THE_AREA = {
    "first-token entropy": "higher",
    "confidence mixture": "higher",
    "draft mean log-probability": "higher",
    "draft min log-probability": "higher",
    "process reward": "higher",
    "TRIM-Agg": "higher",
    "TRIM-POMDP": "higher",
    "random": "higher",
    "problem length": "not distinguishable",
    "query-level classifier": "not distinguishable",
}


def test_the_readme_says_what_the_paired_differences_say() -> None:
    """When this fails, the sentence about the learned policy in the README needs another look."""
    differences = json.loads(NUMBERS.read_text(encoding="utf-8"))["differences"]
    for rival, verdict in SAID_OF_THE_AREA.items():
        assert differences[f"learned (before) - {rival}"]["area"]["verdict"] == verdict, rival
    prose = " ".join(README.read_text(encoding="utf-8").split())
    assert "above that of every threshold on confidence and above the coin" in prose
    assert "not distinguishable from sending short problems to the large model" in prose


# What it says of the ablations, factor by factor; "*" stands for all levels that are not named.
SAID_OF_THE_ABLATIONS = {
    ("trainer", "fitted, trees"): "not distinguishable",
    ("trainer", "CPO on rollouts"): "lower",
    ("protocol", "*"): "lower",
    ("features", "all"): "not distinguishable",
    ("features", "no_logprobs"): "not distinguishable",
    ("features", "*"): "lower",
    ("log-probabilities", "*"): "not distinguishable",
    ("training problems", "*"): "not distinguishable",
    ("hidden units", "*"): "not distinguishable",
    ("last decision before step", "*"): "not distinguishable",
    ("mode", "*"): "not distinguishable",
}


def test_the_readme_says_what_the_ablations_say() -> None:
    """When this fails, the paragraph about what does not help needs another look."""
    table = pd.read_csv(paths.FIGURES / "ablations.csv")
    said = 0
    for row in table[table["verdict"] != "reference"].itertuples():
        verdict = SAID_OF_THE_ABLATIONS.get((row.factor, row.level))
        verdict = verdict or SAID_OF_THE_ABLATIONS.get((row.factor, "*"))
        assert verdict in (None, row.verdict), (row.factor, row.level)
        said += verdict is not None
    assert said >= 20
    blind = table[table["level"].isin(["position_only", "confidence_only"])]
    assert len(blind) == 2
    assert (blind["high"] <= 1e-9).all()


def test_the_readme_says_why_the_gain_is_no_larger() -> None:
    """An eighth of the variance, and a lead of the oracle that nearly doubles."""
    explained = pd.read_csv(paths.FIGURES / "predictability.csv")
    assert explained.loc[explained["protocol"] == "before", "value"].max() == pytest.approx(
        1 / 8, abs=0.02
    )
    told = pd.read_csv(paths.FIGURES / "predictability_by_benchmark.csv")
    told = told[told["n"] > 24].set_index(["benchmark", "lens", "features"])
    everywhere = told["value"].unstack()
    billed, free = (everywhere.xs(lens, level="lens") for lens in ("flops", "generated_flops"))
    assert billed.loc["gsm8k", "position_only"] == pytest.approx(1 / 8, abs=0.02)
    assert len(billed) == 6
    assert (billed["default"] - billed["position_only"] < 0.03).all()
    assert free.loc["math", "position_only"] == pytest.approx(1 / 15, abs=0.01)
    assert (free["position_only"].drop("math") < 0.06).all()
    alone = told.xs("problem_only", level="features").xs("flops", level="lens")
    assert len(alone) == 6
    assert not (alone["low"] > 0).any()
    leads = pd.read_csv(paths.FIGURES / "ceilings.csv").set_index("decisions")["oracle_over_chord"]
    assert 1.7 < leads[6] / leads[1] < 2.0


@pytest.mark.parametrize("bound", ["betting", "hoeffding_bentkus"])
def test_the_readme_says_what_can_be_certified(
    bound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the rule that is level with the learned one and needs no training."""
    arguments = ["--policy", "problem length", "--keep-accuracy", "0.98", "--bound", bound]
    refused = bound == "hoeffding_bentkus"
    assert main(["calibrate", *arguments, "--resamples", "50"]) == int(refused)
    printed = capsys.readouterr()
    if refused:
        found = re.search(r"on 300 calibration problems; about (\d+) like these", printed.err)
        assert found is not None
        assert int(found[1]) >= 2000
    else:
        assert "on 300 calibration problems" in printed.out


def test_the_readme_says_what_other_benchmarks_say() -> None:
    """When this fails, the paragraph that begins with "Elsewhere" needs another look."""
    benchmarks = pd.read_csv(paths.FIGURES / "benchmarks.csv")
    n_problems = benchmarks["factor"].str.extract(r"\((\d+) test")[0].astype(int)
    benchmarks = benchmarks[n_problems > 20]
    omni = benchmarks[benchmarks["benchmark"] == "omni_math_rule"]
    assert set(n_problems[omni.index]) == {100}
    omni = omni.set_index("level")
    named = ["learned (before)", "query-level classifier"]
    assert set(omni.index[omni["low"] > 0]) == set(named)
    assert omni.loc[named, "value"].tolist() == pytest.approx([0.02, 0.02], abs=0.005)
    from_files = ["gsm8k", "math500", "omni_math_rule"]
    generated = benchmarks[~benchmarks["benchmark"].isin(from_files)]
    assert generated["benchmark"].nunique() == 4
    assert set(n_problems[generated.index]) == {150}
    exception = {("chain_sum_4x2", "TRIM-Agg")}  # of processors that differ in rounding
    above = generated[generated["low"] > 0]
    assert set(zip(above["benchmark"], above["level"], strict=True)) <= exception
    higher = benchmarks[benchmarks["verdict"] == "higher"]
    assert set(zip(higher["benchmark"], higher["level"], strict=True)) <= exception
    lenses = pd.read_csv(paths.FIGURES / "lenses.csv")
    assert lenses["lens"].nunique() == 3
    assert "higher" not in set(lenses["verdict"])
    on_math = benchmarks[benchmarks["benchmark"] == "math500"]
    assert set(n_problems[on_math.index]) == {200}
    on_math = on_math.set_index("level")
    assert on_math.loc[named, "value"].tolist() == pytest.approx([0.065, 0.06], abs=0.002)
    assert (on_math.loc[named, "low"] > 0).all()
    solo = pd.read_csv(paths.FIGURES / "all_results.csv")
    solo = solo[(solo["router"] == "always small") & (solo["metric"] == "accuracy")]
    large = pd.read_csv(paths.FIGURES / "all_results.csv").set_index(
        ["benchmark", "router", "metric", "lens"]
    )["value"]
    omni_large = large["omni_math_rule", "always large", "accuracy", "flops"]
    assert omni_large == pytest.approx(1 / 7, abs=0.01)
    of_sets = solo[(solo["lens"] == "flops") & solo["benchmark"].isin(generated["benchmark"])]
    assert of_sets["value"].min() == pytest.approx(1 / 8, abs=0.02)
    assert of_sets["value"].max() == pytest.approx(1 / 2, abs=0.06)


def test_the_readme_says_what_transfers() -> None:
    """When this fails, the sentences on transfer need another look."""
    table = pd.read_csv(paths.FIGURES / "transfer.csv").set_index(["factor", "level"])
    foreign = table[table["verdict"] != "reference"]
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert f"({len(foreign)} pairs were looked at)" in text
    assert len(foreign) >= 20
    lucky = {
        ("tested on basic_arithmetic_4x1", "trained on simple_equations_3x2"),
        ("tested on omni_math_rule", "trained on simple_equations_3x2"),
    }
    assert set(foreign.index[foreign["low"] > 0]) == {
        ("tested on math500", "trained on gsm8k"),
        ("tested on omni_math_rule", "trained on gsm8k"),
        ("tested on gsm8k", "trained on math"),
        *lucky,
    }
    for tested in ("tested on math500", "tested on omni_math_rule"):
        assert foreign.loc[tested, "trained on gsm8k"]["verdict"] == "not distinguishable"
    at_home = table[table["verdict"] == "reference"]["low"].groupby("factor").first()
    assert at_home["tested on basic_arithmetic_4x1"] <= 0


def test_the_readme_says_what_a_judge_and_a_cascade_bring() -> None:
    partly = pd.read_csv(paths.FIGURES / "judge_and_cascade.csv")
    billed = partly[partly["lens"] == "flops"].set_index("level")["high"]
    samples = [f"{n} samples" for n in (2, 3, 4)]
    assert (billed[["judge score", "learned (judge)", *samples]] < 0).all()


def test_the_readme_says_what_a_protocol_costs() -> None:
    table = pd.read_csv(paths.FIGURES / "continuations.csv").set_index(["author", "continuation"])
    accuracy = table["accuracy"]
    assert set(table["n"]) == {100}
    assert accuracy["large", "prefill"] == pytest.approx(3 / 5, abs=0.03)
    assert accuracy["large", "dialogue"] == pytest.approx(1 / 2, abs=0.03)
    assert accuracy["large", "continue_turn"] == pytest.approx(1 / 6, abs=0.02)
    assert accuracy["large", "one_shot"] == pytest.approx(1 / 6, abs=0.03)
    for continuation in ("continue_turn", "one_shot"):
        assert accuracy["small", continuation] == 0
        assert table.loc[("large", continuation), "is_right_change_high"] < 0


def test_the_readme_says_what_a_bill_counts() -> None:
    ranking = pd.read_csv(paths.FIGURES / "lens_ranking.csv").set_index(["router", "lens"])
    probe = ranking["verdict"]["learned (probe)"]
    assert probe["flops"] == "lower"
    assert set(probe[["generated_flops", "large_tokens"]]) == {"higher"}
    assert "all_tokens" not in ranking.index.get_level_values("lens")
    bill = pd.read_csv(paths.FIGURES / "bill.csv")
    whole = bill.groupby("router")["share"].sum()
    models = bill[bill["item"] != "reward model"].groupby("router")["share"].sum()
    by_reward = ["process reward", "TRIM-Agg", "TRIM-POMDP"]
    assert (models[by_reward] > 1.0).all()
    assert whole[by_reward].min() == pytest.approx(2.3, abs=0.05)
    assert whole[by_reward].max() == pytest.approx(2.5, abs=0.05)
    assert whole["learned (before)"] == pytest.approx(0.8, abs=0.05)
    pairs = pd.read_csv(paths.FIGURES / "price_pairs.csv")
    assert len(pairs) == 7
    assert set(pairs["verdict"]) == {"higher"}


def test_a_changed_number_changes_the_readme(tmp_path: Path) -> None:
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))
    numbers["results"]["always large"]["accuracy"]["value"] = 0.123
    changed = tmp_path / "numbers.json"
    changed.write_text(json.dumps(numbers))
    readme = tmp_path / "README.md"
    readme.write_text(README.read_text(encoding="utf-8"), encoding="utf-8")
    assert update_readme(readme, changed)
    assert "| always large | 0.12 [" in readme.read_text(encoding="utf-8")
    assert not update_readme(readme, changed)


def test_a_readme_without_its_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# nothing\n")
    with pytest.raises(RouterlibError, match="lacks the lines"):
        update_readme(tmp_path / "README.md", NUMBERS)


def test_documented_commands_parse() -> None:
    text = README.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (paths.ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)) <= targets
    for line in re.findall(r"^\.venv/bin/routerlib (.*)$", text, re.MULTILINE):
        words = re.findall(r'"([^"]*)"|(\S+)', line.partition("  #")[0])
        make_parser().parse_args([quoted or plain for quoted, plain in words])
