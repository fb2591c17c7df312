"""What each chart holds, of a run made by hand."""

from dataclasses import replace

import pytest

from reports.charts import CHARTS, direct_data, latency_data, memory_data, overhead_data, residual_data, startup_data
from reports.rows import MAX_POINTS
from reports.trust import TRUST, controls_data, dose_data, floor_data
from reports.view import LANE_WORDS

ALL = [chart for charts in CHARTS.values() for chart in charts] + list(TRUST)


def rows_of(chart):
    return [row for panel in chart.panels for row in panel.rows]


def labels(panel):
    return [row.label for row in panel.rows]


def test_startup_shows_every_sample_with_the_baseline_first_and_subjects_only(rich):
    native, tcg = startup_data(rich).panels
    assert labels(native) == ["process", "container", "bwrap", "runc", "nspawn"]
    assert native.rows[0].tag == "baseline"
    assert all(len(row.marks[0].points) == 100 for row in native.rows if not row.missing)
    assert native.rows[1].marks[0].low < native.rows[1].marks[0].value < native.rows[1].marks[0].high
    assert labels(tcg) == ["vm"]


def test_an_unsupported_cell_keeps_its_row_and_has_no_mark(rich):
    nspawn = startup_data(rich).panels[0].rows[-1]
    assert nspawn.missing
    assert nspawn.text == "unsupported: not_installed"


def test_a_failed_cell_keeps_its_row_and_partly_failed_ones_say_so(rich):
    buffered = [row for row in rows_of(CHARTS["storage"][1](rich)) if row.label == "runc" and row.missing]
    assert [row.text for row in buffered] == ["failed: exited_early"]
    assert startup_data(rich).panels[1].rows[0].text.endswith("3 not ok")


@pytest.mark.parametrize("data", ALL, ids=lambda data: data.__name__)
def test_emulated_lanes_never_share_a_panel_and_say_what_they_are(rich, data):
    for panel in data(rich).panels:
        emulated = any(row.label.startswith("vm") for row in panel.rows) or "TCG" in panel.title
        assert (panel.lane == LANE_WORDS["tcg"]) == emulated


def test_kvm_shares_axes_with_native(rich):
    def moved(cell):
        return replace(cell, key=replace(cell.key, lane="kvm")) if cell.key.backend == "vm" else cell

    (panel,) = startup_data(replace(rich, cells=tuple(map(moved, rich.cells)))).panels
    assert "vm" in labels(panel)
    assert panel.title == "Native and KVM"


def test_a_lane_nobody_knows_stands_alone(rich):
    def moved(cell):
        return replace(cell, key=replace(cell.key, lane="warp")) if cell.key.backend == "vm" else cell

    panels = startup_data(replace(rich, cells=tuple(map(moved, rich.cells)))).panels
    assert [bool(panel.lane) for panel in panels] == [False, True]


def test_memory_has_three_ledgers_for_each_backend_and_the_slope_with_its_interval(rich):
    native = memory_data(rich).panels[0]
    assert [row.label for row in native.rows[:4]] == [
        "process", "memory cgroup", "sum of PSS", "fall of MemAvailable",
    ]  # fmt: skip
    ledger = rich.ledgers[0]
    mark = native.rows[3].marks[0]
    assert (mark.value, mark.low, mark.high) == (
        ledger.available_slope, ledger.available_interval.low, ledger.available_interval.high,
    )  # fmt: skip


def test_the_residual_has_an_axis_with_zero_and_a_table_of_ledgers(rich):
    chart = residual_data(rich)
    assert all(not panel.axis.log and panel.axis.reference == 0.0 for panel in chart.panels)
    assert len(chart.table.rows) == len(rich.ledgers)


def test_overhead_holds_comparable_ratios_the_noise_floor_and_one_line(rich):
    chart = overhead_data(rich)
    rows = {row.label: row for row in rows_of(chart)}
    assert len(rows) == 11
    assert [mark.role for mark in rows["getppid"].marks] == ["container", "runtime", "runtime"]
    floor = next(f.floor for f in rich.floors if f.key.metric == "getppid")
    assert rows["getppid"].band == (1 / (1 + floor), 1 + floor)
    assert all(panel.axis.reference == 1.0 for panel in chart.panels)
    assert chart.panels[0].axis.reach == chart.panels[1].axis.reach


def test_a_backend_has_the_same_shape_in_both_syscall_charts(rich):
    legends = [panel.legend for chart in (overhead_data(rich), latency_data(rich)) for panel in chart.panels]
    shapes = {(label, shape) for legend in legends for _, shape, label in legend}
    assert len({label for label, _ in shapes}) == len(shapes) == len({shape for _, shape in shapes})


def test_storage_keeps_direct_and_buffered_apart_on_axes_from_zero(rich):
    chart = direct_data(rich)
    assert len(chart.panels) == 8
    assert all("direct" in panel.key and not panel.axis.log for panel in chart.panels)
    assert "not a physical one" in chart.reading


def test_twin_and_control_have_a_chart_of_their_own(rich):
    assert len(controls_data(rich).panels) == 4
    for charts in CHARTS.values():
        for data in charts:
            assert not any("twin" in row.label or "control" in row.label for row in rows_of(data(rich)))


def test_floor_shows_the_margin_and_dose_what_was_put_in(rich):
    ready = next(row for row in rows_of(floor_data(rich)) if row.label == "ready")
    assert ready.band == (1 / 1.1, 1.1)
    doses = {row.label: row for row in rows_of(dose_data(rich))}
    missed = next(row for label, row in doses.items() if label.startswith("stat"))
    assert missed.marks[0].target == 0.1
    assert missed.text.endswith("missed")


def test_many_samples_are_thinned_and_the_caption_says_so(make):
    chart = startup_data(make(repeats=40))
    marks = [row.marks[0] for row in rows_of(chart) if row.marks]
    assert {len(mark.points) for mark in marks} == {MAX_POINTS}
    assert "4,000 samples" in chart.reading
    assert "the smallest and the largest kept" in chart.reading


@pytest.mark.parametrize("data", ALL, ids=lambda data: data.__name__)
def test_an_empty_run_has_no_panels(empty, data):
    assert data(empty).panels == ()


@pytest.mark.parametrize("data", ALL, ids=lambda data: data.__name__)
def test_panels_have_keys_of_their_own(rich, data):
    keys = [panel.key for panel in data(rich).panels]
    assert len(set(keys)) == len(keys)
    assert all(key.replace("-", "").replace("_", "").isalnum() for key in keys)


def test_a_cell_without_an_interval_says_so_by_its_mark(rich):
    def bare(cell):
        return replace(cell, interval=None, note="under 8 blocks")

    marks = [
        row.marks[0] for row in rows_of(startup_data(replace(rich, cells=tuple(map(bare, rich.cells))))) if row.marks
    ]
    assert all(mark.low is None and mark.high is None for mark in marks)
