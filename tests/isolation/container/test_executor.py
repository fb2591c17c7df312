"""The executor, without namespaces: what it starts, what it says when a step fails."""

import os
import signal

import pytest

from isolation.container import operations as ops
from isolation.container.executor import start


@pytest.fixture
def null():
    descriptor = os.open(os.devnull, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def exit_of(child):
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
    os.close(child.pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])


def test_child_becomes_its_program_with_its_words_and_environment(null):
    read_fd, write_fd = os.pipe()
    child = start(
        (ops.Execute("/bin/sh", ("sh", "-c", 'echo "$0 $A"; exit 7', "word"), (("A", "b"),)),),
        0,
        (null, write_fd, null),
    )
    os.close(write_fd)
    with os.fdopen(read_fd) as output:
        assert output.read() == "word b\n"
    assert exit_of(child) == 7


def test_child_may_end_without_a_program(null):
    assert exit_of(start((ops.End(),), 0, (null, null, null))) == 0


def test_failure_names_operation_path_and_meaning_and_leaves_nothing(null):
    before = os.listdir("/proc/self/fd")
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        children = file.read()
    with pytest.raises(FileNotFoundError, match=r"execute x y: execve /no-such: No such file or directory"):
        start((ops.Execute("/no-such", ("x", "y")),), 0, (null, null, null))
    assert os.listdir("/proc/self/fd") == before
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        assert file.read() == children


def test_failure_is_that_of_the_first_step_that_failed(null):
    with pytest.raises(OSError, match="enter the control groups /no/such: open /no/such/tasks: No such file"):
        start((ops.JoinCgroup(("/no/such/tasks",)), ops.Execute("/no-such", ("x",))), 0, (null, null, null))


def test_launcher_keeps_its_signal_mask(null):
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert exit_of(start((ops.End(),), 0, (null, null, null))) == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_impossible_namespaces_are_refused_by_clone3(null):
    with pytest.raises(OSError, match="clone3 with flags"):
        start((ops.End(),), 0, (null, null, null), birthplace=null)
