"""Programs run by the payload: results, limits, and nothing left behind."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.payload.protocol import ExecReply, Refused


def execute(started, *words, timeout_ms=20_000):
    return ExecReply.parse(started.ask("exec", str(timeout_ms), *words))


def test_exec_returns_code_and_both_outputs(process):
    done = execute(process, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.signal, done.stdout, done.stderr) == (7, None, b"out\n", b"err\n")
    assert not done.timeout
    assert not done.truncated
    assert done.elapsed_ns > 0


def test_exec_names_the_signal_that_ended_a_program(process):
    done = execute(process, "sh", "-c", "kill -SEGV $$")
    assert (done.code, done.signal, done.timeout) == (None, signal.SIGSEGV, False)


def test_exec_charges_processor_time(process):
    done = execute(process, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    assert done.cpu_ns > 0
    usage = process.ask("rusage")
    assert usage["user_ns"] + usage["system_ns"] >= done.cpu_ns


def test_exec_of_nothing_says_what_is_missing(process):
    with pytest.raises(Refused, match="cannot run /no/such: No such file or directory"):
        process.ask("exec", "1000", "/no/such")
    assert execute(process, "true").code == 0


def test_exec_gives_an_empty_stdin_clean_signals_and_no_descriptors(process):
    process.ask("loop", "pipe", "1")
    done = execute(process, "sh", "-c", "cat; ls /proc/$$/fd; grep -E 'SigBlk|SigIgn' /proc/$$/status")
    assert done.stdout.split() == [b"0", b"1", b"2", b"SigBlk:", b"0" * 16, b"SigIgn:", b"0" * 16]


def test_time_out_kills_grandchildren_too(process, gone):
    done = execute(process, "sh", "-c", "sleep 600 & echo $!; wait", timeout_ms=1000)
    assert (done.code, done.signal, done.timeout) == (None, signal.SIGKILL, True)
    assert gone(int(done.stdout))


def test_background_process_with_the_pipe_open_is_not_waited_for(process, gone):
    done = execute(process, "sh", "-c", "sleep 600 & echo $!")
    assert (done.code, done.timeout) == (0, False)
    os.kill(int(done.stdout), signal.SIGKILL)
    assert gone(int(done.stdout))


def test_big_output_is_cut_but_drained(process):
    done = execute(process, "sh", "-c", "head -c 5000000 /dev/zero; head -c 3000000 /dev/zero >&2; echo done >&2")
    assert (len(done.stdout), len(done.stderr)) == (1 << 20, 1 << 20)
    assert done.truncated
    assert done.code == 0
    assert set(done.stdout) == {0}  # each byte takes six in the reply: the longest line there can be


def test_every_byte_of_output_survives(process):
    done = execute(process, "printf", "".join(f"\\{byte:03o}" for byte in range(256)))
    assert done.stdout == bytes(range(256))


def test_reader_that_left_ends_the_program(start, gone, tmp_path):
    started = start().greeted()
    pidfile = tmp_path / "pid"
    os.mkfifo(pidfile)
    os.write(started.write_fd, f"exec 600000 sh -c sleep%20600&%20echo%20$!>{pidfile};%20wait\n".encode())
    grandchild = int(pidfile.read_text())
    started.channel.close()
    assert started.process.wait(30) == 3  # nobody to reply to
    assert gone(grandchild)


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(words, min_size=1, max_size=5))
def test_words_arrive_as_they_were(process, given_words):
    done = execute(process, "printf", r"%s\0", *given_words)
    assert done.stdout.decode().split("\0")[:-1] == given_words
