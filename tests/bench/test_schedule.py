from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bench.plan import make_plan
from bench.schedule import blocks, orders, williams_rows

BACKENDS = ("process", "container", "bwrap", "runc", "vm")


def plan(seed=1, **words):
    return make_plan(seed=seed, depth="quick", known_backends=BACKENDS, default_backends=BACKENDS, **words)


@given(st.integers(min_value=2, max_value=14))
def test_every_cell_follows_every_other_equally_often(size):
    pairs = Counter(pair for row in williams_rows(size) for pair in pairwise(row))
    assert set(pairs) == {(a, b) for a in range(size) for b in range(size) if a != b}
    assert len(set(pairs.values())) == 1


@given(st.integers(min_value=1, max_value=9), st.integers(min_value=1, max_value=40), st.randoms(use_true_random=False))
def test_every_order_is_complete(size, count, rng):
    made = orders(tuple(range(size)), count, rng)
    assert len(made) == count
    assert all(sorted(order) == list(range(size)) for order in made)


def test_the_same_seed_gives_the_same_order_and_another_seed_another():
    assert list(blocks(plan(seed=7))) == list(blocks(plan(seed=7)))
    assert list(blocks(plan(seed=7))) != list(blocks(plan(seed=8)))


def test_every_block_holds_all_cells_of_its_workload_once_twin_and_control_among_them():
    seen = Counter()
    for block in blocks(plan()):
        roles = Counter(cell.role for cell in block.cells)
        assert roles == {"subject": len(BACKENDS), "twin": 1, "control": 1}
        assert len(set(block.cells)) == len(block.cells)
        seen[block.workload] += 1
    assert seen == {"startup": 20, "syscalls": 20, "memory": 10, "storage": 8}


def test_a_run_cut_in_half_holds_about_half_of_each_workload():
    order = list(blocks(plan()))
    first = Counter(block.workload for block in order[: len(order) // 2])
    for workload, total in Counter(block.workload for block in order).items():
        assert abs(first[workload] - total / 2) <= 1
