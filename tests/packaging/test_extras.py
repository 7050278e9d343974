"""Each extra works alone: what it does not include is asked for in one sentence.

Packages of other extras are hidden from a process; `make package` does it with real environments.
"""

import os
import subprocess
import sys
from pathlib import Path

import project
import pytest

HERE = Path(__file__).parent
SCENARIOS = {name: [name] for name in ("train", "files", "hub", "serve", "peft", "export")}
# reports and jobs need trainings
SCENARIOS |= {"bare": [], "view": ["train", "view"], "slurm": ["train", "slurm"]}


@pytest.fixture(scope="session")
def metadata(tmp_path_factory):
    """A folder with the metadata of an installed dapt."""
    folder = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, cwd=project.ROOT, check=True, capture_output=True)
    return folder


def run(metadata, folder, extras, script, *arguments):
    packages = ",".join(str(requirement) for requirement in project.requirements(*extras))
    paths = [str(metadata), str(project.ROOT), str(project.ROOT / "python")]
    return subprocess.run(
        [sys.executable, str(HERE / "hidden.py"), packages, str(script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_extra_alone(metadata, tmp_path, name):
    done = run(metadata, tmp_path, SCENARIOS[name], HERE / "scenarios.py", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("as promised\n")


def test_every_extra_of_users_has_a_scenario():
    assert project.EXTRAS.keys() - project.DEVELOPMENT == SCENARIOS.keys() - {"bare"}


@pytest.mark.slow
def test_the_demo_needs_what_make_demo_installs(metadata, tmp_path):
    done = run(metadata, tmp_path, ["train"], project.ROOT / "examples" / "demo.py", "--help")
    assert done.returncode == 0 and "usage: demo.py" in done.stdout, done.stderr
