"""The first hour from end to end; `make package` runs it in an environment of its own."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_first_hour(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    script = Path(__file__).with_name("hour.py")
    done = subprocess.run([sys.executable, script], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("an hour well spent\n")
