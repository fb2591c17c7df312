from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from bench.workloads.fio import CASES, KINDS, Case, FioError, Toolbox, arguments, parse
from results.schema import metrics_of


def report(side="read", io_bytes=4096, error=0):
    idle = {"io_bytes": 0, "runtime": 0}
    sides = {"read": idle, "write": idle} | {side: {"io_bytes": io_bytes, "runtime": 7}}
    return json.dumps({"fio version": "fio-3.33", "jobs": [{"error": error, **sides}]})


def test_the_cases_are_the_registrys_metrics():
    assert {case.name for case in CASES} == {metric.name for metric in metrics_of("storage")}
    assert {case.kind for case in CASES} == set(KINDS)


def test_a_cases_name_says_what_fio_does():
    words = arguments(Case("randwrite_4k_direct"), 8192, "/mnt/file")
    assert {"--rw=randwrite", "--bs=4k", "--direct=1", "--end_fsync=0", "--io_size=8192"} <= set(words)
    words = arguments(Case("write_1m_buffered"), 1 << 20, "/mnt/file")
    assert {"--rw=write", "--bs=1m", "--direct=0", "--end_fsync=1", "--filename=/mnt/file"} <= set(words)
    assert "--end_fsync=0" in arguments(Case("read_1m_buffered"), 1 << 20, "/mnt/file")


def test_counts_are_whole_blocks_and_at_least_one():
    assert Case("read_1m_direct").whole_blocks(1.6 * (1 << 20)) == 2 << 20
    assert Case("read_1m_direct").whole_blocks(10) == 1 << 20


def test_a_report_is_read_from_the_side_that_the_case_uses_whatever_stands_before_it():
    assert parse(Case("randread_4k_direct"), "fio: a remark\n" + report()).claimed_bytes == 4096
    assert parse(Case("write_1m_direct"), report("write", 1 << 20)).runtime_ms == 7


@pytest.mark.parametrize("stdout", ["", "no json", '{"jobs": []}', '{"jobs": [{"error": 0}]}', report(error=22)])
def test_what_is_no_report_is_refused(stdout):
    with pytest.raises(FioError):
        parse(Case("randread_4k_direct"), stdout)


def test_a_toolbox_is_run_by_its_own_loader_wherever_it_lies(tmp_path):
    for name in ("usr/bin/fio", "lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6", "opt/ceph/libx.so.1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert Toolbox.of(tmp_path).command("/srv") == (
        "/srv/lib64/ld-linux-x86-64.so.2", "--library-path",
        "/srv/lib/x86_64-linux-gnu:/srv/lib64:/srv/opt/ceph", "/srv/usr/bin/fio",
    )  # fmt: skip


def test_a_tree_without_fio_is_named(tmp_path):
    with pytest.raises(FioError, match=r"no fio in .*"):
        Toolbox.of(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_installed_fio_does_what_it_is_told(case, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.workloads.fio.FILE_BYTES", 4 << 20)
    monkeypatch.setattr("bench.workloads.fio.CACHED_BYTES", 4 << 20)
    (tmp_path / "file").write_bytes(bytes(4 << 20))
    command = ["fio", *arguments(case, 2 << 20, str(tmp_path / "file"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if case.mode == "direct" and "Invalid argument" in done.stderr:
        pytest.skip("the temporary folder's file system has no O_DIRECT")
    assert parse(case, done.stdout).claimed_bytes == 2 << 20
    assert (tmp_path / "file").stat().st_size == 4 << 20
