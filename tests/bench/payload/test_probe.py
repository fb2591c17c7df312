"""The payload as an ordinary process: what it answers, and what it withstands."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.payload.protocol import ExecReply, LoopReply, Refused

LOOPS = (
    "getppid", "read", "write", "stat", "open_close", "pipe", "fork_exit", "page_fault_cold", "page_fault_backed",
    "mmap", "clock_gettime",
)  # fmt: skip


def run(probe, *words, requests=b""):
    return subprocess.run([probe, *words], input=requests, capture_output=True, timeout=30, check=False)


def execute(started, *words, timeout_ms=20_000):
    return ExecReply.parse(started.ask("exec", str(timeout_ms), *words))


def status_field(pid, name):
    with open(f"/proc/{pid}/status") as status:
        return next(line.split()[1] for line in status if line.startswith(f"{name}:"))


# Start and end


def test_first_line_repeats_the_nonce_and_end_of_file_quits(probe):
    done = run(probe, "nonce=1234abcd")
    assert (done.stdout, done.stderr, done.returncode) == (b"Tare/1 1234abcd\n", b"", 0)


def test_first_system_call_of_main_writes_the_first_byte(probe, tmp_path):
    trace = tmp_path / "trace"
    traced = subprocess.run(
        ["strace", "-o", trace, probe, "nonce=ab"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30
    )
    assert traced.returncode == 0
    calls = [line.partition("(")[0] for line in trace.read_text().splitlines()]
    before = calls[1 : calls.index("write")]  # after execve, before the first write: the C library's start alone
    assert set(before) <= {
        "arch_prctl", "brk", "getrandom", "mprotect", "prlimit64", "readlink", "readlinkat", "rseq",
        "set_robust_list", "set_tid_address",
    }  # fmt: skip
    assert 'write(1, "T", 1)' in trace.read_text()


test_first_system_call_of_main_writes_the_first_byte = pytest.mark.skipif(
    not any(os.access(os.path.join(folder, "strace"), os.X_OK) for folder in os.get_exec_path()),
    reason="no strace in PATH",
)(test_first_system_call_of_main_writes_the_first_byte)


def test_quit_exits_with_0(process):
    assert process.quit() == 0


def test_quit_takes_the_partner_of_the_pipe_loop_along(process, gone):
    process.ask("loop", "pipe", "10")
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        assert str(process.process.pid) in children.read().split()
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
    # monotonic stamps order events; no upper bound is asserted
    from bench.clock import now_ns

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


def test_broken_channel_has_its_own_exit_code(start):
    ours, theirs = socket.socketpair()
    probe = start().process.args[0]
    broken = subprocess.Popen([probe, "nonce=ab"], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    theirs.close()
    assert ours.recv(1, socket.MSG_WAITALL) == b"T"
    # Replies that nobody reads, then a closed peer: the payload's next write fails.
    ours.sendall(b"where\n")
    ours.shutdown(socket.SHUT_RD)
    ours.close()
    _, stderr = broken.communicate(timeout=30)
    assert broken.returncode in (0, 3)  # end of file may be seen first
    assert broken.returncode == 0 or b"cannot" in stderr


# Loops


@pytest.mark.parametrize("name", LOOPS)
def test_loop_does_what_it_was_asked(process, name):
    assert LoopReply.parse(process.ask("loop", name, "0")).count == 0
    for count in (1, 100, 7):
        reply = LoopReply.parse(process.ask("loop", name, str(count)))
        assert reply.count == count
        assert reply.elapsed_ns > 0


def test_loop_without_set_up_first_works_too(process):
    for name in LOOPS:
        assert LoopReply.parse(process.ask("loop", name, "3")).count == 3


def test_cold_pages_are_faulted_once_each_and_kept_until_release(process):
    def faults():
        with open(f"/proc/{process.process.pid}/stat") as stat:
            return int(stat.read().rpartition(")")[2].split()[7])

    process.ask("loop", "page_fault_cold", "0")
    resident, before = int(status_field(process.process.pid, "RssAnon")), faults()
    process.ask("loop", "page_fault_cold", "5000")
    assert 5000 <= faults() - before < 5100
    assert int(status_field(process.process.pid, "RssAnon")) - resident >= 20_000
    process.ask("release")
    assert int(status_field(process.process.pid, "RssAnon")) - resident < 4000


def test_backed_pages_are_faulted_again_each_time(process):
    def faults():
        with open(f"/proc/{process.process.pid}/stat") as stat:
            return int(stat.read().rpartition(")")[2].split()[7])

    for _ in range(2):
        process.ask("loop", "page_fault_backed", "0")
        before = faults()
        process.ask("loop", "page_fault_backed", "3000")
        assert 3000 <= faults() - before < 3100


def test_backed_region_has_an_end(process):
    with pytest.raises(Refused, match="page_fault_backed 16385"):
        process.ask("loop", "page_fault_backed", "16385")
    assert process.ask("loop", "page_fault_backed", "16384")["ok"]


def test_touch_dirties_what_was_asked(process):
    before = int(status_field(process.process.pid, "RssAnon"))
    assert process.ask("touch", str(8 << 20))["bytes"] == 8 << 20
    assert int(status_field(process.process.pid, "RssAnon")) - before >= 8 << 10


def test_impossible_memory_is_refused(process):
    with pytest.raises(Refused, match="touch"):
        process.ask("touch", str(1 << 60))
    with pytest.raises(Refused, match="page_fault_cold"):
        process.ask("loop", "page_fault_cold", str(1 << 50))


# Where


def test_where_agrees_with_what_the_host_sees(process):
    where, pid = process.ask("where"), process.process.pid
    assert (where["pid"], where["ppid"], where["uid"]) == (pid, os.getpid(), os.getuid())
    assert (where["kernel"], where["hostname"]) == (os.uname().release, os.uname().nodename)
    assert where["namespaces"]["mnt"] == os.stat("/proc/self/ns/mnt").st_ino
    assert set(where["namespaces"]) == {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}
    assert where["cgroup"] == Path("/proc/self/cgroup").read_text().splitlines()
    assert where["capabilities"]["effective"] == status_field("self", "CapEff")
    assert where["capabilities"]["bounding"] == status_field("self", "CapBnd")
    assert where["cwd"] == os.getcwd()
    assert where["exe"] == os.path.realpath(process.process.args[0])
    assert where["cpus"] == len(os.sched_getaffinity(0))
    assert where["page_size"] == os.sysconf("SC_PAGESIZE")
    assert where["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    root = [mount for mount in where["mounts"] if mount["target"] == "/"]
    assert root
    assert set(root[0]) == {"source", "target", "type", "options"}
    soft, hard = where["rlimits"]["nofile"]
    assert 0 < soft <= hard
    assert "fpu" in where["cpu_flags"]


def test_where_lists_inherited_descriptors_and_none_of_its_own(probe):
    process = subprocess.Popen([probe, "nonce=ab"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(2,))
    leak = os.open("/dev/null", os.O_RDONLY)
    process.communicate(b"quit\n", timeout=30)
    leaky = subprocess.run(
        [probe, "nonce=ab"],
        input=b"loop pipe 1\nloop read 1\nwhere\n",
        capture_output=True,
        pass_fds=(leak,),
        timeout=30,
    )
    os.close(leak)
    import json

    descriptors = json.loads(leaky.stdout.splitlines()[3])["descriptors"]
    assert sorted(entry["fd"] for entry in descriptors) == [0, 1, 2, leak]
    assert {entry["fd"]: entry["target"] for entry in descriptors}[leak] == "/dev/null"


# Exec


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


# Other requests and bad ones


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
    done = run(probe, "nonce=ab", requests=line + b"\nloop getppid 5\n")
    greeting, refusal, answer = done.stdout.splitlines()
    assert greeting == b"Tare/1 ab"
    assert refusal.startswith(b'{"ok":false,"error":"')
    assert error in refusal
    assert answer.startswith(b'{"ok":true,"count":5,')
    assert done.returncode == 0


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_crash_it(probe_for_bytes, lines):
    harmless = [line.replace(b"\n", b"").removeprefix(b"quit") for line in lines]
    done = run(probe_for_bytes, "nonce=ab", requests=b"".join(line + b"\n" for line in harmless))
    replies = done.stdout.splitlines()
    assert (done.returncode, len(replies)) == (0, 1 + len(harmless))
    assert all(reply.startswith(b'{"ok":') for reply in replies[1:])


@pytest.fixture(scope="module")
def probe_for_bytes(probe):
    return probe
