"""CUDA sources run on a CPU: correct kernels give correct results, and mistakes are noticed."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from host_build import CSRC, compile_host, run_sanitized

KERNELS = Path(__file__).parent / "kernels"
SEEDS = range(8)


class Library:
    """A test library: its functions take arrays and numbers, and raise the errors that they
    report."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name):
        function = getattr(self._library, name)
        function.restype = ctypes.c_char_p

        def call(*arguments):
            message = function(*map(self._argument, arguments))
            if message:
                raise RuntimeError(message.decode())

        return call

    @staticmethod
    def _argument(value):
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            return ctypes.c_void_p(value.ctypes.data)
        return value.encode() if isinstance(value, str) else value

    def barriers_passed(self):
        self._library.barriers_passed.restype = ctypes.c_uint64
        return self._library.barriers_passed()

    def seed(self, value):
        self._library.seed(ctypes.c_uint64(value))

    def play_device(self, major=9, multiprocessors=132, shared_per_block=227 * 1024):
        self._library.play_device(major, multiprocessors, ctypes.c_size_t(shared_per_block))


@pytest.fixture(scope="module")
def kernels():
    return Library(compile_host(sorted(KERNELS.glob("*.c*"))))


@pytest.fixture
def random():
    return np.random.default_rng()


def row_sums(library, values, rounds=4):
    sums = np.empty(len(values), np.int32)
    library.run_sum_rows(values, sums, *values.shape, rounds)
    return sums


def reversed_and_swapped(library, values):
    out = np.empty_like(values)
    library.run_reverse_warps(values, out, len(values))
    return out


def rotated(library, values, clusters, size, steps):  # [clusters * size, threads]
    out = np.empty((2, *values.shape), np.int32)
    library.run_rotate(values, out, clusters, size, values.shape[1], steps)
    return out


def cascaded(library, values, steps):  # [blocks, threads]
    out = values.copy()
    library.run_cascade(out, *values.shape, steps)
    return out


def cascade_reference(values, steps):
    flat = values.reshape(-1)
    for _ in range(steps):
        flat = flat + np.roll(flat, 1)
    return flat.reshape(values.shape)


# Correct kernels give correct results, in whatever order the threads run.


@pytest.mark.parametrize("seed", SEEDS)
def test_barriers_and_static_shared_memory(kernels, random, seed):
    values = random.integers(-1000, 1000, (5, random.integers(1, 700)), dtype=np.int32)
    kernels.seed(seed)
    np.testing.assert_array_equal(row_sums(kernels, values), values.sum(1))


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_barriers_and_dynamic_shared_memory(kernels, random, seed):
    values = random.standard_normal((7, 32), np.float32)
    kernels.seed(seed)
    expected = values[:, ::-1][:, np.arange(32) ^ 1]
    np.testing.assert_array_equal(reversed_and_swapped(kernels, values), expected)


def test_atomics(kernels, random):
    bins = 17
    values = random.integers(0, bins, 1001, dtype=np.int32)
    counts = np.zeros(bins, np.uint32)
    kernels.run_histogram(values, counts, len(values), bins)
    np.testing.assert_array_equal(counts, np.bincount(values, minlength=bins))


def test_a_lock_that_threads_spin_on(kernels):
    lock, total = np.zeros(1, np.int32), np.zeros(1)
    kernels.run_add_under_lock(lock, total, 3, 70)
    assert total == sum(range(210))


def test_coordinates(kernels):
    grid, block = np.array([3, 2, 4], np.uint32), np.array([5, 3, 2], np.uint32)
    out = np.full((grid.prod(), block.prod(), 6), -1, np.int32)
    kernels.run_coordinates(out, grid, block)
    z, y, x = np.mgrid[: grid[2], : grid[1], : grid[0]].reshape(3, -1)
    np.testing.assert_array_equal(out[:, 0, :3], np.stack([x, y, z], 1))
    z, y, x = np.mgrid[: block[2], : block[1], : block[0]].reshape(3, -1)
    np.testing.assert_array_equal(out[7, :, 3:], np.stack([x, y, z], 1))


