"""Ablations: one thing is changed at a time, trained, calibrated and judged as the default is.

Invariants: every variant is trained with the same seeds through one cache; a factor's reference is
the default configuration under that factor; nothing is chosen here, so every variant is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from routerlib.calibrate import compute_value_means
from routerlib.costs import Lens, set_price_ratio
from routerlib.evaluate.routers import compute_settings, compute_sweep, evaluate_ends
from routerlib.evaluate.variants import Variant
from routerlib.features import DecisionProtocol, get_feature_names
from routerlib.lattice import Lattice, restrict_depth, restrict_one_way
from routerlib.metrics import compute_hull_area
from routerlib.policies import Policy
from routerlib.train import ExactConfig, PolicyCache, train_exact

Trainer = Callable[..., Policy]


@dataclass(frozen=True, slots=True, eq=False)
class AblationStudy:
    """What the variants share unless they vary it: problems, prices, configuration, seeds.

    ``train``, ``calibration`` and ``test`` are complete lattices of one pair of models.
    """

    cache: PolicyCache
    train: Lattice
    calibration: Lattice
    test: Lattice
    lens: Lens
    seeds: tuple[int, ...]
    config: ExactConfig = field(default_factory=ExactConfig)
    protocol: DecisionProtocol = "before"

    def make(
        self,
        factor: str,
        level: str,
        reference: str | None,
        *,
        trainer: Trainer = train_exact,
        config: object | None = None,
    ) -> Variant:
        """Train one variant of this study's problems with each seed."""
        policy, members = self.cache.train_seeds(
            trainer,
            self.train,
            config or self.config,
            self.lens,
            self.protocol,
            seeds=self.seeds,
            name=f"{factor}: {level}",
        )
        return Variant(
            *(factor, level, policy, self.calibration, self.test, self.lens, members, reference)
        )

    def vary_trainer(self, trainers: Mapping[str, tuple[Trainer, object]]) -> list[Variant]:
        """Other ways to train for the same inputs: level -> trainer and its configuration. The
        first one is the reference."""
        first = next(iter(trainers))
        return [
            self.make("trainer", level, first, trainer=trainer, config=config)
            for level, (trainer, config) in trainers.items()
        ]

    def vary_protocol(self, protocols: Sequence[DecisionProtocol]) -> list[Variant]:
        """What the policy sees before it decides, and pays for."""
        return [
            replace(self, protocol=protocol).make("protocol", protocol, self.protocol)
            for protocol in protocols
        ]

    def vary_features(self, sets: Sequence[str]) -> list[Variant]:
        """Named feature sets (``features.FEATURE_SETS``), as far as they are recorded."""
        recorded = self.train.observe(self.protocol).list_recorded()
        variants = []
        for name in sets:
            wanted = get_feature_names(name, self.protocol)
            chosen = tuple(n for n in recorded if n in wanted)
            config = replace(self.config, features=None if name == "default" else chosen)
            variants.append(self.make("features", name, "default", config=config))
        return variants

    def vary_depth(self, depths: Sequence[int]) -> list[Variant]:
        """Decisions at the first steps only; the recorded depth is the reference."""
        return [
            self._restrict(partial(restrict_depth, depth=depth)).make(
                "last decision before step", str(depth + 1), str(self.train.depth + 1)
            )
            for depth in depths
        ]

    def vary_mode(self) -> list[Variant]:
        """May the small model write again after the large one?"""
        one_way = self._restrict(restrict_one_way)
        return [
            self.make("mode", "reversible", "reversible"),
            one_way.make("mode", "one-way", "reversible"),
        ]

    def vary_amount(self, amounts: Sequence[int]) -> list[Variant]:
        """Training on the first so many problems; all of them are the reference."""
        everything = self.train.n_problems
        if amounts and max(amounts) > everything:
            raise ValueError(f"amounts {list(amounts)}: only {everything} problems are recorded")
        return [
            replace(
                self,
                train=self.train.select(np.arange(amount)) if amount < everything else self.train,
            ).make("training problems", str(amount), str(everything))
            for amount in sorted({*amounts, everything})
        ]

    def vary_width(self, widths: Sequence[int]) -> list[Variant]:
        """Units in each hidden layer; the configured width is the reference."""
        return [
            self.make(
                *("hidden units", str(width), str(self.config.width)),
                config=replace(self.config, width=width),
            )
            for width in sorted({*widths, self.config.width})
        ]

    def vary_price_ratio(self, ratios: Sequence[float]) -> list[Variant]:
        """The same traces as if a written token of the large model cost so many of the small
        model's. Other prices are another problem, so these are compared with nothing."""
        return [
            replace(self, lens=set_price_ratio(self.lens, ratio)).make(
                "price ratio", f"1 : {ratio:g}", None
            )
            for ratio in ratios
        ]

    def _restrict(self, mode: Callable[[Lattice], Lattice]) -> AblationStudy:
        return replace(
            self,
            train=mode(self.train),
            calibration=mode(self.calibration),
            test=mode(self.test),
        )


def compute_hindsight_areas(
    policies: Sequence[Policy], test: Lattice, lens: Lens
) -> NDArray[np.float64]:
    """Area over the chord (n,) of the hull of the first 1..n policies' points, chosen *after* the
    outcomes are seen. It can only grow with n, whatever the policies are: a warning, no result."""
    ends = [compute_value_means(values) for values in evaluate_ends(test, lens)]
    small, large = ((float(end.cost), float(end.accuracy)) for end in ends)
    cost, accuracy, areas = np.zeros(0), np.zeros(0), []
    for policy in policies:
        sweep = compute_sweep(policy, test, lens, compute_settings(policy, test))
        means = compute_value_means(sweep.values)
        cost, accuracy = np.append(cost, means.cost), np.append(accuracy, means.accuracy)
        areas.append(compute_hull_area(cost, accuracy, small, large))
    return np.array(areas) - (small[1] + large[1]) / 2.0
