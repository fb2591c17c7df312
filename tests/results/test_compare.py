import json
from dataclasses import replace

import pytest

from results.compare import analyse


@pytest.fixture
def analysed(manifest, table):
    def run(*series):
        samples = [one for part in series for one in part]
        return analyse(manifest(*dict.fromkeys(one.backend for one in samples)), table(samples))

    return run


def comparison(analysis, backend, metric="ready"):
    (found,) = (item for item in analysis.comparisons if (item.key.backend, item.key.metric) == (backend, metric))
    return found


def test_a_known_effect_is_found_at_its_size_and_called(analysed, series):
    found = comparison(analysed(series("process", 1e6), series("container", 3e6)), "container")
    assert found.interval.low < 3 < found.interval.high
    assert found.ratio == pytest.approx(3, rel=0.05)
    assert found.difference == pytest.approx(2e6, rel=0.05)
    assert (found.verdict, found.blocks) == ("slower", 24)


def test_less_time_is_faster_and_less_throughput_is_slower(analysed, series):
    assert comparison(analysed(series("process", 2e6), series("bwrap", 1e6)), "bwrap").verdict == "faster"
    words = {"workload": "storage", "metric": "read_1m_direct"}
    less = analysed(series("process", 2e9, **words), series("bwrap", 1e9, **words))
    assert comparison(less, "bwrap", "read_1m_direct").verdict == "slower"


def test_a_difference_within_the_margin_is_equivalent_even_where_it_is_certain(analysed, series):
    found = comparison(
        analysed(series("process", 1e6, spread=0.001), series("container", 1.02e6, spread=0.001)), "container"
    )
    assert found.interval.low > 1
    assert found.verdict == "equivalent"


def test_noise_is_inconclusive(analysed, series):
    found = comparison(
        analysed(series("process", 1e6, spread=0.6), series("container", 1.1e6, spread=0.6)), "container"
    )
    assert found.verdict == "inconclusive"
    assert found.detectable > 0.2


def test_under_twenty_blocks_there_is_no_verdict_and_the_note_says_so(analysed, series):
    found = comparison(analysed(series("process", 1e6, blocks=19), series("container", 3e6, blocks=19)), "container")
    assert found.verdict is None
    assert "19 blocks" in found.note
    few = comparison(analysed(series("process", 1e6, blocks=7), series("container", 3e6, blocks=7)), "container")
    assert (few.interval, few.verdict) == (None, None)
    assert few.ratio == pytest.approx(3, rel=0.1)


def test_another_lane_gets_a_ratio_with_its_label_and_no_verdict(analysed, series):
    found = comparison(analysed(series("process", 1e6), series("vm", 2e9, lane="tcg")), "vm")
    assert found.ratio == pytest.approx(2000, rel=0.05)
    assert found.verdict is None
    assert "lane tcg" in found.note
    hardware = comparison(analysed(series("process", 1e6), series("vm", 2e9, lane="kvm")), "vm")
    assert hardware.verdict == "slower"


def test_figures_are_paired_by_block(analysed, series):
    """Both drift fivefold together: unpaired, the ratio would drown; a dropped block must not shift the pairs."""

    def drifting(backend, centre):
        return [
            type(one)(**{**{name: getattr(one, name) for name in one.__dataclass_fields__},
                         "value": one.value * 5 ** (one.block / 24)})
            for one in series(backend, centre, spread=0.01)
        ]  # fmt: skip

    ours = [one for one in drifting("container", 2e6) if one.block != 3]
    found = comparison(analysed(drifting("process", 1e6), ours), "container")
    assert found.blocks == 23
    assert 1.95 < found.interval.low < 2 < found.interval.high < 2.05


def test_several_samples_of_a_slot_are_one_block_value(analysed, sample, series):
    slot = [
        sample(backend="container", block=block, value=value, t_ns=index)
        for block in range(24)
        for index, value in enumerate((2e6, 2e6, 90e6))
    ]
    analysis = analysed(series("process", 1e6), slot)
    (cell,) = (cell for cell in analysis.cells if cell.key.backend == "container")
    assert len(cell.points) == 72
    assert {value for _, value in cell.block_values} == {2e6}
    assert cell.quantiles[2][1] > 50e6


def test_the_twin_s_floor_can_only_make_a_verdict_inconclusive(analysed, series):
    steady = (series("process", 1e6), series("container", 1.2e6))
    assert comparison(analysed(*steady), "container").verdict == "slower"
    noisy = series("container", 1.2e6, spread=0.9, role="twin")
    analysis = analysed(*steady, noisy)
    assert analysis.floors[0].floor > 0.2
    found = comparison(analysis, "container")
    assert found.verdict == "inconclusive"
    assert "A/A floor" in found.note