@pytest.mark.parametrize("threads", [1, 31, 32, 33, 1024])
@pytest.mark.parametrize("threshold", [-2, 0, 2])
def test_barriers_that_count(kernels, random, threads, threshold):
    values = random.uniform(-1, 1, threads) + threshold
    results = np.empty((threads, 3), np.int32)
    kernels.run_count_positive(np.ceil(values).astype(np.int32), results, threads)
    positive = np.ceil(values) > 0
    expected = [positive.sum(), positive.any(), positive.all()]
    np.testing.assert_array_equal(results, np.tile(expected, (threads, 1)))


@pytest.mark.parametrize("bytes_", [4, 8])
@pytest.mark.parametrize("width", [1, 2, 8, 16, 32])
def test_shuffles(kernels, random, bytes_, width):
    values = random.standard_normal(32).astype(f"f{bytes_}")
    choice = random.integers(-40, 40, 32, dtype=np.int32)
    distance = int(random.integers(0, 32))
    out = np.empty((4, 32), values.dtype)
    getattr(kernels, f"run_shuffles_{bytes_}")(values, choice, distance, width, out)
    lane = np.arange(32)
    first = lane // width * width
    up, down, other = lane - distance, lane + distance, lane ^ distance
    sources = [
        first + choice % width,
        np.where(up >= first, up, lane),
        np.where(down < first + width, down, lane),
        np.where(other < first + width, other, lane),
    ]
    np.testing.assert_array_equal(out, values[np.stack(sources)])


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0000FFFF, 0x1, 0xA5A5F00D])
def test_votes_of_a_divided_warp(kernels, random, mask):
    values = random.integers(-3, 20, 32, dtype=np.int32)
    out = np.empty((11, 32), np.uint32)
    kernels.run_votes(values, ctypes.c_uint(mask), out)
    lanes = np.arange(32)
    own = (mask >> lanes & 1).astype(bool)
    for part in (own, ~own):
        v, u = values[part], values[part].view(np.uint32)
        if not len(v):
            continue
        bits = np.uint32(1) << lanes[part].astype(np.uint32)
        ballot = bits[v & 1 == 1].sum(dtype=np.uint32)
        matches = [bits[(v & 3) == (x & 3)].sum(dtype=np.uint32) for x in v]
        expected = [ballot, (v > 5).any(), (v > 5).all(), matches, u.sum(dtype=np.uint32)]
        expected += [v.min().view(np.uint32), v.max().view(np.uint32), u.min()]
        expected += [op.reduce(u) for op in (np.bitwise_and, np.bitwise_or, np.bitwise_xor)]
        for got, want in zip(out[:, part], expected, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("span", [3, 2**40, 2**62])
def test_warp_reductions(kernels, random, span):
    values = random.integers(-span, span, 32)
    out = np.empty((6, 32), np.int64)
    kernels.run_reductions(values, out)
    words = values.astype(np.int32)
    expected = [values.max(), values.view(np.uint64).max().view(np.int64), words.max()]
    expected += [words.min(), words.sum(dtype=np.int32), words.view(np.uint32).min()]
    np.testing.assert_array_equal(out, np.array(expected, np.int64)[:, None].repeat(32, 1))


def test_a_wrapper_with_a_host_body(kernels, random):
    values = random.integers(-100, 100, 32, dtype=np.int32)
    out = np.empty(32, np.int32)
    kernels.run_weigh(values, out)
    np.testing.assert_array_equal(out, np.full(32, values @ np.arange(32)))


def test_half_and_bfloat16_round_correctly(kernels, random):
    bits = random.integers(0, 2**32, 200_000, dtype=np.uint32)
    every_half = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = every_half[np.isfinite(every_half)]
    ties = (finite[:-1] + finite[1:]) / 2
    small = random.uniform(-1e-4, 1e-4, 10_000).astype(np.float32)
    values = np.concatenate([bits.view(np.float32), every_half, ties, small])
    n = len(values)
    halves, bfloats = np.empty(n, np.uint16), np.empty(n, np.uint16)
    from_halves, from_bfloats = np.empty(n, np.float32), np.empty(n, np.float32)
    kernels.run_round_trips(values, n, halves, from_halves, bfloats, from_bfloats)

    number = ~np.isnan(values)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(halves[number], expected.view(np.uint16)[number])
    np.testing.assert_array_equal(from_halves, expected.astype(np.float32))
    # Of the two bfloat16 around a value, the nearer one; in a tie, the even one.
    below = values.view(np.uint32) >> 16
    candidates = np.stack([below, below + 1]).astype(np.uint32)
    with np.errstate(invalid="ignore"):
        distance = np.abs((candidates << 16).view(np.float32).astype(np.float64) - values)
    finite = np.isfinite(distance).all(0)
    nearest = np.where(
        distance[0] == distance[1],
        np.where(candidates[0] % 2 == 0, candidates[0], candidates[1]),
        candidates[distance.argmin(0), np.arange(n)],
    )
    np.testing.assert_array_equal(bfloats[finite], nearest[finite])
    np.testing.assert_array_equal(from_bfloats, (bfloats.astype(np.uint32) << 16).view(np.float32))
    assert (halves[~number] == 0x7FFF).all() and (bfloats[~number] == 0x7FFF).all()


def test_arithmetic_to_the_last_bit(kernels, random):
    n = 1000
    values = random.standard_normal((n, 4)).astype(np.float32)
    values[:, 3] *= np.float32(10.0) ** random.integers(-3, 12, n)
    values[::7, 3] = np.nan
    floats, ints = np.empty((7, n), np.float32), np.empty((8, n), np.int32)
    kernels.run_arithmetic(values, n, floats, ints)

    x, y, z, w = values.T
    # A product of two floats is exact in long double. Adding a third rounds twice, which differs
    # from rounding once in only one of billions of cases.
    fused = x.astype(np.longdouble) * y + z
    expected = [fused.astype(np.float32), x * y + z, x - y, x / y, np.sqrt(np.abs(x))]
    expected += [np.fmin(x, w), np.fmax(x, w)]
    np.testing.assert_array_equal(floats, np.stack(expected))

    a, b = (int_column.astype(np.uint64) for int_column in (x.view(np.uint32), y.view(np.uint32)))
    binary = [f"{word:032b}" for word in a]
    octets = np.stack([a >> 8, b >> 8, a >> 24, b >> 24]).astype(np.uint64) & np.uint64(0xFF)
    expected = [
        [word.count("1") for word in binary],
        [len(word) - len(word.lstrip("0")) for word in binary],
        [len(word) - len(word.rstrip("0")) + 1 for word in binary],
        [int(word[::-1], 2) for word in binary],
        a * b >> np.uint64(32),
        (b << np.uint64(32) | a) >> np.uint64(7) & np.uint64(0xFFFFFFFF),
        octets[1] | octets[0] << np.uint64(8) | octets[3] << np.uint64(16) | octets[2] << 24,
        np.where(np.isnan(w), 0, np.clip(np.trunc(w.astype(float)), -(2**31), 2**31 - 1)),
    ]
    for got, want in zip(ints, expected, strict=True):
        np.testing.assert_array_equal(got.astype(np.int64) % 2**32, np.asarray(want) % 2**32)


@pytest.mark.parametrize("size", [2, 4, 16])
@pytest.mark.parametrize("seed", SEEDS)
def test_clusters(kernels, random, size, seed):
    clusters, threads, steps = 2, int(random.integers(1, 65)), 5
    values = random.integers(0, 10**6, (clusters * size, threads), dtype=np.int32)
    kernels.seed(seed)
    by_cluster = values.reshape(clusters, size, threads)
    expected = np.roll(by_cluster, steps, axis=1).reshape(values.shape)
    np.testing.assert_array_equal(
        rotated(kernels, values, clusters, size, steps), [expected, expected]
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_cooperative_grids(kernels, random, seed):
    values = random.integers(0, 100, (random.integers(1, 12), 32), dtype=np.int32)
    kernels.seed(seed)
    np.testing.assert_array_equal(cascaded(kernels, values, 6), cascade_reference(values, 6))


def test_anyone_may_be_first(kernels):
    firsts = []
    for seed in range(64):
        kernels.seed(seed)
        turn = np.empty((8, 64), np.int32)
        kernels.run_turns(np.zeros(1, np.int32), turn, *turn.shape)
        assert sorted(turn.flat) == list(range(turn.size))
        firsts.append(turn.argmin())
    blocks, threads = np.divmod(firsts, 64)
    assert len(set(blocks)) > 4 and len(set(threads // 32)) == 2 and len(set(threads % 32)) > 16


def test_shared_memory_starts_poisoned_differently(kernels):
    words = np.zeros(64, np.uint32)
    kernels.run_read_unwritten(words, len(words))
    assert 0xFFFFFFFF in words and 0x7FFFFFFF in words and len(set(words)) > 8


def test_barriers_are_counted(kernels):
    before = kernels.barriers_passed()
    row_sums(kernels, np.zeros((5, 10), np.int32), rounds=4)
    assert kernels.barriers_passed() == before + 5 * 4 * 2


def test_a_seed_repeats_its_order(kernels):
    def run(seed):
        kernels.seed(seed)
        words = np.zeros(64, np.uint32)
        kernels.run_read_unwritten(words, len(words))
        return words

    assert (run(3) == run(3)).all()
    assert (run(3) != run(4)).any()


# Mistakes are noticed.


def altered(tmp_path, name, old, new):
    """A library of a copy of one test file in which `old`, found exactly once, becomes `new`."""
    text = (KERNELS / name).read_text()
    assert text.count(old) == 1, f"{name} contains {old!r} {text.count(old)} times"
    for header in ("exports.h", "gangs.cuh"):
        shutil.copy(KERNELS / header, tmp_path)
    (tmp_path / name).write_text(text.replace(old, new))
    return Library(compile_host([tmp_path / name, KERNELS / "control.cpp"]))


def seeds_that_notice(library, run, expected):
    """How many of 16 seeds give a different result or a report."""
    noticed = 0
    for seed in range(16):
        library.seed(seed)
        try:
            noticed += not np.array_equal(run(), expected)
        except RuntimeError:
            noticed += 1
    return noticed


def line_with(name, start):
    """The line of a test file that contains `start`, such as a call with its numbered comment."""
    return next(line for line in (KERNELS / name).read_text().splitlines() if start in line)


@pytest.mark.slow
@pytest.mark.parametrize("barrier", [1, 2])
def test_a_missing_barrier_shows(tmp_path, random, barrier):
    line = line_with("block.cu", f"__syncthreads();  // {barrier}:")
    library = altered(tmp_path, "block.cu", line, "")
    values = random.integers(-1000, 1000, (3, 500), dtype=np.int32)
    assert seeds_that_notice(library, lambda: row_sums(library, values), values.sum(1)) > 8


@pytest.mark.slow
@pytest.mark.parametrize("barrier", [1, 2, 3])
def test_a_missing_warp_barrier_shows(tmp_path, random, barrier):
    line = line_with("block.cu", f"__syncwarp();  // {barrier}:")
    library = altered(tmp_path, "block.cu", line, "")
    values = random.standard_normal((4, 32), np.float32)
    expected = values[:, ::-1][:, np.arange(32) ^ 1]
    assert seeds_that_notice(library, lambda: reversed_and_swapped(library, values), expected) > 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", ["cluster_sync();  // 1:", "cluster_arrive();", "cluster_wait();  // 2:"]
)
def test_a_missing_cluster_barrier_shows(tmp_path, random, start):
    library = altered(tmp_path, "gangs.cu", line_with("gangs.cu", start), "")
    values = random.integers(0, 10**6, (8, 40), dtype=np.int32)
    expected = np.roll(values.reshape(2, 4, 40), 5, axis=1).reshape(values.shape)
    assert seeds_that_notice(library, lambda: rotated(library, values, 2, 4, 5), [expected] * 2) > 8


@pytest.mark.slow
@pytest.mark.parametrize("barrier", [1, 2])
def test_a_missing_grid_barrier_shows(tmp_path, random, barrier):
    line = line_with("gangs.cu", f"grid_sync();  // {barrier}:")
    library = altered(tmp_path, "gangs.cu", line, "")
    values = random.integers(0, 100, (5, 32), dtype=np.int32)
    expected = cascade_reference(values, 6)
    assert seeds_that_notice(library, lambda: cascaded(library, values, 6), expected) > 8


@pytest.mark.parametrize(
    ("name", "report"),
    {
        "barrier_missed_by_exit": r"33 wait at __syncthreads \(mistakes.cu:\d+\), 31 have exited",
        "barriers_at_two_places": r"reaches the barrier at mistakes.cu:\d+ while others of its "
        r"block wait at that of mistakes.cu:\d+",
        "barrier_against_collective": "1 wait at __syncthreads .*, 31 wait at __syncwarp",
        "collective_with_exited_lane": "31 wait at __shfl_sync with mask 0xffffffff .*, "
        "1 have exited",
        "collective_with_wrong_mask": r"thread \((1[6-9]|2\d|3[01]), 0, 0\) calls __any_sync .*"
        "with a mask that leaves it out",
        "collectives_of_two_masks": "16 wait at __syncwarp with mask 0xfffffffe .*"
        "16 wait at __syncwarp with mask 0xffffffff",
        "endless_spin": "livelock",
        "trap_in_thread": r"thread \(21, 0, 0\) stops at __trap",
        "too_deep": "needs more than .* bytes of stack",
        "garbage_for_an_index": "uses address .*, where there is no memory",
        "division_by_zero": "divides an integer by zero",
        "cluster_barrier_missed": "32 wait at the cluster's barrier .*"
        "of 4 blocks that run together 1 have finished",
        "grid_barrier_missed": "32 wait at the grid's barrier .*"
        "of 3 blocks that run together 1 have finished",
        "grid_barrier_without_cooperation": "waits for a grid that was not launched cooperatively",
        "map_of_global_memory": "maps an address that is not in its block's shared memory",
    }.items(),
)
def test_a_broken_rule_is_reported(kernels, random, name, report):
    kernels.seed(int(random.integers(2**32)))
    kernel = name.replace("_without_cooperation", "_missed")
    with pytest.raises(RuntimeError, match=rf"^{kernel}, block \(\d, 0, 0\): .*{report}"):
        kernels.run_mistake(name, np.zeros(64, np.int32))
    test_barriers_and_static_shared_memory(kernels, random, 0)  # the next launch is unaffected


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("reads_block_that_may_have_ended", slice(0, 2)),  # its static shared memory
        ("reads_block_that_may_have_ended", slice(2, 4)),  # its dynamic shared memory
        ("writes_block_that_may_not_have_started", slice(0, 2)),
    ],
)
def test_shared_memory_of_a_block_that_is_not_there(kernels, name, places):
    def run():
        out = np.zeros(64, np.int32)
        kernels.run_mistake(name, out)
        return out[places]

    assert seeds_that_notice(kernels, run, [42, 42]) > 8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(block=(1025, 1, 1)), "1 to 1024 threads, got (1025, 1, 1)"),
        (dict(block=(16, 16, 5)), "1 to 1024 threads, got (16, 16, 5)"),
        (dict(block=(0, 1, 1)), "1 to 1024 threads, got (0, 1, 1)"),
        (dict(grid=(0, 1, 1)), "blocks, got (0, 1, 1)"),
        (dict(grid=(1, 65536, 1)), "blocks, got (1, 65536, 1)"),
        (dict(shared=227 * 1024 + 1), "at most 232448 bytes of shared memory, got 232449"),
        (dict(cluster=3, grid=(3, 1, 1)), "a power of two of at most 16 blocks, got 3"),
        (dict(cluster=4, grid=(6, 1, 1)), "a multiple of the cluster's 4 blocks, got 6"),
        (
            dict(cooperative=True, block=(1024, 1, 1), grid=(265, 1, 1)),
            "at most 264 blocks, got 265",
        ),
    ],
)
def test_a_launch_beyond_the_device_is_refused(kernels, change, reason):
    with pytest.raises(RuntimeError, match=re.escape(reason)) as error:
        launch_nothing(kernels, **change)
    assert str(error.value).startswith("cannot launch nothing: ")


