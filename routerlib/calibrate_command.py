"""``routerlib calibrate``: a policy file and a target -> a threshold and its certificate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from routerlib import paths
from routerlib.errors import CalibrationError

if TYPE_CHECKING:
    from routerlib.calibrate import Target
    from routerlib.certificate import CertifiedSetting
    from routerlib.lattice import Lattice
    from routerlib.policies import Policy

SMALL = "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M-bf16"
LARGE = "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M-bf16"
# As in the modules that own them, which are slow to import; a test compares.
BOUNDS = ("hoeffding_bentkus", "betting")
LENSES = ("flops", "generated_flops", "large_tokens", "all_tokens", "usd")
PROBLEM_TOKENS = 512


def add_calibrate_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options to the parser's commands."""
    command = commands.add_parser(
        "calibrate",
        help="find a policy's threshold for a target, with a certificate",
        description="Tests thresholds on the recorded calibration problems (Learn then Test). The "
        "thresholds to test, and their order for two targets at once, come from the training "
        "problems; no test problem is read.",
    )
    command.add_argument(
        "--policy", required=True, help="file of a trained policy, or the name of a baseline"
    )
    command.add_argument(
        "--keep-accuracy", type=float, metavar="SHARE", help="of always large's accuracy, e.g. 0.9"
    )
    cost = command.add_mutually_exclusive_group()
    cost.add_argument(
        "--max-cost", type=float, metavar="COST", help="mean cost of a problem, in the lens's unit"
    )
    cost.add_argument(
        "--max-cost-share",
        type=float,
        metavar="SHARE",
        help="of the way from always small's cost to always large's, e.g. 0.4",
    )
    command.add_argument(
        "--delta", type=float, default=0.1, help="how likely the certificate may be wrong"
    )
    command.add_argument("--bound", choices=BOUNDS, default=BOUNDS[0], help="kind of p-value")
    command.add_argument("--lens", choices=LENSES, default=LENSES[0], help="what cost means")
    command.add_argument(
        "--problem-tokens",
        type=int,
        default=PROBLEM_TOKENS,
        help="the longest problem that a cost certificate is about",
    )
    command.add_argument("--benchmark", default="gsm8k")
    command.add_argument("--small", default=SMALL, help="model id of the cheap model")
    command.add_argument("--large", default=LARGE, help="model id of the dear model")
    command.add_argument("--depth", type=int, default=5, help="step decisions before the rest")
    command.add_argument("--thresholds", type=int, default=100, help="thresholds to test at most")
    command.add_argument("--seed", type=int, default=0, help="of the intervals' resamples")
    command.add_argument("--resamples", type=int, default=2000)
    command.add_argument("--traces", type=Path, default=paths.TRACES)
    command.set_defaults(run=run_calibrate)


def run_calibrate(options: argparse.Namespace) -> int:
    """Print the threshold, what it achieves and its certificate; return the exit status 0."""
    import numpy as np

    from routerlib import metrics
    from routerlib.certificate import certify_setting, order_settings
    from routerlib.cost_bounds import compute_cost_caps, read_token_caps
    from routerlib.costs import make_lens
    from routerlib.evaluate import compute_settings, compute_sweep, evaluate_ends
    from routerlib.features import check_protocol
    from routerlib.lattice import build_lattice, load_model_cards, load_tables

    targets = read_targets(options)
    policy = read_policy(options.policy)
    pair = (options.small, options.large)
    lens = make_lens(options.lens, load_model_cards(options.traces, pair))
    tables = load_tables(options.traces)
    training, calibration = (
        build_lattice(
            tables,
            benchmark=options.benchmark,
            split=split,
            model_ids=pair,
            depth=options.depth,
        )
        for split in ("train", "calibration")
    )
    if policy.protocol == "judge":
        training = keep_judged(training, "train")
        calibration = keep_judged(calibration, "calibration")
    token_caps = read_token_caps(tables, calibration.problem_ids, pair, options.problem_tokens)
    caps = compute_cost_caps(token_caps, options.depth, lens, check_protocol(policy.protocol))
    settings = compute_settings(policy, training, options.thresholds)
    if len(settings) == 0:
        raise CalibrationError(f"{policy.name!r} has no threshold: there is nothing to calibrate")
    order = None
    if len(targets) > 1:
        sweep = compute_sweep(policy, training, lens, settings)
        order = order_settings(sweep, targets, *evaluate_ends(training, lens), caps)
    n_problems = calibration.n_problems
    generator = np.random.default_rng(options.seed)
    weights = metrics.compute_resample_weights(
        metrics.draw_resamples(n_problems, options.resamples, generator)
    )
    found = certify_setting(
        compute_sweep(policy, calibration, lens, settings),
        targets,
        *evaluate_ends(calibration, lens),
        weights,
        delta=options.delta,
        caps=caps,
        bound=options.bound,
        order=order,
    )
    print(describe(found, policy, lens.unit))
    return 0


