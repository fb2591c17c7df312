"""A small real run over process, container and VM, as a user types it, and what is left of runs that end badly."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.journal import journal_folder
from results.schema import COLUMNS, LANES, REGISTRY, ROLES, STATUSES, metrics_of

TARE = [sys.executable, "-m", "bench.cli"]
BACKENDS = ("process", "container", "vm")
WORKLOADS = ("startup", "syscalls", "memory", "storage")
WAIT_S = 120

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="containers and VMs need root"),
]


def tare(*words, **options):
    return subprocess.run(
        [*TARE, *map(str, words)], capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, **options
    )


def remains(out):
    """What runs below `out` left on the machine: processes, mounts, groups, folders, each as text."""
    found = [str(path) for path in journal_folder().iterdir() if path.name != "lock"]
    for run in (path.name for path in out.iterdir() if path.is_dir() and not path.is_symlink()):
        found += [line for line in Path("/proc/mounts").read_text().splitlines() if run in line]
        found += [str(path) for path in Path("/var/tmp").glob(f"*{run}*")]
        found += [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if run in folder]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if run.encode() in (process / "environ").read_bytes() + (process / "cmdline").read_bytes():
                    found.append(f"{process.name}: {(process / 'cmdline').read_bytes()!r}")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # ended meanwhile; or a process that even root may not look into, which is none of ours
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    words = [word for name in BACKENDS for word in ("--backend", name)]
    done = tare("run", "--blocks", 2, "--seed", 7, "--out", out, *words)
    assert done.returncode in (0, 1), done.stderr  # 1: a busy host may spoil a loop, which its row then says
    return (out / "latest").resolve(), done


@pytest.fixture(scope="module")
def frame(run):
    return pq.read_table(run[0] / "samples.parquet").to_pandas()


def test_the_run_folder_holds_what_is_promised_and_names_the_report(run):
    path, done = run
    names = {entry.name for entry in path.iterdir()}
    assert {"manifest.json", "samples.parquet", "benchmark.json", "report.html", "logs"} <= names
    assert f"report: {path / 'report.html'}" in done.stdout
    assert "seed 7" in done.stderr


def test_columns_and_their_types_are_the_fixed_ones(run, frame):
    schema = pq.read_schema(run[0] / "samples.parquet")
    assert tuple(schema.names) == COLUMNS
    types = {name: str(schema.field(name).type) for name in COLUMNS}
    assert {types.pop("block"), types.pop("position")} == {"int32"}
    assert (types.pop("value"), types.pop("t_ns")) == ("double", "int64")
    assert set(types.values()) == {"string"}
    assert set(frame["status"]) <= set(STATUSES)
    assert set(frame["role"]) == set(ROLES)
    assert set(frame["lane"]) <= set(LANES)
    assert (frame["value"].notna() == (frame["status"] == "ok")).all()
    units = {pair: metric.unit for pair, metric in REGISTRY.items()}
    assert all(units[row.workload, row.metric] == row.unit for row in frame.itertuples())


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_backend_measured_every_metric_in_every_block(frame, workload):
    """A row for each; what a busy host spoils is there as `invalid`, with the reason."""
    for backend in BACKENDS:
        rows = frame[(frame["workload"] == workload) & (frame["backend"] == backend) & (frame["role"] == "subject")]
        for metric in metrics_of(workload):
            found = rows[rows["metric"] == metric.name]
            assert set(found["block"]) == {0, 1}, (backend, metric.name)
            bad = found[~found["status"].isin(["ok", "invalid"])]
            assert set(bad["reason"]) <= {"no_tool"}, (backend, metric.name, bad["detail"].tolist())
            assert (found[found["status"] != "ok"]["reason"] != "").all()


def test_the_first_byte_of_a_process_comes_before_a_container_s_and_a_container_s_before_a_vm_s(frame):
    """Not a timing assertion: each does all that the one before does and much more."""
    ready = frame[(frame["metric"] == "ready") & (frame["role"] == "subject")].groupby("backend")["value"].median()
    assert ready["process"] < ready["container"] < ready["vm"]


def test_twin_and_control_stand_in_every_block_and_the_dose_is_named(frame):
    for workload in WORKLOADS:
        for role in ("twin", "control"):
            rows = frame[(frame["workload"] == workload) & (frame["role"] == role)]
            assert set(rows["backend"]) == {"container"}
            assert set(rows["block"]) == {0, 1}
        dosed = frame[(frame["workload"] == workload) & (frame["role"] == "control") & (frame["status"] == "ok")]
        assert any(json.loads(text).get("dose", 0) > 0 for text in dosed["parameters"])


def test_the_manifest_tells_host_lane_parity_and_one_payload(run, frame):
    manifest = json.loads((run[0] / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    assert manifest["seed"] == 7
    assert manifest["host"]["kernel"] == os.uname().release
    backends = {record["backend"]: record for record in manifest["backends"]}
    assert len({record["payload_sha256"] for record in backends.values()}) == 1
    assert re.fullmatch("[0-9a-f]{64}", backends["vm"]["payload_sha256"])
    for name, record in backends.items():
        assert set(frame[frame["backend"] == name]["lane"]) == {record["lane"]}
        assert record["parity"]["kernel"]
    assert backends["container"]["parity"]["boot_id"] == backends["process"]["parity"]["boot_id"]
    assert backends["vm"]["parity"]["boot_id"] != backends["process"]["parity"]["boot_id"]
    assert backends["container"]["parity"]["memory_limit_bytes"] == manifest["plan"]["memory_bytes"]


def test_pytest_benchmark_reads_what_was_stored(run):
    command = Path(sys.executable).with_name("pytest-benchmark")
    done = subprocess.run([command, "compare", run[0] / "benchmark.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "container" in done.stdout


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_the_report_of_the_run_opens_whole_with_the_network_off(run, view, broken_charts, width):
    address = f"file://{run[0]}/report.html"
    view.set_viewport_size({"width": width, "height": 900})
    view.goto(address)
    assert view.said == []
    assert view.asked == [address]
    assert view.locator("svg.chart").count() >= 10
    assert broken_charts(view) == []
    for number in range(1, 16):
        assert view.locator(f"#claim-C{number}").count() == 1


def test_the_run_left_nothing_behind(run):
    assert remains(run[0].parent) == []


def test_a_report_can_be_built_again_elsewhere(run, tmp_path):
    done = tare("report", run[0], "--out", tmp_path / "again.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "again.html").read_text().startswith("<!DOCTYPE html>")


# Ends that nobody planned


def under_way(out, seen, *words):
    """Start a run on a terminal of its own and return once the terminal has shown `seen`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*TARE, "run", "--out", str(out), *words], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    while not re.search(seen, shown):
        assert select.select([ours], [], [], WAIT_S)[0], f"{seen!r} did not show within {WAIT_S} s: {shown!r}"
        shown += os.read(ours, 4096)
    return process, ours


