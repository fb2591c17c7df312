"""How the payload starts and ends as an ordinary process."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from bench.clock import now_ns


def run(probe, *words):
    return subprocess.run([probe, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)


def test_first_line_repeats_the_nonce_and_end_of_file_quits(probe):
    done = run(probe, "nonce=1234abcd")
    assert (done.stdout, done.stderr, done.returncode) == (b"Tare/1 1234abcd\n", b"", 0)


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace in PATH")
def test_first_byte_is_the_first_system_call_of_main(probe, tmp_path):
    def calls_until_write(program, *words):
        trace = tmp_path / "trace"
        subprocess.run(
            ["strace", "-o", trace, program, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=30
        )
        lines = trace.read_text().splitlines()
        end = next(number for number, line in enumerate(lines) if line.startswith("write("))
        assert lines[end] == 'write(1, "T", 1)                        = 1'
        return [line.partition("(")[0] for line in lines[:end]]

    source, bare = tmp_path / "bare.c", tmp_path / "bare"
    source.write_text('#include <unistd.h>\nint main(void) { return write(1, "T", 1) != 1; }\n')
    subprocess.run(["cc", "-O2", "-static", "-o", bare, source], check=True, timeout=60)
    assert calls_until_write(probe, "nonce=ab") == calls_until_write(bare)


def test_quit_exits_with_0(process):
    assert process.quit() == 0


def test_quit_takes_the_partner_of_the_pipe_loop_along(process, gone):
    process.ask("loop", "pipe", "10")
    with open(f"/proc/{process.process.pid}/task/{process.process.pid}/children") as children:
        (partner,) = children.read().split()
    assert process.quit() == 0
    assert gone(int(partner))


def test_killed_payload_leaves_no_program_behind(process, gone, tmp_path):
    pidfile = tmp_path / "pid"
    os.mkfifo(pidfile)
    request = f"exec 30000 sh -c echo%20$$>{pidfile};%20exec%20sleep%2030\n"
    os.write(process.write_fd, request.encode())
    pid = int(pidfile.read_text())  # opening the fifo waits for the writer
    process.process.kill()
    assert gone(pid)


def test_delay_is_waited_out_before_the_first_byte(start):
    before_ns = now_ns()
    start("delay_ns=30000000").greeted()
    assert now_ns() - before_ns >= 30_000_000


@pytest.mark.parametrize(
    "words",
    [(), ("nonce=",), ("nonce=xyz",), ("nonce=ab", "bogus"), ("nonce=ab", "delay_ns=-1"), ("nonce=ab", "guest=0")],
)
def test_wrong_use_says_so_and_writes_no_first_byte(probe, words):
    done = run(probe, *words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"usage: probe nonce=HEX" in done.stderr


def test_guest_mode_is_refused_outside_init(probe):
    done = run(probe, "nonce=ab", "guest=1")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"PID 1" in done.stderr


def test_broken_channel_has_its_own_exit_code(probe):
    started = subprocess.Popen(
        [probe, "nonce=ab"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert started.stdout.readline() == b"Tare/1 ab\n"
    started.stdout.close()
    started.stdin.write(b"where\n")
    started.stdin.flush()
    assert started.stderr.read() == b"probe: cannot write to the channel: Broken pipe\n"
    started.stdin.close()
    assert started.wait(30) == 3
    started.stderr.close()
