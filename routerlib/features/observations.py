"""What a policy is given: the columns that its protocol shows, and their standardisation.

Invariants: the observations of a protocol do not hold the columns that the protocol hides, so no
policy can read them. NaN says "not recorded" (a server without log-probabilities, a missing step);
``Standardiser`` reads it as the training mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from routerlib.errors import HiddenFieldError
from routerlib.features.registry import FIELDS, DecisionProtocol, get_feature_names, is_visible

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class Observations:
    """What a policy sees at N nodes: ``values`` (N, F), one column for each of ``names``.

    Columns that ``protocol`` hides are not there.
    """

    names: tuple[str, ...]
    values: FloatArray
    protocol: DecisionProtocol

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(
                f"values have shape {self.values.shape} for {len(self.names)} names: give (N, F)"
            )
        for name in self.names:
            if name in FIELDS and not is_visible(FIELDS[name], self.protocol):
                raise _make_hidden_error(name, self.protocol)

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def column(self, name: str) -> FloatArray:
        """Return one field (N,).

        Raises ``HiddenFieldError`` for a field that the protocol hides and ``KeyError`` for a
        name that is no field, or that was left out of these observations.
        """
        if name in self.names:
            return self.values[:, self.names.index(name)]
        if name in FIELDS and not is_visible(FIELDS[name], self.protocol):
            raise _make_hidden_error(name, self.protocol)
        if name in FIELDS and FIELDS[name].group == "spending":
            raise KeyError(f"field {name!r} needs a lens: add it with lattice.add_spending")
        raise KeyError(f"no field {name!r} here: there are {', '.join(self.names)}")

    def list_recorded(self) -> tuple[str, ...]:
        """Return the names of the fields that at least one node has recorded, in order."""
        known = np.flatnonzero(np.isfinite(self.values).any(axis=0))
        return tuple(self.names[column] for column in known)

    def take_inputs(self, features: tuple[str, ...] | None = None) -> Observations:
        """Return the same nodes with what a policy learns from: ``features`` or, where none are
        named, those of the default set that at least one node has recorded. Raises like
        ``column``."""
        default = get_feature_names("default", self.protocol)
        recorded = tuple(name for name in self.list_recorded() if name in default)
        return self.take(recorded if features is None else features)

    def take(self, names: tuple[str, ...]) -> Observations:
        """Return the same nodes with only these fields, in this order. Raises like ``column``."""
        columns = [self.column(name) for name in names]
        values = np.stack(columns, axis=1) if columns else np.empty((len(self), 0))
        return replace(self, names=names, values=values)

    def rows(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Observations:
        """Return the observations of some nodes, by index or mask over N."""
        return replace(self, values=self.values[index])


@dataclass(frozen=True, eq=False, slots=True)
class Standardiser:
    """Mean and standard deviation of each field on the *training* lattice.

    ``mean`` and ``scale`` (F,) belong to ``names``. A field that is constant in training has scale
    1, so it becomes 0 there.
    """

    names: tuple[str, ...]
    mean: FloatArray
    scale: FloatArray

    @classmethod
    def fit(cls, observations: Observations) -> Standardiser:
        """Return the standardiser of these nodes, every node counting once and NaN not at all.

        A field that no node has recorded gets mean 0 and scale 1. ``ValueError`` for no node.
        """
        from sklearn.preprocessing import StandardScaler

        known = np.isfinite(observations.values)
        values = np.where(known, observations.values, np.nan)
        values[:, ~known.any(axis=0)] = 0.0
        scaler = StandardScaler().fit(values)
        mean = np.asarray(scaler.mean_, dtype=np.float64)
        scale = np.sqrt(np.asarray(scaler.var_, dtype=np.float64))
        # Wider than scikit-learn's own rule: rounding must not become a feature.
        constant = scale <= 1e-12 * np.maximum(1.0, np.abs(mean))
        return cls(observations.names, mean, np.where(constant, 1.0, scale))

    def transform(self, observations: Observations) -> FloatArray:
        """Return (N, F) standardised values of this standardiser's fields, in its order.

        NaN becomes 0, the training mean. Raises ``HiddenFieldError`` when the observations'
        protocol hides a field that was trained on.
        """
        values = (observations.take(self.names).values - self.mean) / self.scale
        return np.where(np.isfinite(values), values, 0.0)


def _make_hidden_error(name: str, protocol: DecisionProtocol) -> HiddenFieldError:
    return HiddenFieldError(
        f"protocol {protocol!r} hides field {name!r}: decide under protocol "
        f"{FIELDS[name].protocol!r}, which shows it and bills it"
    )
