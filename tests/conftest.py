"""What every test starts from."""

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same inputs every time, so that no change fails by another's luck; DAPT_SEED=1 others."""
    torch.manual_seed(int(os.environ.get("DAPT_SEED", "0")))
