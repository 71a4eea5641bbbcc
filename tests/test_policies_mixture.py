"""The posterior of a mixture of confidences, worked by hand and at its edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from routerlib.errors import HiddenFieldError
from routerlib.features import Observations
from routerlib.policies import ConfidenceMixturePolicy, load_policy, save_policy


def make_policy(
    shares: tuple[float, ...] = (0.25, 0.75),
    means: tuple[float, ...] = (0.4, 0.8),
    variances: tuple[float, ...] = (0.04, 0.01),
) -> ConfidenceMixturePolicy:
    return ConfidenceMixturePolicy(
        np.array(shares), np.array(means), np.array(variances), config={"seed": 3}
    )


def observe(confidences: list[float]) -> Observations:
    return Observations(("probe_top_logprob",), np.log(np.array(confidences))[:, None], "probe")


def test_posterior_by_hand() -> None:
    # At 0.6: unsure 0.25 / 0.2 * exp(-0.5), sure 0.75 / 0.1 * exp(-2).
    unsure, sure = 1.25 * np.exp(-0.5), 7.5 * np.exp(-2.0)
    found = make_policy().probabilities(observe([0.6]))
    np.testing.assert_allclose(found, [[sure / (unsure + sure), unsure / (unsure + sure)]])


def test_unsure_steps_go_to_the_large_model() -> None:
    large = make_policy().probabilities(observe([0.2, 0.4, 0.6, 0.8]))[:, 1]
    assert (np.diff(large) < 0.0).all()
    assert large[0] > 0.99
    assert large[-1] < 0.05


def test_an_unknown_confidence_has_the_share_of_the_unsure() -> None:
    observations = Observations(("probe_top_logprob",), np.array([[np.nan]]), "probe")
    assert make_policy().probabilities(observations)[0, 1] == 0.25


def test_it_sees_what_a_probe_shows_only() -> None:
    with pytest.raises(HiddenFieldError, match="probe_top_logprob"):
        make_policy().probabilities(Observations(("depth",), np.zeros((1, 1)), "before"))


def test_policy_file_round_trip(tmp_path: Path) -> None:
    policy, path = make_policy(), tmp_path / "policy.pt"
    save_policy(policy, path)
    loaded = load_policy(path)
    assert isinstance(loaded, ConfidenceMixturePolicy)
    assert (loaded.name, loaded.protocol, loaded.config) == (
        "confidence mixture",
        "probe",
        {"seed": 3},
    )
    seen = observe([0.1, 0.5, 0.9])
    np.testing.assert_array_equal(loaded.probabilities(seen), policy.probabilities(seen))


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("means", (0.8, 0.4), "unsure component comes first"),
        ("means", (0.8,), "two components"),
        ("variances", (0.0, 0.1), "must be > 0"),
        ("shares", (-0.5, 1.5), "must be > 0"),
    ],
)
def test_bad_components_are_named(field: str, values: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(**{field: values})
