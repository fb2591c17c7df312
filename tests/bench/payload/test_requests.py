"""The other requests, and bad ones: refused, never a crash."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.payload.protocol import Refused


def talk(probe, requests):
    return subprocess.run([probe, "nonce=ab"], input=requests, capture_output=True, timeout=30, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="drops root to be refused")
def test_mount_without_privilege_is_refused(start, tmp_path):
    unprivileged = start(prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")).greeted()
    with pytest.raises(Refused, match=r"mount: cannot mount none \(tmpfs\) on .*: Operation not permitted"):
        unprivileged.ask("mount", "none", str(tmp_path / "a" / "b"), "tmpfs", "0", "-")
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(Refused, match="umount"):
        unprivileged.ask("umount", str(tmp_path))


def test_insmod_of_nothing_is_refused(process):
    with pytest.raises(Refused, match=r"cannot load /no/such\.ko: No such file"):
        process.ask("insmod", "/no/such.ko")


def test_sync_answers(process):
    assert process.ask("sync") == {"ok": True}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"", b"unknown request: "),
        (b"fly", b"unknown request: fly"),
        (b"loop getppid", b"usage: loop NAME COUNT"),
        (b"loop getppid 1 2", b"usage: loop NAME COUNT"),
        (b"loop fly 1", b"no operation named fly"),
        (b"loop getppid -1", b"-1 is not a count"),
        (b"loop getppid 99999999999999999999", b"is not a count"),
        (b"touch 1k", b"is not a number of bytes"),
        (b"exec x true", b"is not a time limit"),
        (b"exec 1000 %zz", b"not percent-encoded"),
        (b"exec 1000 %4", b"not percent-encoded"),
        (b"exec 1000 a%00b", b"not percent-encoded"),
        (b"where\0", b"zero byte"),
        (b"exec 1000" + b" x" * 2000, b"more than 1024 words"),
        (b"x" * 200_000, b"request longer than 65536 bytes"),
        (b"mount a b c d e", b"not a number of flags"),
        (bytes(range(128, 256)), b"unknown request"),
    ],
)
def test_bad_request_is_refused_and_the_next_one_served(probe, line, error):
    done = talk(probe, line + b"\nloop getppid 5\n")
    greeting, refusal, answer = done.stdout.splitlines()
    assert greeting == b"Tare/1 ab"
    assert refusal.startswith(b'{"ok":false,"error":"')
    assert error in refusal
    assert answer.startswith(b'{"ok":true,"count":5,')
    assert done.returncode == 0


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_crash_it(probe, lines):
    harmless = [line.replace(b"\n", b"").removeprefix(b"quit") for line in lines]
    done = talk(probe, b"".join(line + b"\n" for line in harmless))
    replies = done.stdout.splitlines()
    assert (done.returncode, len(replies)) == (0, 1 + len(harmless))
    assert all(reply.startswith(b'{"ok":') for reply in replies[1:])
