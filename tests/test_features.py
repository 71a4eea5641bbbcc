"""Names, what each protocol shows, and standardisation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lattice_cases import World, build, build_hand_lattice, get_paths, record

from routerlib.benchmarks.problem_features import PROBLEM_FEATURES
from routerlib.costs import Lens
from routerlib.errors import HiddenFieldError
from routerlib.features import (
    FEATURE_SETS,
    FIELDS,
    PROTOCOLS,
    Observations,
    Standardiser,
    check_protocol,
    get_feature_names,
    is_visible,
)
from routerlib.lattice import add_spending

LENS = Lens("toy", "tokens", np.array([[1.0, 0.0, 1.0], [3.0, 0.0, 3.0]]))


def test_every_problem_feature_is_a_field() -> None:
    names = [name for name in FIELDS if name.startswith("problem_")]
    assert names == [*(f"problem_{name}" for name in PROBLEM_FEATURES), "problem_small_logprob"]


def test_every_field_says_what_it_is() -> None:
    for name, field in FIELDS.items():
        assert field.name == name
        assert field.unit
        assert field.meaning
        assert field.protocol in PROTOCOLS
        if name.startswith(("probe_", "draft_", "judge_")):
            assert field.protocol == name.split("_")[0]
        elif name == "problem_small_logprob":  # of the prefill that a probe pays for
            assert (field.protocol, field.group) == ("probe", "problem")
        elif field.group == "spending":
            assert field.protocol == name.rpartition("_")[2]
        else:
            assert field.protocol == "before"


def test_a_later_protocol_shows_all_that_an_earlier_one_does() -> None:
    shown = [{n for n, f in FIELDS.items() if is_visible(f, p)} for p in PROTOCOLS]
    assert shown[0] < shown[1] < shown[2] < shown[3] == set(FIELDS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_observations_hold_visible_columns_only(protocol: str) -> None:
    lattice = build_hand_lattice()
    for billed in PROTOCOLS:
        lattice = add_spending(lattice, LENS, billed, budget=100.0)
    seen = lattice.observe(protocol)
    assert seen.names == tuple(n for n, f in FIELDS.items() if is_visible(f, protocol))
    assert seen.values.shape == (6, len(seen.names))
    for name, field in FIELDS.items():
        if is_visible(field, protocol):
            assert seen.column(name).shape == (6,)
        else:
            with pytest.raises(
                HiddenFieldError,
                match=f"'{protocol}' hides field '{name}'.*under protocol '{field.protocol}'",
            ):
                seen.column(name)


def test_hidden_data_permuted_changes_no_observation() -> None:
    """Shuffle what the small model would write and how sure it is: before it is chosen, nothing
    of that is seen."""
    world = World(0, end_share=0.0)
    tables = record(world, ["a", "b", "c"], 2, merge=True)
    lattice = build(tables, world.model_ids, 2)
    small_tail = (pl.col("kind") == "tail") & (pl.col("model_id") == "m0")
    columns = ("token_logprobs", "first_token_logprobs", "completion_tokens")
    hidden = tables.steps.with_columns(
        pl.when(small_tail).then(pl.col(column).reverse()).otherwise(pl.col(column))
        for column in columns
    )
    other = build(replace(tables, steps=hidden), world.model_ids, 2)
    np.testing.assert_array_equal(lattice.observe("before").values, other.observe("before").values)
    for protocol in ("probe", "draft"):
        one, two = lattice.observe(protocol), other.observe(protocol)
        assert not np.array_equal(one.values, two.values)
    rng = np.random.default_rng(0)
    for protocol in PROTOCOLS:
        fields = {
            name: values if is_visible(FIELDS[name], protocol) else rng.permutation(values)
            for name, values in lattice.fields.items()
        }
        shuffled = replace(lattice, fields=fields)
        np.testing.assert_array_equal(
            shuffled.observe(protocol).values, lattice.observe(protocol).values
        )


# Columns of a recorded step, by the protocol that shows them where the model was not chosen.
SHOWN_BY_PROBE = ("first_token_texts", "first_token_logprobs")
SHOWN_BY_DRAFT = ("text", "token_logprobs", "completion_tokens")


@pytest.mark.parametrize(
    ("changed", "unmoved"),
    [(SHOWN_BY_DRAFT, ("before", "probe")), ((*SHOWN_BY_PROBE, *SHOWN_BY_DRAFT), ("before",))],
)
def test_what_the_small_model_would_have_written_stays_hidden(
    changed: tuple[str, ...], unmoved: tuple[str, ...]
) -> None:
    """On paths of the large model alone nothing but a probe or a draft says what the small model
    would have done, neither here nor at the steps before; what was paid says nothing of it too."""
    world = World(3, end_share=0.0)
    tables = record(world, ["a", "b", "c"], 3, merge=True)
    small = pl.col("model_id") == "m0"
    scrambled = tables.steps.with_columns(
        pl.when(small).then(pl.col(column).reverse()).otherwise(pl.col(column))
        for column in changed
    )
    lattices = [build(t, world.model_ids, 3) for t in (tables, replace(tables, steps=scrambled))]
    own = np.array([0 not in path for path in get_paths(lattices[0])])
    for protocol in PROTOCOLS:
        one, other = (
            add_spending(lattice, LENS, protocol, budget=50.0).observe(protocol).rows(own)
            for lattice in lattices
        )
        assert one.names == other.names
        assert f"spent_{protocol}" in one.names
        same = np.array_equal(one.values, other.values, equal_nan=True)
        assert same == (protocol in unmoved), protocol


def test_what_the_judge_thinks_stays_hidden() -> None:
    """Other scores, prompts and answers of the judge change only what ``judge`` shows, what was
    paid on the way included."""
    world = World(3, end_share=0.0)
    tables = record(world, ["a", "b", "c"], 3, merge=True)
    assert tables.judgements is not None
    scores = pl.col("score").reverse()
    changes = [{"score": scores}, {"prompt_tokens": pl.col("prompt_tokens") + 7}]
    for changed in changes:
        judgements = tables.judgements.with_columns(**changed)
        other = build(replace(tables, judgements=judgements), world.model_ids, 3)
        lattice = build(tables, world.model_ids, 3)
        for protocol in PROTOCOLS:
            one, two = (
                add_spending(each, LENS, protocol, budget=50.0).observe(protocol)
                for each in (lattice, other)
            )
            assert one.names == two.names
            assert ("judge_usefulness" in one.names) == (protocol == "judge")
            same = np.array_equal(one.values, two.values, equal_nan=True)
            assert same == (protocol != "judge")
            assert np.array_equal(lattice.ledger[protocol], other.ledger[protocol]) == (
                protocol != "judge" or "score" in changed
            )
    with pytest.raises(HiddenFieldError, match="under protocol 'judge', which shows it and bills"):
        lattice.observe("draft").column("judge_usefulness")


def test_observations_refuse_hidden_columns_and_wrong_shapes() -> None:
    with pytest.raises(HiddenFieldError):
        Observations(("depth", "probe_entropy"), np.zeros((3, 2)), "before")
    with pytest.raises(ValueError, match="for 2 names"):
        Observations(("depth", "share_large"), np.zeros((3, 1)), "before")
    seen = build_hand_lattice().observe("probe")
    with pytest.raises(KeyError, match="no field 'mood'"):
        seen.column("mood")
    with pytest.raises(HiddenFieldError):
        seen.take(("depth", "draft_tokens"))


def test_taking_columns_and_rows() -> None:
    seen = build_hand_lattice().observe("draft")
    part = seen.take(("draft_tokens", "depth"))
    assert part.names == ("draft_tokens", "depth")
    np.testing.assert_array_equal(part.values[:, 1], seen.column("depth"))
    some = seen.rows(np.array([2, 0]))
    assert len(some) == 2
    np.testing.assert_array_equal(some.values, seen.values[[2, 0]])
    assert seen.take(()).values.shape == (6, 0)
    with pytest.raises(KeyError):
        part.column("share_large")


def test_fields_that_no_node_has_recorded() -> None:
    values = np.array([[np.nan, 1.0, np.nan], [np.nan, np.nan, np.inf]])
    seen = Observations(("last_mean_logprob", "depth", "min_logprob"), values, "before")
    assert seen.list_recorded() == ("depth",)
    assert seen.rows(np.array([1])).list_recorded() == ()


def test_what_a_policy_learns_from_unless_told_otherwise() -> None:
    names = ("draft_std_logprob", "mean_logprob", "depth", "min_logprob")
    values = np.array([[1.0, np.nan, 2.0, -1.0], [1.0, np.nan, 2.0, np.nan]])
    seen = Observations(names, values, "draft")
    assert seen.take_inputs().names == ("depth", "min_logprob")  # of the default set, recorded
    chosen = ("draft_std_logprob", "mean_logprob")
    assert seen.take_inputs(chosen).names == chosen
    with pytest.raises(HiddenFieldError, match="hides field 'probe_entropy'"):
        Observations(("depth",), np.zeros((2, 1)), "before").take_inputs(("probe_entropy",))


# Trained policies and the tracked figures depend on these names and their order.
DEFAULT = (
    *(f"problem_{name}" for name in PROBLEM_FEATURES),
    *("problem_small_logprob", "depth", "steps_tokens", "last_author_large", "share_large"),
    *("last_tokens", "n_digits_last", "n_operators_last", "repeats_last", "last_mean_logprob"),
    *("last_min_logprob", "mean_logprob", "min_logprob", "probe_entropy", "probe_margin"),
    *("probe_top_logprob", "draft_mean_logprob", "draft_min_logprob", "draft_tokens"),
    *("draft_n_digits", "draft_is_answer", "draft_repeats", "judge_usefulness"),
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_default_set_stays_as_it_is(protocol: str) -> None:
    expected = tuple(name for name in DEFAULT if is_visible(FIELDS[name], protocol))
    assert get_feature_names("default", protocol) == expected


def test_feature_sets() -> None:
    for protocol in PROTOCOLS:
        every = get_feature_names("all", protocol)
        assert every == build_hand_lattice().observe(protocol).names
        assert set(get_feature_names("default", protocol)) < set(every)
        without = get_feature_names("no_logprobs", protocol)
        sure = get_feature_names("confidence_only", protocol)
        assert set(without) | set(sure) == set(every)
        assert not set(without) & set(sure)
        assert set(get_feature_names("position_only", protocol)) < set(without)
    no_logprobs = get_feature_names("no_logprobs", "draft")
    assert not any("logprob" in n or "entropy" in n or "margin" in n for n in no_logprobs)
    assert {n for n in no_logprobs if n.startswith("probe_")} == {"probe_disagrees_last"}
    assert "depth" in get_feature_names("position_only", "before")
    assert "probe_entropy" in get_feature_names("confidence_only", "probe")
    assert "judge_usefulness" in get_feature_names("confidence_only", "judge")
    assert "problem_small_logprob" in get_feature_names("confidence_only", "probe")
    assert len({get_feature_names(name, "draft") for name in FEATURE_SETS}) == len(FEATURE_SETS)
    with pytest.raises(ValueError, match="unknown feature set 'best'"):
        get_feature_names("best", "draft")
    with pytest.raises(ValueError, match="unknown protocol 'guess'"):
        check_protocol("guess")


def test_a_field_of_a_lens_says_where_it_comes_from() -> None:
    lattice = build_hand_lattice()
    with pytest.raises(KeyError, match="'spent_before' needs a lens: add it with"):
        lattice.observe("before").column("spent_before")
    with pytest.raises(HiddenFieldError):
        add_spending(lattice, LENS, "draft").observe("probe").column("spent_draft")


def observe(values: list[list[float]], names: tuple[str, ...]) -> Observations:
    return Observations(names, np.array(values), "before")


def test_standardiser_by_hand() -> None:
    names = ("depth", "steps_tokens", "share_large")
    train = observe([[0, 5, np.nan], [2, 5, 1], [4, 5, 3]], names)
    standardiser = Standardiser.fit(train)
    assert standardiser.names == names
    assert standardiser.mean.tolist() == [2, 5, 2]
    np.testing.assert_allclose(standardiser.scale, [np.sqrt(8 / 3), 1, 1])
    # constant fields become 0, unknown values the mean, and columns are found by name
    other = observe(
        [[1, 6, 2, 9], [np.nan, 5, 2, 9]], ("share_large", "steps_tokens", "depth", "last_tokens")
    )
    np.testing.assert_allclose(standardiser.transform(other), [[0, 1, -1], [0, 0, 0]])


def test_standardiser_of_a_column_that_was_never_recorded() -> None:
    standardiser = Standardiser.fit(observe([[np.nan], [np.nan]], ("min_logprob",)))
    assert (standardiser.mean.tolist(), standardiser.scale.tolist()) == ([0], [1])


def test_standardiser_refuses_a_protocol_that_hides_its_fields() -> None:
    lattice = build_hand_lattice()
    standardiser = Standardiser.fit(lattice.observe("probe"))
    assert standardiser.transform(lattice.observe("draft")).shape == (6, len(standardiser.names))
    with pytest.raises(HiddenFieldError, match="problem_small_logprob"):
        standardiser.transform(lattice.observe("before"))


@given(arrays(np.float64, (7, 2), elements=st.floats(-1e3, 1e3)))
def test_standardised_training_data_have_mean_0_and_deviation_1_or_0(values: np.ndarray) -> None:
    train = Observations(("depth", "steps_tokens"), values, "before")
    standardiser = Standardiser.fit(train)
    found = standardiser.transform(train)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=1e-3)
    for column in found.T:
        assert column.std() == pytest.approx(1.0, abs=1e-6) or np.ptp(column) < 1e-6