@pytest.mark.parametrize(("workload", "metric", "sign"), [("startup", "ready", 1), ("storage", "write_1m_direct", -1)])
def test_an_injected_dose_is_recovered_whatever_direction_is_better(analysed, series, dose, workload, metric, sign):
    words = {"workload": workload, "metric": metric, "spread": 0.01}
    subject = series("container", 1e6, **words)
    control = []
    for step, size in enumerate((0.1, 0.2, 0.5)):
        dosed = series("container", 1e6 * (1 + size) ** sign, role="control", parameters=dose(size), **words)
        control += [one for one in dosed if one.block % 3 == step]
    analysis = analysed(series("process", 1e6, **words), subject, control)
    assert [item.injected for item in analysis.doses] == [0.1, 0.2, 0.5]
    for item in analysis.doses:
        assert item.blocks == 8
        assert item.agrees
        assert item.recovered == pytest.approx(item.injected, abs=0.03)
    (check,) = (check for check in analysis.checks if check.name.startswith("positive control"))
    assert check.passed
    assert abs(check.value) < 0.2


def test_a_dose_that_was_not_injected_is_not_recovered(analysed, series, dose):
    control = series("container", 1e6, role="control", parameters=dose(0.5))
    analysis = analysed(series("process", 1e6), series("container", 1e6), control)
    assert analysis.doses[0].agrees is False
    assert not analysis.checks[0].passed


def test_ledgers_are_a_slope_and_a_residual_by_the_formula(analysed, series, sample):
    memory = []
    for block in range(10):
        n = (4, 8, 12, 16, 20)[block % 5]
        parameters = json.dumps({"n": n})
        common = {"workload": "memory", "block": block, "parameters": parameters}
        fall = 600_000 * n + 2_000_000  # a fixed cost that a slope leaves out and a division would not
        memory += [
            sample(metric="cgroup", value=500_000.0, **common),
            sample(metric="pss", value=400_000.0, **common),
            sample(metric="available", value=fall / n, **common),
            sample(metric="residual", value=fall / n - 500_000, **common),
        ]
    (ledgers,) = analysed(memory).ledgers
    assert ledgers.n == (4, 8, 12, 16, 20)
    assert ledgers.available_slope == pytest.approx(600_000)
    assert ledgers.residual == pytest.approx(100_000)
    assert (ledgers.cgroup, ledgers.pss) == (500_000, 400_000)


def test_checks_show_the_worst_of_what_was_checked(analysed, sample, series):
    checks = [
        sample(
            workload="checks", metric="payload_clock", block=block, value=value, parameters=f'{{"of":"syscalls/{of}"}}'
        )
        for block in range(3)
        for of, value in (("stat", 0.001), ("pipe", -0.05))
    ]
    (check,) = analysed(series("process", 1e6), checks).checks
    assert (check.name, check.value, check.bound, check.passed) == ("payload_clock", -0.05, 0.02, False)
    assert "syscalls/pipe" in check.detail


def test_a_cell_without_a_figure_stays_with_its_reasons(analysed, sample, series):
    rows = [
        sample(backend="runc", block=block, value=None, status="unsupported", reason="not_installed", detail="no runc")
        for block in range(24)
    ]
    analysis = analysed(series("process", 1e6), rows)
    (cell,) = (cell for cell in analysis.cells if cell.key.backend == "runc")
    assert (cell.median, cell.interval, cell.points) == (None, None, ())
    assert cell.counts == (("unsupported", 24),)
    assert cell.reasons == (("not_installed", "no runc", 24),)
    assert comparison(analysis, "runc").ratio is None


def test_the_answer_is_in_words_only_where_the_data_carry_it(analysed, series):
    sure = analysed(series("process", 1e6), series("container", 3e6), series("vm", 2e9, lane="tcg"))
    assert "adds 2" in sure.sentences[0]
    assert "ms" in sure.sentences[0]
    assert "software emulation" in sure.sentences[1]
    assert analysed(series("process", 1e6, blocks=5), series("container", 3e6, blocks=5)).sentences == ()
    vague = analysed(series("process", 1e6, spread=0.8), series("container", 1.1e6, spread=0.8))
    assert vague.sentences == ()


def test_an_empty_run_is_analysed_to_nothing(manifest, table, sample):
    assert analyse(manifest("process"), table([sample()]).iloc[:0]).cells == ()


def test_the_same_samples_give_the_same_analysis(analysed, series):
    assert analysed(series("process", 1e6), series("container", 3e6)) == analysed(
        series("process", 1e6), series("container", 3e6)
    )


def test_no_equivalence_is_called_where_the_floor_is_above_the_margin(analysed, series):
    steady = (series("process", 1e6, spread=0.001), series("container", 1e6, spread=0.001))
    assert comparison(analysed(*steady), "container").verdict == "equivalent"
    found = comparison(analysed(*steady, series("container", 1e6, spread=0.9, role="twin")), "container")
    assert found.verdict == "inconclusive"
    assert "above the margin" in found.note


