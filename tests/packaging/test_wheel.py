"""What is shipped: an sdist that builds the wheel, and the wheel in environments with nothing else.
`make package` runs this file; it downloads torch once, and packages as wheels."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import project
import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
LOCK = ["--only-binary=:all:", "-c", str(project.ROOT / "constraints.txt")]
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONPATH", "VIRTUAL_ENV", "CMAKE_CXX_COMPILER_LAUNCHER")
}


def call(*command, **options):
    done = subprocess.run(
        [str(word) for word in command],
        **{"env": CLEAN, "capture_output": True, "text": True} | options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(python, *words, **options):
    return call(python, "-m", "pip", "--disable-pip-version-check", *words, **options)


def new_environment(folder):
    """The Python of an empty virtual environment."""
    call(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    hook = f"import build_backend; build_backend.build_sdist({str(folder)!r})"
    call(sys.executable, "-c", hook, cwd=project.ROOT, env=CLEAN | {"PYTHONPATH": "."})
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    """Built from the sdist as pip does by default: isolated, against this Python's torch."""
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "-w", folder, sdist)
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="session")
def bare(wheel, tmp_path_factory):
    """An environment with the wheel and its requirements."""
    folder = tmp_path_factory.mktemp("bare")
    python = new_environment(folder)
    pip(python, "install", "--no-compile", *LOCK, wheel)
    return folder


def with_extra(bare, folder, wheel, extra):
    """An environment with one more extra; what the bare one has is not installed again."""
    python = new_environment(folder)
    [inner], [outer] = folder.glob("lib/*/site-packages"), bare.glob("lib/*/site-packages")
    (inner / "bare.pth").write_text(f"{outer}\n")
    pip(python, "install", "--no-compile", *LOCK, f"{wheel}[{extra}]")
    return folder


def test_the_sdist_holds_what_a_build_and_the_tests_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("LICENSE", "CITATION.cff", "build_backend.py", "CMakeLists.txt", "csrc/ops.h"):
        assert name in names
    assert {"configs/npz.yaml", "tests/conftest.py", "python/dapt/py.typed"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".o"))]


def test_the_wheel_is_one_for_the_platform(wheel):
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version) == (project.PROJECT["name"], project.PROJECT["version"])
    assert (python, abi) == ("py3", "none") and platform != "any"


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        libraries = [name for name in names if ".so" in name]
        contents = {name: archive.read(name) for name in libraries}
        metadata = archive.read(next(name for name in names if name.endswith("METADATA")))
    assert {name.split("/")[0] for name in names} == {
        "dapt",
        "dapt_ext",
        f"dapt-{project.PROJECT['version']}.dist-info",
    }
    assert {"dapt/py.typed", "dapt_ext/py.typed"} <= set(names)
    assert "dapt/models/pretrained/point_mae_tiny.safetensors" in names
    recipes = {f"dapt/configs/{path.name}" for path in (project.ROOT / "configs").glob("*.yaml")}
    assert recipes and recipes <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert b"License-Expression: MIT" in metadata and b"Requires-Python: >=3.10" in metadata
    assert "dapt_ext/libdapt_cpu.so" in libraries
    assert set(libraries) <= {"dapt_ext/libdapt_cpu.so", "dapt_ext/libdapt_cuda.so"}
    for name, content in contents.items():
        assert b"site-packages" not in content, f"{name} contains a path of the build machine"
        assert b"PyInit" not in content and b"on_host" not in content


def test_every_module_of_the_source_is_in_the_wheel(wheel):
    source = {
        str(path.relative_to(root))
        for root, package in ((project.ROOT / "python", "dapt"), (project.ROOT, "dapt_ext"))
        for path in (root / package).rglob("*.py")
    }
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.endswith(".py")}
    assert shipped == source


@pytest.mark.parametrize("extra", [None, "train", "files", "hub", "peft", "train,view"])
def test_an_extra_alone_without_a_compiler(bare, wheel, tmp_path, extra):
    folder = with_extra(bare, tmp_path / "env", wheel, extra) if extra else bare
    # No compiler, no ninja: only this environment's programs can be found.
    alone = {"PATH": str(folder / "bin"), "HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
    name = (extra or "bare").split(",")[-1]
    scenario = [folder / "bin" / "python", HERE / "scenarios.py", name]
    printed = call(*scenario, cwd=tmp_path, env=alone)
    assert printed.endswith("as promised\n")
    command = bare / "bin" / "dapt"  # dapt itself is installed there
    assert "train" in call(command, "--help", cwd=tmp_path, env=alone)


def test_without_torch_the_build_asks_for_it(tmp_path):
    code = "import build_backend; print(build_backend.get_requires_for_build_wheel())"
    empty = new_environment(tmp_path / "env")
    pip(empty, "install", "--no-compile", *LOCK, "setuptools")
    there = {"cwd": project.ROOT, "env": CLEAN | {"PYTHONPATH": "."}}
    assert "torch>=2.10" in call(empty, "-c", code, **there)
    assert "torch" not in call(sys.executable, "-c", code, **there)


def test_the_first_hour_in_an_environment_as_the_readme_makes_it(bare, wheel, tmp_path):
    folder = with_extra(bare, tmp_path / "env", wheel, "train,files")
    home = tmp_path / "home"
    home.mkdir()
    alone = {"PATH": str(folder / "bin"), "HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
    script = project.ROOT / "tests" / "first_hour" / "hour.py"
    printed = call(folder / "bin" / "python", script, cwd=home, env=alone)
    assert printed.endswith("an hour well spent\n")