def finish(process, terminal):
    """Drain the terminal until the process has ended."""
    shown = b""
    pidfd = os.pidfd_open(process.pid)
    while True:
        ready = select.select([terminal, pidfd], [], [], WAIT_S)[0]
        assert ready, "the run does not end"
        if terminal in ready:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # EIO: nobody has it open any more
                break
        elif pidfd in ready:
            break
    os.close(pidfd)
    os.close(terminal)
    return process.wait(WAIT_S), shown.decode(errors="replace")


def harness_of(process):
    """The supervisor's child that runs the same command."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if b"bench.cli" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("no harness below the supervisor")


PHASES = {
    "prepare": rb"seed \d+",
    "launch": rb"block 0",
    "vm": rb"startup\s+block \d+\s+vm",
    "memory": rb"memory\s+block \d+",
    "storing": rb"block 1 ",
}


@pytest.mark.parametrize("phase", PHASES)
def test_sigkill_of_the_harness_leaves_nothing(tmp_path, phase):
    process, terminal = under_way(tmp_path, PHASES[phase], "--workload", "startup", "--workload", "memory")
    os.kill(harness_of(process), signal.SIGKILL)
    code, _ = finish(process, terminal)
    assert code == 128 + signal.SIGKILL
    assert remains(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_its_blocks_and_can_be_resumed(tmp_path, number, code):
    words = ("--workload", "startup", "--backend", "process", "--backend", "container", "--blocks", "6", "--seed", "3")
    process, terminal = under_way(tmp_path, rb"block 3 ", *words)
    os.kill(process.pid, number)
    ended, shown = finish(process, terminal)
    assert ended == code
    assert "Traceback" not in shown
    assert remains(tmp_path) == []
    (path,) = (entry for entry in tmp_path.iterdir() if not entry.is_symlink())
    assert json.loads((path / "manifest.json").read_text())["state"] == "partial"
    kept = pq.read_table(path / "samples.parquet").to_pandas()
    assert 1 <= kept["block"].nunique() < 6
    resumed = tare("run", "--resume", path, "--out", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    whole = pq.read_table(path / "samples.parquet").to_pandas()
    assert whole["block"].nunique() == 6
    assert (tmp_path / "latest").resolve() == path
    order = whole.drop_duplicates(["block", "position"]).sort_values(["block", "position"])
    other = tare("run", *words, "--out", tmp_path / "uninterrupted")
    assert other.returncode == 0, other.stderr
    straight = pq.read_table(tmp_path / "uninterrupted/latest/samples.parquet").to_pandas()
    again = straight.drop_duplicates(["block", "position"]).sort_values(["block", "position"])
    assert order[["block", "backend", "role"]].values.tolist() == again[["block", "backend", "role"]].values.tolist()


def test_gc_removes_what_is_left_when_all_of_it_is_killed_at_once(tmp_path):
    process, terminal = under_way(tmp_path, rb"memory\s+block \d+", "--workload", "memory", "--backend", "container")
    harness = harness_of(process)
    launchers = [int(pid) for pid in Path(f"/proc/{harness}/task/{harness}/children").read_text().split()]
    for pid in (process.pid, harness, *launchers):
        os.kill(pid, signal.SIGKILL)
    process.wait(WAIT_S)
    os.close(terminal)
    assert remains(tmp_path) != []
    listed = tare("ps")
    assert "left behind by a crash" in listed.stdout
    done = tare("gc")
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed" in done.stdout
    assert remains(tmp_path) == []


def test_two_runs_at_once_are_refused_naming_the_holder(tmp_path):
    process, terminal = under_way(tmp_path, rb"block 0", "--workload", "startup", "--backend", "process")
    second = tare("run", "--backend", "process", "--out", tmp_path)
    os.kill(process.pid, signal.SIGINT)
    finish(process, terminal)
    assert second.returncode == 2
    assert f"pid {process.pid}" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1


def test_a_payload_that_never_speaks_or_ends_early_or_talks_rubbish_is_a_typed_row(tmp_path):
    """The block goes on; the row holds the status, and the detail the tail of what it said."""
    programs = {
        "early": ("echo dying >&2; exit 3", "failed", "exited_early"),
        "rubbish": ("yes garbage", "failed", "garbage"),
        "hang": ("exec sleep 1000", "timeout", "never_ready"),
    }
    for name, (body, status, reason) in programs.items():
        assets = tmp_path / f"{name}.json"
        payload = tmp_path / name
        payload.write_text(f"#!/bin/sh\n{body}\n")
        payload.chmod(0o755)
        record = json.loads((Path(sys.executable).parents[1] / "tare-assets.json").read_text())
        assets.write_text(json.dumps({**record, "payload": str(payload)}))
        words = ("--workload", "startup", "--backend", "process", "--blocks", 1, "--timeout", 2)
        done = tare("run", *words, "--out", tmp_path / "runs", env={**os.environ, "TARE_ASSETS": str(assets)})
        assert done.returncode == 1, done.stderr
        rows = pq.read_table(tmp_path / "runs/latest/samples.parquet").to_pandas()
        ready = rows[rows["metric"] == "ready"]
        assert set(ready["status"]) == {status}, ready["detail"].tolist()
        assert set(ready["reason"]) == {reason}
        if name == "early":
            assert "dying" in ready["detail"].iloc[0]
        shutil.rmtree(tmp_path / "runs")
