"""The test of the test: what the CPU stand-in of CUDA has to find is planted and found, in kernels whose mended twins pass;
built-ins give known results; plans with and without races are told apart.
"""

import random
import re

import numpy as np
import pytest
import torch

# --- planted mistakes -------------------------------------------------------------------------------------------------
# case: what the tracked build says of it (None: it cannot see it), what the sanitized build says
UNORDERED = "no barrier is between"
PLANTED = {
    "syncthreads": (UNORDERED, None),
    "syncthreads_after_reading": (UNORDERED, None),
    "syncwarp": (UNORDERED, None),
    "shuffle_as_barrier": (UNORDERED, None),
    "part_of_a_warp": (UNORDERED, None),
    "reading_an_atomic": (UNORDERED, None),
    "initialising_an_atomic": (UNORDERED, None),
    "bytes": (UNORDERED, None),
    "blocks": (UNORDERED, None),
    "blocks_reading": (UNORDERED, None),
    "last_block": (UNORDERED, None),
    "cluster": (UNORDERED, None),
    "cluster_start": ("that block may not have started", None),
    "cluster_end": ("with no cluster barrier after that|have left the kernel", None),
    "cluster_halves": (UNORDERED, None),
    "cluster_barrier": ("63 .first: thread 0 of block [13]. at cluster_sync", "left the kernel"),
    "global_bounds": (r"buffer out .1024 bytes. \+ 1024 .*outside of its bounds", "heap-buffer-overflow"),
    "global_bounds_below": (r"buffer out .1024 bytes. - 4 .*outside of its bounds", "heap-buffer-overflow"),
    "dynamic_bounds": (r"dynamic shared memory \+ 256 .*outside of its bounds", "heap-buffer-overflow"),
    "static_bounds": (None, "out of bounds"),
    "static_bounds_by_pointer": (None, "insufficient space"),
    "uninitialised_shared": ("which nobody has written", None),
    "uninitialised_global": ("which nobody has written", None),
    "unwritten_output": (r"buffer one .256 bytes. \+ 28 was never written", None),
    "unknown_address": ("memory of no buffer", None),
    "divergent_barrier": ("63 .first: thread 0 of block .. at __syncthreads", "left the kernel"),
    "two_barriers": ("other threads of the block wait at __syncthreads", "other threads of the block wait"),
    "exited_lane": ("left the kernel", "left the kernel"),
    "lane_outside_mask": ("reads lane 8, which takes no part", "takes no part"),
    "divergent_shuffle": ("another lane of the mask waits at __shfl_xor_sync", "another lane of the mask waits"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_planted(host, case):
    cluster, write = 2 if case.startswith("cluster") else 1, case == "unwritten_output"
    for build, order, wanted in zip(("races", "bounds"), ("1", "forward"), PLANTED[case], strict=True):
        done = host.execute("planted", build, order, (case, True, 4, cluster, write), [])
        assert done.returncode == 0, done.stderr.decode()
        if wanted is not None:
            done = host.execute("planted", build, order, (case, False, 4, cluster, write), [])
            assert done.returncode != 0, f"{build} did not find it"
            assert re.search(wanted, done.stderr.decode()), done.stderr.decode()


def test_every_order_of_threads_finds_a_race(host):
    for order in ("forward", "backward", "2", "3"):
        for case in ("syncthreads", "initialising_an_atomic", "blocks", "bytes"):
            assert host.execute("planted", "races", order, (case, False, 4, 1, False), []).returncode == 3


def test_what_is_found_names_the_line(host):
    """Kernel, both threads, memory, and both lines of the source."""
    done = host.execute("planted", "races", "forward", ("blocks", False, 4, 1, False), [])
    line = done.stderr.decode().splitlines()[0]
    assert line.startswith("kernel planted: thread 0 of block 1 writes buffer out (1024 bytes) + 252 (planted.cpp:")
    assert ", a race: thread 63 of block 0 wrote it (planted.cpp:" in line


def test_a_result_that_depends_on_the_order_of_threads(host):
    assert host.run("planted", ("order_of_threads", True, 2, 1, True), [], (64,), torch.int32).eq(1).all()
    with pytest.raises(AssertionError, match="depends on the order of threads"):
        host.run("planted", ("order_of_threads", False, 2, 1, True), [], (64,), torch.int32)


# --- built-ins --------------------------------------------------------------------------------------------------------
T = np.arange(80)
LANE, WARP = T % 32, T - T % 32


def within(source, width):
    """Threads whose lane is `source`, in a lane's segment; its own where that lies outside."""
    begin = LANE // width * width
    return WARP + np.where((source >= begin) & (source < begin + width), source, LANE)


def exchanged(lanes, width):
    return WARP + np.where(LANE ^ lanes < LANE // width * width + width, LANE ^ lanes, LANE)


def shuffles():
    sums = T.astype(float)
    for delta in (8, 4, 2, 1):
        sums = sums + sums[within(LANE + delta, 16)]
    sources = [WARP + 5, WARP + LANE // 8 * 8 + 3 * T % 8, within(LANE - 3, 16), within(LANE + 5, 8)]
    others = [0.5 * (WARP + LANE // 2 * 2 + 1), WARP + 15 + 1e-9, WARP + 3 + 2.0**40, sums]
    return [*sources, exchanged(9, 16), exchanged(12, 8), *others]


def votes():
    def ballot(lanes):
        return [sum(1 << LANE[k] for k in range(80) if WARP[k] == WARP[t] and lanes[k]) for t in range(80)]

    count = np.full(80, sum(T % 7 == 0))
    parity = np.where(T % 2, ballot((T > 40) & (T % 2 == 1)), ballot((T > 40) & (T % 2 == 0)))
    return [ballot(T % 3 == 0), T >= 64, T < 64, count, np.ones(80), np.zeros(80), parity]


def atomics():
    total = sum(range(80))
    values = [100 + total - 80, -20, 79, 7, 80 % 7, 2**20 - 1, 2**40 + total, 0.5 + 80 * 0.25, 1]
    return [np.full(80, v) for v in values]


def cluster_sums(blocks, cluster):
    numbers = np.arange(80.0 * blocks).reshape(-1, cluster, 80)
    sums = 0.5 * np.roll(numbers, -1, axis=2).sum(1, keepdims=True) + 1e6 * np.arange(cluster).reshape(1, -1, 1)
    return sums.reshape(-1, 80)


@pytest.mark.parametrize("cluster", [1, 3, 16])
def test_built_ins(host, cluster):
    blocks = 2 * cluster
    wanted = np.stack([*shuffles(), *votes(), *atomics(), *cluster_sums(blocks, cluster)]).astype(float)
    out = host.run("built_ins", (blocks, cluster), [], wanted.shape, torch.float64)
    np.testing.assert_array_equal(out.numpy(), wanted)


def test_launches_are_counted(host):
    assert host.count("built_ins", (6, 3), []) == (4, 9)


# --- plans ------------------------------------------------------------------------------------------------------------
# A plan is a list of phases (changes, barrier, each thread's cell); every thread first writes its own cell, and all wait.
NONE, HALF_WARP, WARP_BARRIER, BLOCK, CLUSTER = range(5)


class Plan:
    def __init__(self, seed, threads, cluster):
        self.random = random.Random(seed)
        self.threads, self.total = threads, threads * cluster
        self.phases = []

    def groups(self, barrier):
        """Which threads wait for each other, as lists."""
        size = {NONE: 1, HALF_WARP: 16, WARP_BARRIER: 32, BLOCK: self.threads, CLUSTER: self.total}[barrier]
        for begin in range(0, self.total, self.threads):
            block = list(range(begin, begin + self.threads))
            if barrier == CLUSTER:
                yield list(range(self.total))
                return
            yield from (block[k : k + size] for k in range(0, self.threads, size))

    def fill(self, phases):
        """A plan without races: a cell has one owner at a time, and owners swap with those they have waited for."""
        owned = list(range(self.total))  # each thread's cell
        before = CLUSTER
        for _ in range(phases):
            after = self.random.choice([HALF_WARP, WARP_BARRIER, WARP_BARRIER, BLOCK, BLOCK, CLUSTER])
            if self.random.random() < 0.5:
                self.phases.append((1, after, list(owned)))
            else:  # every cell that is read belongs to someone waited for, and stays as it is until they wait again
                after = max(after, before)
                read = list(owned)
                for group in self.groups(before):
                    for t in group:
                        read[t] = owned[self.random.choice(group)]
                self.phases.append((0, after, read))
            for group in self.groups(after):
                cells = [owned[t] for t in group]
                self.random.shuffle(cells)
                for t, cell in zip(group, cells, strict=True):
                    owned[t] = cell
            before = after
        return self

    def weaken(self):
        """The same with one barrier that fewer wait at, or nobody."""
        k = self.random.randrange(len(self.phases))
        changes, barrier, cells = self.phases[k]
        self.phases[k] = (changes, self.random.randrange(barrier), cells)
        return self

    def has_race(self):
        """By vector clocks over all accesses."""
        clocks = np.zeros((self.total, self.total), dtype=int)  # what each thread knows of every thread

        def wait(barrier):
            for group in self.groups(barrier):
                clocks[group, group] += 1
                clocks[group] = clocks[group].max(0)

        wrote = [(t, 0) for t in range(self.total)]  # by cell
        readers = [[] for _ in range(self.total)]
        wait(CLUSTER)
        for changes, barrier, cells in self.phases:
            for t, cell in enumerate(cells):
                earlier = [wrote[cell], *readers[cell]] if changes else [wrote[cell]]
                if any(other != t and clock >= clocks[t, other] for other, clock in earlier):
                    return True
                if changes:
                    wrote[cell], readers[cell] = (t, clocks[t, t]), []
                else:
                    readers[cell].append((t, clocks[t, t]))
            wait(barrier)
        return False

    def result(self, bytes_):
        """Of a plan without races."""
        wrap = 0xFF if bytes_ else 0xFFFFFFFF
        cells, sums = [t & wrap for t in range(self.total)], [0] * self.total
        for k, (changes, _, chosen) in enumerate(self.phases):
            for t, cell in enumerate(chosen):
                if changes:
                    cells[cell] = (cells[cell] * 3 + t + k) & wrap
                else:
                    sums[t] = sums[t] * 5 + cells[cell]
        return np.array([s * 7 + c & 0xFFFFFFFF for s, c in zip(sums, cells, strict=True)], dtype=np.uint32).view(np.int32)

    def words(self):
        return torch.tensor([x for changes, barrier, cells in self.phases for x in (changes, barrier, *cells)], dtype=torch.int32)


def plan_of(seed):
    choice = random.Random(seed)
    threads, cluster = choice.choice([(64, 1), (64, 2), (80, 2), (32, 4), (96, 3), (1, 2)])
    plan = Plan(seed, threads, cluster).fill(choice.randrange(1, 12))
    return plan, (seed % 2, len(plan.phases), cluster, threads, cluster)


def test_plans_without_races_pass(host, many):
    for seed in range(many):
        plan, arguments = plan_of(seed)
        assert not plan.has_race()
        build, order = ("bounds", "forward") if seed % 5 == 0 else ("races", seed)
        done = host.execute("stress", build, order, arguments, [plan.words()])
        assert done.returncode == 0, (seed, done.stderr.decode())
        np.testing.assert_array_equal(np.frombuffer(done.stdout, dtype=np.int32), plan.result(arguments[0]))


def test_plans_with_races_are_told_from_those_without(host, many):
    """One barrier of the plan is weakened, which may or may not matter."""
    races = 0
    for seed in range(many):
        plan, arguments = plan_of(seed)
        race = plan.weaken().has_race()
        done = host.execute("stress", "races", seed, arguments, [plan.words()])
        assert (done.returncode != 0) == race, (seed, done.stderr.decode())
        assert not race or UNORDERED in done.stderr.decode()
        races += race
    assert 0 < races < many
