"""The build: reproducible, skipped when nothing changed, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from bench.payload import build as module
from bench.payload.build import SOURCE, BuildError, build


def test_two_builds_give_the_same_bytes(probe, tmp_path):
    digest = build(tmp_path / "elsewhere" / "probe")
    assert digest == hashlib.sha256(probe.read_bytes()).hexdigest()
    assert os.access(tmp_path / "elsewhere" / "probe", os.X_OK)


def test_unchanged_is_skipped_and_leaves_no_litter(tmp_path):
    target = tmp_path / "probe"
    digest = build(target)
    first = os.stat(target)
    assert build(target) == digest
    assert (os.stat(target).st_ino, os.stat(target).st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert sorted(os.listdir(tmp_path)) == ["probe", "probe.stamp"]


@pytest.mark.parametrize("harm", ["binary altered", "binary gone", "stamp torn", "source changed"])
def test_anything_changed_is_built_anew(tmp_path, monkeypatch, harm):
    target = tmp_path / "probe"
    digest = build(target)
    if harm == "binary altered":
        with open(target, "ab") as binary:
            binary.write(b"x")
    elif harm == "binary gone":
        target.unlink()
    elif harm == "stamp torn":
        (tmp_path / "probe.stamp").write_text('{"recipe": "')
    else:
        changed = tmp_path / "changed.c"
        changed.write_text(SOURCE.read_text().replace("Tare/1", "Tare/2").replace("are/1", "are/2"))
        monkeypatch.setattr(module, "SOURCE", changed)
    assert (build(target) == digest) is (harm != "source changed")
    assert build(target) == hashlib.sha256(target.read_bytes()).hexdigest()


def test_error_shows_the_compilers_last_lines_and_keeps_the_old_binary(tmp_path, monkeypatch):
    target = tmp_path / "probe"
    build(target)
    before = target.read_bytes()
    broken = tmp_path / "broken.c"
    broken.write_text("int main(void) { return nonsense; }\n")
    monkeypatch.setattr(module, "SOURCE", broken)
    with pytest.raises(BuildError, match="nonsense"):
        build(target)
    assert target.read_bytes() == before


def test_missing_compiler_says_what_to_install(tmp_path):
    with pytest.raises(BuildError, match="no C compiler named no-such-cc: install gcc"):
        build(tmp_path / "probe", compiler="no-such-cc")


def test_source_compiles_without_a_warning(tmp_path):
    words = ["cc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "probe", SOURCE]
    done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
