"""What a search visits and what a plan costs grow smoothly with the size of the cloud."""

import itertools
import os
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(points, cost) by kind and case."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    program = tmp_path_factory.mktemp("growth") / "growth"
    include = [f"-I{ROOT / 'csrc'}", f"-I{Path(torch.__file__).parent / 'include'}"]
    flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-Wno-psabi", *include]
    source = Path(__file__).with_name("growth.cpp")
    subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    found = defaultdict(list)
    for kind, case, points, cost in map(str.split, lines.splitlines()):
        found[kind, case].append((int(points), float(cost)))
    return found


@pytest.mark.parametrize("case", ["spread", "crowded", "nested"])
def test_a_query_looks_at_no_more_buckets_in_a_larger_cloud(series, case):
    costs = [cost for _, cost in series["knn", case]]
    assert len(costs) == 5 and max(costs) < 2 * min(costs) and max(costs) < 12


@pytest.mark.parametrize("clouds", ["1", "32"])
def test_a_fourth_more_points_cost_no_step_of_sampling_much_more(series, clouds):
    costs = series["fps", clouds]
    assert costs[-1][0] > 45_000_000
    for (points, before), (_, after) in itertools.pairwise(costs):
        assert after < 3 * before, f"a jump beyond {points} points"
    # In the end a step takes at most as many cycles as points, since all multiprocessors share
    # them.
    assert costs[-1][1] < costs[-1][0] * int(clouds)


@pytest.mark.parametrize("clouds", ["1", "32"])
def test_queries_of_larger_clouds_are_shared_by_no_fewer_blocks(series, clouds):
    splits = [cost for _, cost in series["splits", clouds]]
    assert splits == sorted(splits) and splits[-1] <= 2 * 132
