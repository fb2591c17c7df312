import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from results import statistics as rs

figures = arrays(np.float64, st.integers(8, 40), elements=st.floats(0.5, 2.0))


@given(figures, st.randoms(use_true_random=False))
def test_swapping_the_sides_turns_the_ratio_round(values, rng):
    other = np.array(rng.choices(values.tolist(), k=values.size))
    there, back = rs.log_ratios(values, other), rs.log_ratios(other, values)
    assert np.allclose(there, -back)
    assert math.isclose(float(np.median(there)), -float(np.median(back)), abs_tol=1e-12)


@given(figures, st.floats(0.01, 100))
def test_units_do_not_matter(values, factor):
    other = values[::-1].copy()
    assert np.allclose(rs.log_ratios(values, other), rs.log_ratios(values * factor, other * factor))


@given(figures)
def test_the_interval_holds_the_median_and_lies_within_the_data(values):
    interval = rs.median_interval(values)
    assert values.min() - 1e-12 <= interval.low <= np.median(values) + 1e-12
    assert np.median(values) - 1e-12 <= interval.high <= values.max() + 1e-12


def test_no_ratio_of_what_is_not_positive():
    assert rs.log_ratios(np.array([1.0, 0.0]), np.array([1.0, 1.0])) is None


def test_no_interval_under_eight_blocks_and_no_tests_under_twenty():
    values = np.linspace(1, 2, 20)
    assert rs.median_interval(values[:7]) is None
    assert rs.median_interval(values[:8]) is not None
    assert rs.summarise(values[:19], margin=0.1).p_difference is None
    assert rs.summarise(values, margin=0.1).p_difference is not None


