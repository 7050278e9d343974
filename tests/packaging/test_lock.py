"""constraints.txt names one tested version of every package for every supported Python."""

import re

import project
import pytest
from packaging.utils import canonicalize_name


@pytest.mark.parametrize("python", project.PYTHONS)
def test_every_requirement_is_locked_at_a_version_that_it_allows(python):
    pins = project.locked(python)
    here = project.environment(python)
    for requirement in project.requirements(*project.EXTRAS):
        if requirement.marker and not requirement.marker.evaluate(here):
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin, f"{requirement.name} is not in constraints.txt: run make lock"
        [version] = pin.specifier
        assert version.operator == "=="
        assert version.version in requirement.specifier, (
            f"{pin} does not satisfy {requirement}: run make lock"
        )


def test_torch_is_the_one_whose_cpu_build_is_at_hand():
    makefile = (project.ROOT / "Makefile").read_text()
    [wanted] = re.findall(r"^LOCKED_TORCH := (.*)$", makefile, flags=re.MULTILINE)
    assert {str(project.locked(python)["torch"].specifier) for python in project.PYTHONS} == {
        f"=={wanted}"
    }


def test_the_lock_names_no_index_and_no_folder():
    text = (project.ROOT / "constraints.txt").read_text()
    assert not re.search(r"https?:|file:|^--|/", text, flags=re.MULTILINE)


def test_the_extra_for_builds_is_what_the_build_requires():
    assert project.EXTRAS["build"] == project.PYPROJECT["build-system"]["requires"]


def test_the_tests_run_on_every_supported_python():
    classifiers = project.PROJECT["classifiers"]
    named = [c.rpartition(" ")[2] for c in classifiers if "Python :: 3." in c]
    assert tuple(named) == project.PYTHONS
    workflow = (project.ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert all(f'"{python}"' in workflow for python in project.PYTHONS)