def launch_nothing(
    library, grid=(1, 1, 1), block=(1, 1, 1), shared=0, cluster=1, cooperative=False
):
    shape = np.array(grid, np.uint32), np.array(block, np.uint32)
    library.run_nothing(*shape, ctypes.c_size_t(shared), cluster, cooperative)


def test_limits_are_those_of_the_chosen_device(kernels):
    kernels.play_device(major=8, multiprocessors=2, shared_per_block=99 * 1024)
    try:
        launch_nothing(kernels, shared=99 * 1024)
        with pytest.raises(RuntimeError, match="shared memory"):
            launch_nothing(kernels, shared=99 * 1024 + 1)
        with pytest.raises(RuntimeError, match="clusters need compute capability 9.0"):
            launch_nothing(kernels, cluster=2, grid=(2, 1, 1))
        with pytest.raises(RuntimeError, match="at most 64 blocks"):
            launch_nothing(kernels, cooperative=True, grid=(65, 1, 1))
    finally:
        kernels.play_device()


# Under AddressSanitizer.

SANITIZED = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for name in ("run_mistake", "run_writes_at"):
    getattr(library, name).restype = ctypes.c_char_p
out = (ctypes.c_int * 64)()
"""


@pytest.fixture(scope="module")
def sanitized():
    library = compile_host([KERNELS / "mistakes.cu", KERNELS / "control.cpp"], sanitize=True)
    return lambda code: run_sanitized("-c", SANITIZED + code, library)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("places", "error"),
    [
        ((63, 15, 7), None),
        ((64, 15, 7), "heap-buffer-overflow"),
        ((-1, 15, 7), "heap-buffer-overflow"),
        ((63, 16, 7), "heap-buffer-overflow"),
        ((63, -1, 7), "heap-buffer-overflow"),
        ((63, 15, 8), "index 8 out of bounds for type 'int [8]'"),
    ],
)
def test_an_index_off_by_one_is_caught(sanitized, places, error):
    finished = sanitized(f"library.run_writes_at(out, *{places}); print('passed')")
    if error:
        assert finished.returncode != 0
        assert error in finished.stderr and "mistakes.cu" in finished.stderr
    else:
        assert finished.stdout == "passed\n", finished.stderr


@pytest.mark.slow
def test_memory_of_a_block_that_ended_is_caught(sanitized):
    finished = sanitized(
        "for seed in range(16):\n"
        "    library.seed(ctypes.c_uint64(seed))\n"
        "    library.run_mistake(b'reads_block_that_may_have_ended', out)\n"
    )
    assert "use-after-poison" in finished.stderr


@pytest.mark.slow
def test_the_sanitizer_bears_threads_that_never_end(sanitized):
    finished = sanitized(
        "for name in (b'barrier_missed_by_exit', b'grid_barrier_missed', b'trap_in_thread') * 3:\n"
        "    print(library.run_mistake(name, out).decode())\n"
    )
    assert finished.stderr == "" and finished.stdout.count("block (") == 9


# Under nvcc.


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
@pytest.mark.parametrize("name", ["gangs.cu", "lanes.cu"])
def test_the_same_files_are_cuda(tmp_path, name):
    architectures = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in (80, 90)]
    command = ["nvcc", "-std=c++20", *architectures, f"-I{CSRC}", "-c", KERNELS / name]
    finished = subprocess.run(
        [*command, "-o", tmp_path / "object.o"], capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
