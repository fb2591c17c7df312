"""The answer in words: each sentence only where the data carry it, and true where it stands alone."""

import pytest

from results.compare import analyse

SYSCALLS = ("getppid", "read", "write", "stat")


@pytest.fixture
def said(manifest, table):
    def run(*series):
        samples = [one for part in series for one in part]
        return analyse(manifest(*dict.fromkeys(one.backend for one in samples)), table(samples)).sentences

    return run


def test_a_start_is_told_only_with_a_verdict(said, series):
    """With 12 blocks there is an interval above nought, but no verdict."""
    assert said(series("process", 1e6, blocks=12), series("container", 3e6, blocks=12)) == ()
    (sentence,) = said(series("process", 1e6), series("container", 3e6))
    assert sentence.startswith("On this machine a container adds 2")
    assert sentence.endswith("times as long.")


def test_memory_is_told_by_its_interval_and_not_where_it_is_equivalent(said, series):
    words = {"workload": "memory", "metric": "cgroup", "blocks": 10}
    (sentence,) = said(series("process", 1e5, **words), series("container", 3e5, **words))
    assert sentence.startswith("A container adds 19")
    assert said(series("process", 1e5, **words), series("container", 1e5, **words)) == ()
    words |= {"blocks": 24, "spread": 0.001}
    assert said(series("process", 1e5, **words), series("container", 1.02e5, **words)) == ()


def test_system_calls_are_counted_by_verdict(said, series):
    """One the same, one dearer, one cheaper, one drowned in noise."""
    parts = []
    for metric, factor, spread in zip(SYSCALLS, (1, 1.5, 0.5, 1.1), (0.002, 0.002, 0.002, 0.9), strict=True):
        words = {"workload": "syscalls", "metric": metric, "spread": spread}
        parts += [series("process", 100.0, **words), series("container", 100.0 * factor, **words)]
    (sentence,) = said(*parts)
    assert sentence.startswith("Of 4 kinds of system call in a container, 1 cost the same as in a bare process")
    assert "1 cost more, at most 1.5 times as much (read), 1 cost less, for 1 the data do not tell" in sentence
    assert said(*parts[-2:]) == ()


def test_an_emulated_machine_is_called_so_in_every_sentence(said, series):
    words = {"lane": "tcg", "blocks": 8}
    start = series("vm", 2e9, **words)
    memory = series("vm", 2e8, workload="memory", metric="pss", **words)
    first, second = said(start, memory)
    assert "software emulation (TCG)" in first
    assert "lane tcg" in second
    assert second.startswith("A virtual machine's processes hold 19")


def test_a_machine_with_hardware_is_compared_only_with_a_verdict(said, series):
    (sentence,) = said(series("process", 1e6), series("vm", 1e8, lane="kvm"))
    assert sentence.endswith("times a bare process.")
    assert said(series("process", 1e6, blocks=12), series("vm", 1e8, lane="kvm", blocks=12)) == ()


def test_too_few_blocks_for_an_interval_are_not_told(said, series):
    few = {"lane": "tcg", "blocks": 7}
    assert said(series("vm", 2e9, **few), series("vm", 2e8, workload="memory", metric="pss", **few)) == ()