def test_the_margin_is_a_ratio(analysed, series):
    """1.1025 is beyond 10 %, though its logarithm is below 0.1."""
    found = comparison(
        analysed(series("process", 1e6, spread=1e-4), series("container", 1.1025e6, spread=1e-4)), "container"
    )
    assert found.verdict == "slower"


@pytest.mark.parametrize("figure", ["p_difference", "p_equivalence"])
def test_p_values_are_adjusted_within_a_workload(analysed, series, figure):
    """The smallest of four counts four times; another workload's tests are another family."""
    centre = 1.5e6 if figure == "p_difference" else 1.0e6
    process, ours = series("process", 1e6), series("container", centre)
    noise = [series(name, 1.05e6, spread=0.5) for name in ("bwrap", "runc", "nspawn")]
    storage = {"workload": "storage", "metric": "read_1m_direct"}
    others = [series("process", 1e9, **storage), series("container", 1e9, **storage)]
    alone = getattr(comparison(analysed(process, ours, *others), "container"), figure)
    among = getattr(comparison(analysed(process, ours, *noise, *others), "container"), figure)
    assert 0 < alone < 0.01
    assert among == pytest.approx(4 * alone)


def test_what_gets_no_verdict_gets_no_p_value_and_no_place_in_a_family(analysed, series):
    process, ours = series("process", 1e6), series("container", 1.5e6)
    emulated = series("vm", 2e9, lane="tcg")
    analysis = analysed(process, ours, emulated)
    found = comparison(analysis, "vm")
    assert (found.p_difference, found.p_equivalence) == (None, None)
    assert comparison(analysis, "container") == comparison(analysed(process, ours), "container")


def test_figures_that_may_be_negative_get_a_difference_and_no_ratio(analysed, series):
    words = {"workload": "memory", "metric": "available"}
    found = comparison(analysed(series("process", 1e5, **words), series("container", 3e5, **words)), "container",
                       "available")  # fmt: skip
    assert (found.ratio, found.verdict) == (None, None)
    assert found.difference == pytest.approx(2e5, rel=0.05)
    assert found.difference_interval.low < 2e5 < found.difference_interval.high


def test_only_the_baseline_s_subject_is_the_baseline(analysed, series):
    twin = series("process", 9e6, role="twin")
    found = comparison(analysed(series("process", 1e6), twin, series("container", 3e6)), "container")
    assert found.ratio == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_floor_is_the_far_end_of_the_twin_s_interval(analysed, series, factor):
    twin = series("container", factor * 1e6, role="twin")
    (floor,) = analysed(series("process", 1e6), series("container", 1e6), twin).floors
    assert floor.ratio == pytest.approx(factor, rel=0.05)
    far = 1 / floor.interval.low if factor < 1 else floor.interval.high
    assert floor.floor == pytest.approx(far - 1)


def test_a_dose_of_few_blocks_borrows_the_spread_of_the_others(analysed, series, dose):
    """As in a quick run: 20 blocks over three doses. Doses told as shares differ a little and are of one level."""
    sizes = (0.1, 0.2, 0.5)
    noise = {"blocks": 20, "spread": 0.01, "seed": 4}
    subject = series("container", 1e6, **noise)
    control = []
    for block, one in enumerate(series("container", 1e6, role="control", **noise)):
        size = sizes[block % 3] + (block // 3 % 3 - 1) * 0.001
        control.append(replace(one, value=one.value * (1 + size), parameters=dose(size)))
    doses = analysed(series("process", 1e6, blocks=20), subject, control).doses
    assert [item.blocks for item in doses] == [7, 7, 6]
    for item, size in zip(doses, sizes, strict=True):
        assert item.injected == pytest.approx(size, abs=5e-4)
        assert item.agrees
        assert item.interval.high - item.interval.low < 0.06


def test_a_positive_control_passes_just_where_it_lies_within_its_bound(analysed, series, dose):
    for seed in range(6):
        subject = series("container", 1e6, spread=0.05, seed=seed)
        control = series("container", 1.1e6, spread=0.05, seed=seed, role="control", parameters=dose(0.2))
        (check,) = analysed(series("process", 1e6), subject, control).checks
        assert check.passed == (abs(check.value) <= check.bound)


def test_only_subjects_are_cross_checked(analysed, series, sample):
    words = {"workload": "checks", "metric": "linearity", "parameters": '{"of":"syscalls/stat"}'}
    rows = [sample(value=0.001, **words), sample(value=0.5, role="control", **words)]
    (check,) = analysed(series("process", 1e6), rows).checks
    assert (check.value, check.passed) == (0.001, True)


def test_rows_of_a_metric_that_this_version_does_not_know_are_left_alone(analysed, series, sample):
    odd = [replace(sample(), workload="teleport", metric="latency")]
    assert analysed(series("process", 1e6), odd).cells == analysed(series("process", 1e6)).cells
