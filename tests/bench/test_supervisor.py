"""The supervisor from outside: a real `supervised` in a process of its own, killed in every way."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HARNESS = """
import os, signal, subprocess, sys
sys.path.insert(0, {root!r})
from bench.supervisor import Terminated, supervised

def harness():
    out = subprocess.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, text=True)
    print(os.getpid(), out.stdout.strip(), flush=True)
    try:
        {body}
    except KeyboardInterrupt:
        return 130
    except Terminated:
        return 143
    return 7

sys.exit(supervised(harness))
"""


def start(body):
    command = [sys.executable, "-c", HARNESS.format(root=str(ROOT), body=body)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process.stdout:
        harness, daemon = (int(word) for word in process.stdout.readline().split())
    return process, harness, daemon


def ended(pid):
    """Whether `pid` ends within 5 s; waits on its pidfd."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 5)[0])
    finally:
        os.close(pidfd)


def test_the_harness_code_is_passed_on_and_its_daemons_are_ended():
    process, harness, daemon = start("pass")
    assert process.wait(20) == 7
    assert ended(harness)
    assert ended(daemon)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_signals_reach_the_harness_once_and_end_it_cleanly(number, code):
    process, _, daemon = start("signal.pause()")
    os.kill(process.pid, number)
    assert process.wait(20) == code
    assert ended(daemon)


def test_sigkill_of_the_harness_leaves_no_process():
    process, harness, daemon = start("signal.pause()")
    os.kill(harness, signal.SIGKILL)
    assert process.wait(20) == 128 + signal.SIGKILL
    assert ended(daemon)


def test_sigkill_of_the_supervisor_ends_the_harness():
    process, harness, daemon = start("signal.pause()")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
    assert ended(harness)
    os.kill(daemon, signal.SIGKILL)  # nobody was left to do it: `tare gc` finds labelled ones, this one has no label