@pytest.mark.parametrize("noise", ["normal", "heavy"])
@pytest.mark.parametrize("blocks", [8, 20])
def test_intervals_cover_as_they_claim(noise, blocks):
    """Of 600 simulated runs; 93 to 98 % is where 95 % and this many simulations leave room for chance."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(600):
        values = rng.normal(0, 1, blocks) if noise == "normal" else rng.standard_t(3, blocks)
        interval = rs.median_interval(values)
        held += interval.low <= 0 <= interval.high
    assert 0.93 <= held / 600 <= 0.98


def test_equal_things_are_rarely_called_different_and_mostly_equivalent():
    rng = np.random.default_rng(6)
    runs = [rng.normal(0, 0.02, 24) for _ in range(400)]
    alarms = sum(rs.difference_p(run) <= 0.05 for run in runs)
    same = sum(rs.equivalence_p(run, math.log1p(0.05)) <= 0.05 for run in runs)
    assert alarms <= 31  # the 99 % point of a binomial of 400 draws at 5 %
    assert same >= 0.8 * 400


def test_a_real_difference_is_found_and_not_called_equivalent():
    rng = np.random.default_rng(7)
    runs = [rng.normal(math.log(1.2), 0.05, 24) for _ in range(50)]
    assert all(rs.difference_p(run) <= 0.05 for run in runs)
    assert not any(rs.equivalence_p(run, math.log1p(0.1)) <= 0.05 for run in runs)


def test_the_stated_detectable_effect_is_found_about_four_times_in_five():
    rng = np.random.default_rng(8)
    spread, blocks = 0.1, 30
    effects = [rs.detectable_effect(rng.normal(0, spread, blocks)) for _ in range(100)]
    effect = math.log1p(float(np.median(effects)))
    found = sum(rs.difference_p(rng.normal(effect, spread, blocks)) <= 0.05 for _ in range(300))
    assert 0.7 <= found / 300 <= 0.92


def test_dependent_blocks_are_diagnosed_and_count_as_fewer():
    rng = np.random.default_rng(9)
    walk = [0.0]
    for _ in range(39):
        walk.append(0.9 * walk[-1] + rng.normal())
    summary = rs.summarise(np.array(walk), margin=0.1)
    assert summary.autocorrelation > 0.4
    assert summary.effective < 20
    independent = rs.summarise(np.array(rng.permutation(walk)), margin=0.1)
    width = summary.interval.high - summary.interval.low
    assert width > independent.interval.high - independent.interval.low


def test_more_blocks_are_needed_for_a_smaller_effect():
    values = np.random.default_rng(10).normal(0, 0.1, 20)
    visible = rs.detectable_effect(values)
    assert rs.blocks_needed(values, visible) == 20
    assert 60 < rs.blocks_needed(values, math.expm1(math.log1p(visible) / 2)) < 90


@pytest.mark.parametrize("correlation", [0.3, 0.6])
def test_dependent_blocks_raise_few_false_alarms(correlation):
    """Taken for independent, blocks correlated by 0.6 would raise an alarm in one of four runs."""
    rng = np.random.default_rng(12)
    alarms = 0
    for _ in range(300):
        series = [rng.normal()]
        for _ in range(23):
            series.append(correlation * series[-1] + math.sqrt(1 - correlation**2) * rng.normal())
        alarms += rs.difference_p(np.array(series)) <= 0.05
    assert alarms <= 28  # the 99.9 % point of a binomial of 300 draws at 5 %


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_of_an_effect_does_not_change_what_is_said_of_it(sign):
    values = sign * np.random.default_rng(13).normal(0.08, 0.1, 24)
    assert rs.difference_p(values) == pytest.approx(rs.difference_p(-values), rel=0.2)
    assert rs.equivalence_p(values, 0.1) == pytest.approx(rs.equivalence_p(-values, 0.1), rel=0.2)
    (low, high), (back_low, back_high) = ((i.low, i.high) for i in map(rs.median_interval, (values, -values)))
    assert (low, high) == pytest.approx((-back_high, -back_low), abs=0.005)


def test_interval_and_test_agree():
    rng = np.random.default_rng(14)
    for shift in np.linspace(0, 0.12, 40):
        values = rng.normal(shift, 0.1, 24)
        interval = rs.median_interval(values)
        if rs.difference_p(values) < 0.05:
            assert interval.low > 0 or interval.high < 0
        within = rs.median_interval(values, level=0.9)
        if rs.equivalence_p(values, 0.1) < 0.05:
            assert within.low > -0.1
            assert within.high < 0.1


def test_holm_adjusts_as_in_a_worked_example():
    assert rs.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert rs.holm([0.6, 0.9]) == (1.0, 1.0)
    assert rs.holm([]) == ()


def test_a_family_too_large_for_its_blocks_is_known_beforehand():
    assert rs.can_reject(20, 100)
    assert not rs.can_reject(20, 10**6)
    assert not rs.can_reject(19, 1)


def test_a_slope_resists_an_outlier_and_has_its_interval():
    n = np.array([4.0, 8, 12, 16, 20] * 4)
    falls = 1000 * n + np.random.default_rng(11).normal(0, 200, n.size)
    falls[3] += 1e6
    slope = rs.slope(np.arange(n.size), n, falls)
    assert slope.interval.low < 1000 < slope.interval.high
    assert abs(slope.slope - 1000) < 30
    assert rs.slope(np.arange(3), np.array([4.0, 4, 4]), np.array([1.0, 2, 3])) is None


def test_ratio_interval_of_paired_figures():
    ours = [2.0 + 0.01 * step for step in range(10)]
    ratio, interval = rs.ratio_interval(ours, [1.0] * 10)
    assert ratio == pytest.approx(math.sqrt(2.04 * 2.05))
    assert interval.low < ratio < interval.high
    with pytest.raises(ValueError, match="above zero"):
        rs.ratio_interval([0.0] * 8, [1.0] * 8)


def test_a_p_value_is_two_sided_and_no_smaller_than_a_sign_test_s():
    values = 1 + 0.1 * np.random.default_rng(18).uniform(-1, 1, 24)
    assert rs.difference_p(values) == pytest.approx(rs.smallest_p(24))
    assert rs.difference_p(np.zeros(24)) == 1.0


@pytest.mark.parametrize("sizes", [(7, 7, 6), (3, 3, 2)])
def test_a_spread_borrowed_from_other_groups_covers(sizes):
    rng = np.random.default_rng(15)
    held = 0
    for _ in range(400):
        groups = [rng.normal(0, 1, size) for size in sizes]
        residuals = np.concatenate([group - np.median(group) for group in groups])
        interval = rs.shared_spread_interval(groups[0], residuals, len(groups))
        held += interval.low <= 0 <= interval.high
    assert 0.92 <= held / 400 <= 0.985
    assert rs.shared_spread_interval(np.zeros(2), residuals, len(groups)) is None


def test_an_offset_of_a_block_drops_out_of_a_slope_within_blocks():
    rng = np.random.default_rng(16)
    blocks, n = np.repeat(np.arange(12), 2), np.tile([4.0, 20.0], 12)
    falls = 1000 * n + 1e6 * rng.normal(0, 1, 12)[blocks] + rng.normal(0, 50, 24)
    slope = rs.slope(blocks, n, falls)
    assert slope.interval.low < 1000 < slope.interval.high
    assert slope.interval.high - slope.interval.low < 20


def test_a_slope_over_many_points_is_the_slope_still():
    rng = np.random.default_rng(17)
    blocks = np.arange(20_000)
    n = rng.choice([4.0, 8, 12, 16, 20], 20_000)
    slope = rs.slope(blocks, n, 1000 * n + rng.normal(0, 2000, 20_000))
    assert slope.interval.low < 1000 < slope.interval.high
    assert slope.slope == pytest.approx(1000, rel=0.05)
