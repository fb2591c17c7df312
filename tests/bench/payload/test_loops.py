"""The loops do what they claim, seen from the host's own counters."""

from __future__ import annotations

import pytest

from bench.payload.protocol import LoopReply, Refused

LOOPS = (
    "getppid", "read", "write", "stat", "open_close", "pipe", "fork_exit", "page_fault_cold", "page_fault_backed",
    "mmap", "clock_gettime",
)  # fmt: skip


def anonymous_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


def minor_faults(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[7])


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
    pid = process.process.pid
    process.ask("loop", "page_fault_cold", "0")
    resident, before = anonymous_kib(pid), minor_faults(pid)
    process.ask("loop", "page_fault_cold", "5000")
    assert 5000 <= minor_faults(pid) - before < 5100
    assert anonymous_kib(pid) - resident >= 20_000
    process.ask("release")
    assert anonymous_kib(pid) - resident < 4000


def test_backed_pages_are_faulted_again_each_time(process):
    pid = process.process.pid
    for _ in range(2):
        process.ask("loop", "page_fault_backed", "0")
        before = minor_faults(pid)
        process.ask("loop", "page_fault_backed", "3000")
        assert 3000 <= minor_faults(pid) - before < 3100


def test_backed_region_has_an_end(process):
    with pytest.raises(Refused, match="page_fault_backed 16385"):
        process.ask("loop", "page_fault_backed", "16385")
    assert process.ask("loop", "page_fault_backed", "16384")["ok"]


def test_touch_dirties_what_was_asked(process):
    pid = process.process.pid
    before = anonymous_kib(pid)
    assert process.ask("touch", str(8 << 20))["bytes"] == 8 << 20
    assert anonymous_kib(pid) - before >= 8 << 10


def test_impossible_memory_is_refused(process):
    with pytest.raises(Refused, match="touch"):
        process.ask("touch", str(1 << 60))
    with pytest.raises(Refused, match="page_fault_cold"):
        process.ask("loop", "page_fault_cold", str(1 << 50))
