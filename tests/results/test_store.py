import contextlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from results import lines
from results.schema import COLUMNS
from results.store import LINES, MANIFEST, TABLE, Store, StoreError, open_run, run_path

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path, manifest, series):
    made = Store.create(tmp_path, manifest("process"))
    made.append_block(series("process", 1e6, blocks=3))
    return made


@pytest.fixture
def finished(store, manifest):
    store.finish(manifest("process"))
    return store.path


def test_what_was_written_is_read_back(store, manifest, sample):
    odd = sample(value=None, status="failed", reason="oom", detail='<b>"é"</b>')
    store.append_block([odd])
    store.finish(manifest("process"))
    run = open_run(store.path)
    assert run.notes == ()
    assert run.manifest == manifest("process")
    assert len(run.samples) == 4
    last = run.samples.iloc[-1]
    assert (last["status"], last["reason"], last["detail"]) == ("failed", "oom", '<b>"é"</b>')
    assert last["value"] != last["value"]


def test_column_types_are_the_fixed_ones(store, manifest):
    store.finish(manifest("process"))
    schema = pq.read_schema(store.path / TABLE)
    assert tuple(schema.names) == COLUMNS
    types = {name: str(schema.field(name).type) for name in COLUMNS}
    assert (types["block"], types["position"], types["value"], types["t_ns"]) == ("int32", "int32", "double", "int64")


def test_an_unfinished_run_is_readable(store):
    assert len(open_run(store.path).samples) == 3


def test_latest_is_the_newest_finished_run_and_not_a_partial_one(tmp_path, manifest):
    for name, state in (("a", "finished"), ("b", "finished"), ("c", "partial")):
        run = replace(manifest("process"), run_id=name, state=state)
        Store.create(tmp_path, run).finish(run)
    assert run_path("latest", tmp_path).name == "b"
    assert run_path("c", tmp_path).name == "c"
    assert run_path(str(tmp_path / "a"), Path("elsewhere")).name == "a"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_a_store_torn_at_any_byte_is_salvaged_up_to_the_last_whole_record(store, data):
    path = store.path / LINES
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    try:
        run = open_run(store.path)
        tail = whole[:cut].rpartition(b"\n")[2]
        record = bool(tail) and tail.rstrip() in map(bytes.rstrip, whole.split(b"\n"))  # whole but for its newline
        assert len(run.samples) == whole[:cut].count(b"\n") + record
        assert run.lost_bytes == (0 if record else len(tail))
        words = f"{path}: the last {len(tail)} bytes are torn and were left out"
        assert run.notes == ((words,) if run.lost_bytes else ())
    finally:
        path.write_bytes(whole)


def test_a_damaged_line_costs_that_line_alone(store, manifest):
    lines = (store.path / LINES).read_bytes().split(b"\n")
    lines[1] = bytes(len(lines[1]))
    (store.path / LINES).write_bytes(b"\n".join(lines))
    run = open_run(store.path)
    assert list(run.samples["block"]) == [0, 2]
    assert "1 damaged lines" in run.notes[0]
    assert run.lost_bytes == len(lines[1])


def test_a_torn_end_is_cut_off_before_more_is_appended(store, sample):
    with open(store.path / LINES, "ab") as file:
        file.write(b'{"run_id": "r", "backe')
    again = Store.reopen(store.path)
    again.append_block([sample(block=3)])
    assert len(open_run(store.path).samples) == 4
    assert again.finished_blocks() == {("startup", block) for block in range(4)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(data=st.data())
def test_a_block_torn_at_any_byte_is_measured_again_when_resumed(store, sample, data):
    """Also where the tear falls between two of its rows: half a block must not pass for a finished one."""
    path = store.path / LINES
    whole = path.read_bytes()
    block = lines.encode([sample(block=9, backend=name) for name in ("process", "container", "vm")])
    path.write_bytes(whole + block[: data.draw(st.integers(0, len(block) - 1))])
    try:
        assert ("startup", 9) not in Store.reopen(store.path).finished_blocks()
        assert path.read_bytes() == whole
    finally:
        path.write_bytes(whole)


def test_a_resumed_run_shows_what_was_added(store, manifest, sample):
    store.finish(replace(manifest("process"), state="partial"))
    again = Store.reopen(store.path)
    again.append_block([sample(block=3)])
    assert len(open_run(store.path).samples) == 4  # as if killed here: an older Parquet must not hide it
    again.finish(manifest("process"))
    assert len(open_run(store.path).samples) == 4
    assert not (store.path / LINES).exists()


def test_text_that_is_no_utf8_does_not_cost_the_run(store, manifest, sample):
    text = b"caf\xe9".decode("utf-8", "surrogateescape")
    store.append_block([sample(value=None, status="failed", reason="garbage", detail=text)])
    store.finish(manifest("process"))
    assert open_run(store.path).samples["detail"].iloc[-1] == "caf?"


@pytest.mark.parametrize(
    "words",
    [{"value": float("nan")}, {"value": float("inf")}, {"value": None}, {"status": "failed"}],
)
def test_a_value_that_contradicts_its_status_is_refused(store, sample, words):
    before = (store.path / LINES).read_bytes()
    with pytest.raises(ValueError, match="does not go with status"):
        store.append_block([sample(**words)])
    assert (store.path / LINES).read_bytes() == before


def test_invalid_blocks_are_to_be_done_again(store, sample):
    store.append_block([sample(block=9, value=None, status="invalid", reason="suspended", detail="slept")])
    assert ("startup", 9) not in store.finished_blocks()


def test_a_truncated_table_falls_back_on_the_lines_and_says_so(store, manifest):
    store.finish(replace(manifest("process"), state="partial"))
    os.truncate(store.path / TABLE, 100)
    run = open_run(store.path)
    assert len(run.samples) == 3
    assert str(store.path / TABLE) in run.notes[0]
    (store.path / LINES).unlink()
    with pytest.raises(StoreError, match=TABLE) as caught:
        open_run(store.path)
    assert "\n" not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_the_table_never_passes_for_a_measurement(finished, data):
    path = finished / TABLE
    whole = path.read_bytes()
    good = open_run(finished).samples
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
    try:
        with contextlib.suppress(StoreError):  # refused is as good as unharmed
            assert open_run(finished).samples.equals(good)
    finally:
        path.write_bytes(whole)


def test_a_foreign_table_is_refused(finished):
    pq.write_table(pa.table({"value": [1.0]}), finished / TABLE)
    with pytest.raises(StoreError, match="no column run_id"):
        open_run(finished)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not JSON"), ("[]", "schema version"), ('{"schema_version": 99}', "use a newer one"),
     ('{"schema_version": 1}', "not a manifest")],
)  # fmt: skip
def test_a_broken_manifest_is_one_line_that_names_it(store, text, says):
    (store.path / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match=says) as caught:
        open_run(store.path)
    assert str(store.path / MANIFEST) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(StoreError, match="no finished run yet"):
        run_path("latest", tmp_path)
    with pytest.raises(StoreError, match="nowhere: no run of that id"):
        run_path("nowhere", tmp_path)


