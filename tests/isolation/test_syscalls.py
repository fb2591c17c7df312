"""System calls: what a failure says, and that those the container needs do what they are for."""

import errno
import os
import signal

import pytest

from isolation import syscalls
from isolation.syscalls import direct


def test_failure_names_what_was_tried_the_path_and_the_meaning(tmp_path):
    with pytest.raises(OSError, match=r"mount tmpfs on .*/no-such .*: (No such file|Operation not permitted)"):
        direct.mount("tmpfs", str(tmp_path / "no-such"), "tmpfs", 0, "")


def test_failure_is_the_exception_of_its_errno(tmp_path):
    with pytest.raises(FileNotFoundError):
        direct.chdir(str(tmp_path / "no-such"))


def test_nul_byte_in_a_path_is_refused_not_cut():
    with pytest.raises(ValueError, match="NUL"):
        direct.chdir("/tmp\0/etc")


def test_blocked_signals_are_put_back():
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    before = syscalls.block_all_signals()
    try:
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        direct.set_blocked_signals(before)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_capget_agrees_with_proc():
    with open("/proc/thread-self/status", encoding="ascii") as file:
        status = dict(line.split(":\t") for line in file.read().splitlines())
    found = syscalls.capget()
    assert found.effective == int(status["CapEff"], 16)
    assert found.permitted == int(status["CapPrm"], 16)


def test_capset_takes_what_capget_gave():
    found = syscalls.capget()
    direct.capset(found)
    assert syscalls.capget() == found


def test_open_beneath_refuses_symbolic_links(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("/proc")
    monkeypatch.chdir(tmp_path)
    os.close(direct.open_beneath("real", os.O_PATH))
    with pytest.raises(OSError, match="link below the new root, symbolic links refused") as caught:
        direct.open_beneath("link", os.O_PATH)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="Invalid cross-device link"):
        direct.open_beneath("../..", os.O_PATH)


def test_make_beneath_makes_directories_and_files_and_follows_no_link(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    monkeypatch.chdir(root)
    direct.make_beneath("a/b", True)
    direct.make_beneath("a/b", True)
    direct.make_beneath("c/file", False)
    assert (root / "a/b").is_dir()
    assert (root / "c/file").is_file()
    with pytest.raises(OSError, match=r"open link of link/x"):
        direct.make_beneath("link/x", True)
    assert list(outside.iterdir()) == []


def test_write_file_names_file_and_text(tmp_path):
    path = tmp_path / "limit"
    path.write_text("")
    syscalls.write_file(str(path), "42")
    assert path.read_text() == "42"
    with pytest.raises(OSError, match=r"write 'x' to /dev/full: No space left"):
        syscalls.write_file("/dev/full", "x")
