"""The GPU launches of a training step, counted as torch dispatches them on the CPU."""

from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize("dtype, most", [(torch.float32, 900), (torch.bfloat16, 1000)], ids=str)
def test_launches_of_a_step(dtype, most, monkeypatch, one_thread):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from launches import count

    counter = count(dtype)
    assert 500 < counter.total <= most, counter.by_name.most_common()