def test_a_full_disk_leaves_old_files_whole_and_finished_blocks_readable(store):
    """A limit on file size stands for the disk: the kernel refuses the write in the same place."""
    limit = (store.path / LINES).stat().st_size + 50
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from results.store import Store, StoreError, open_run
from dataclasses import replace
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
store = Store(Path({str(store.path)!r}))
run = open_run(store.path)
row = run.samples.iloc[0].to_dict()
from results.schema import Sample
try:
    store.append_block([Sample(**row)])
except StoreError as error:
    print(error)
try:
    store.write_manifest(replace(run.manifest, notes=("x" * {limit},)))
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert [str(store.path / name) in line for name, line in zip((LINES, MANIFEST), said, strict=True)] == [True, True]
    assert all("File too large" in line for line in said)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    run = open_run(store.path)
    assert (len(run.samples), run.notes) == (3, ())
    assert json.loads((store.path / MANIFEST).read_text())["notes"] == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, manifest):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Store.create(tmp_path / "file", manifest("process"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB, really full when it is full."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tare-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_blocks_finished_before_the_disk_was_full_stay_readable(small_disk, manifest, series):
    store = Store.create(small_disk, manifest("process"))
    whole = 0

    def fill():
        nonlocal whole
        while True:
            store.append_block(series("process", 1e6, blocks=10))
            whole += 1

    with pytest.raises(StoreError, match="No space left on device: free space there") as caught:
        fill()
    assert str(store.path / LINES) in str(caught.value)
    with pytest.raises(StoreError, match=TABLE):
        store.finish(manifest("process"))
    with pytest.raises(StoreError, match=MANIFEST):
        store.write_manifest(replace(manifest("process"), notes=("x" * 10_000,)))
    run = open_run(store.path)
    assert whole > 5
    assert (len(run.samples), run.notes, run.manifest.notes) == (10 * whole, (), ())
    assert {file.name for file in store.path.iterdir()} == {LINES, MANIFEST, "logs"}


@pytest.mark.root
def test_a_read_only_disk_is_one_line_and_can_be_read(small_disk, manifest, series):
    store = Store.create(small_disk, manifest("process"))
    store.append_block(series("process", 1e6, blocks=3))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for attempt in (
        lambda: store.append_block(series("process", 1e6, blocks=3)),
        lambda: store.finish(manifest("process")),
        lambda: Store.create(small_disk / "more", manifest("process")),
        lambda: Store.reopen(store.path),
    ):
        with pytest.raises(StoreError, match="Read-only file system: give another place with --out"):
            attempt()
    assert len(open_run(store.path).samples) == 3


def test_a_loss_is_told_in_the_manifest_and_the_lines_stay_for_who_wants_to_look(store, manifest):
    whole = (store.path / LINES).read_bytes().split(b"\n")
    (store.path / LINES).write_bytes(b"\n".join([whole[0], whole[1][:-9], *whole[2:]]))
    store.finish(manifest("process"))
    run = open_run(store.path)
    assert len(run.samples) == 2
    assert "1 damaged lines" in run.manifest.notes[0]
    assert (store.path / LINES).exists()
