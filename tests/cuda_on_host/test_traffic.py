"""Bank conflicts and sectors, counted on the host for access patterns whose cost is known."""

import numpy as np
import pytest
from host_build import HERE, compile_host
from test_cuda_on_host import Library

KERNELS = HERE / "kernels"


@pytest.fixture(scope="module")
def patterns():
    flags = ["-fno-threadsafe-statics"]  # the guard would add a hook
    return Library(compile_host([KERNELS / "patterns.cu"], flags, races=True))


def counts(patterns, name, argument=0):
    """Wavefronts and their minimum, sectors and their minimum, of one warp."""
    memory = np.zeros(8192, np.float32)
    values, out = memory[-(memory.ctypes.data // 4) % 64 :].reshape(-1)[: 2 * 3072].reshape(2, 3072)
    taken = np.zeros(4, np.uint64)
    patterns.take_traffic(taken)  # starts counting
    patterns.run_pattern(name, argument, values, out)
    patterns.take_traffic(taken)
    return taken.tolist()


@pytest.mark.parametrize("stride, ways", [(1, 1), (2, 2), (3, 1), (4, 4), (8, 8), (32, 32)])
def test_words_apart(patterns, stride, ways):
    """A write and a read: words at multiples of 32 share a bank."""
    assert counts(patterns, "words_apart", stride) == [2 * ways, 2, 0, 0]


@pytest.mark.parametrize("stride, ways", [(4, 1), (8, 2), (12, 1), (16, 4), (32, 8)])
def test_sixteen_bytes_a_lane(patterns, stride, ways):
    """Eight lanes are served at a time: at best four wavefronts, for each of two accesses."""
    shared = counts(patterns, "fours_apart", stride)[:2]
    assert shared == [8 * ways, 8]


def test_one_word_for_all(patterns):
    """Lanes that read a word get it at once; lanes that add to it take turns."""
    wavefronts, least, _, _ = counts(patterns, "one_word")
    assert (wavefronts, least) == (1 + 1 + 32 + 1, 4)


@pytest.mark.parametrize("stride, sectors", [(1, 4), (2, 8), (8, 32), (64, 32)])
def test_words_of_global_memory(patterns, stride, sectors):
    """A read and a write of 128 bytes take four sectors each if they are contiguous."""
    assert counts(patterns, "copy_apart", stride) == [0, 0, 2 * sectors, 2 * 4]


def test_lanes_with_more_turns_than_others(patterns):
    """Rows of 16 floats are read in turns, each of which is a request of the lanes that take it."""
    _, _, sectors, least = counts(patterns, "rows", 15)
    assert sectors == 15 * 32 + 16 + 4
    assert least == 15 * 4 + 2 + 4