def keep_judged(lattice: Lattice, split: str) -> Lattice:
    """Return the problems whose every draft has a score. CalibrationError where there are none."""
    from routerlib.lattice import coverage

    judged = coverage(lattice, "judge").complete
    if not judged.any():
        raise CalibrationError(
            f"none of the {lattice.n_problems} {split} problems has every draft scored by a "
            f"judge: record scores with `routerlib judge --split {split}`"
        )
    return lattice.select(judged)


def read_targets(options: argparse.Namespace) -> list[Target]:
    """Return the targets that the options name. CalibrationError for none or for bad values."""
    from routerlib.calibrate import KeepAccuracy, MaxCost

    targets: list[Target] = []
    try:
        if options.keep_accuracy is not None:
            targets.append(KeepAccuracy(options.keep_accuracy))
        if options.max_cost is not None:
            targets.append(MaxCost(options.max_cost, "absolute"))
        if options.max_cost_share is not None:
            targets.append(MaxCost(options.max_cost_share))
    except ValueError as error:
        raise CalibrationError(str(error)) from error
    if not targets:
        raise CalibrationError("no target: give --keep-accuracy, --max-cost or --max-cost-share")
    if not 0.0 < options.delta < 1.0:
        raise CalibrationError(f"delta is {options.delta}; give a probability such as 0.1")
    return targets


def read_policy(name: str) -> Policy:
    """Return a baseline by its name, or the policy of a file. CalibrationError when it is
    neither."""
    from routerlib.policies import BASELINES, JUDGE_BASELINES, load_policy

    baselines = BASELINES | JUDGE_BASELINES
    if name in baselines:
        return baselines[name]
    if not Path(name).is_file():
        raise CalibrationError(
            f"no policy file {name}, and no such baseline (there are: {', '.join(baselines)}); "
            "notebook 03 writes policies to build/results/policies"
        )
    try:
        return load_policy(Path(name))
    except Exception as error:  # torch fails in many ways on a file that is not its own
        raise CalibrationError(f"{name} cannot be read as a policy: {error}") from error


def describe(found: CertifiedSetting, policy: Policy, unit: str) -> str:
    """Return what was found, a few lines of text."""
    from routerlib.policies import SweptPolicy

    proof = found.certificate
    accuracy, cost = found.calibrations[0].accuracy, found.calibrations[0].cost
    rule = "the large model writes where the score is >="
    if isinstance(policy, SweptPolicy):
        rule = f"{policy.setting_name} ="
    lines = [
        f"{policy.name}: {rule} {found.setting:.6g}",
        f"on {proof.n_problems} calibration problems, with 95% intervals:",
        f"  accuracy {accuracy.value:.4g} [{accuracy.low:.4g}, {accuracy.high:.4g}]",
        f"  cost {cost.value:.4g} [{cost.low:.4g}, {cost.high:.4g}] {unit} a problem",
        *(
            f"  {c.target.label}: achieved {c.achieved.value:.4g} "
            f"[{c.achieved.low:.4g}, {c.achieved.high:.4g}]"
            for c in found.calibrations
        ),
        f"certificate: p = {proof.p_value:.3g} <= delta = {proof.delta:g} ({proof.bound}), "
        f"{proof.n_certified} of {proof.n_settings} thresholds certified",
        found.guarantee,
    ]
    return "\n".join(lines)
