"""The lock file of CI: the versions of constraints.txt with a hash for each, and no host."""

import importlib.metadata
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "locked-3.11-linux.txt"
LANE = {
    "python_version": "3.11",
    "python_full_version": "3.11.14",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
}


def entries(text):
    """The text of each requirement, its lines joined and comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [line for line in lines.replace("\\\n", " ").splitlines() if line.strip()]


def locked():
    return entries(LOCK.read_text("utf-8"))


def versions(requirements):
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in requirements}


def test_the_lock_file_has_exactly_the_versions_of_the_constraints():
    constraints = [Requirement(line) for line in entries((ROOT / "constraints.txt").read_text("utf-8"))]
    applying = [each for each in constraints if each.marker is None or each.marker.evaluate(LANE)]
    expected = versions(applying)
    expected.pop("torch")  # from an index of its own: tests.yml says why
    assert versions(Requirement(line.partition(" --hash")[0]) for line in locked()) == expected


def test_every_entry_of_the_lock_file_has_a_hash():
    for line in locked():
        requirement, *hashes = line.split("--hash=")
        assert re.fullmatch(r"[\w.-]+==[\w.+]+\s+", requirement), line
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", each) for each in hashes), line


def test_the_lock_file_names_no_host_and_is_reproducible():
    text = LOCK.read_text("utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host|^-[if] ", text, re.MULTILINE)
    made = [line.split() for line in text.splitlines() if line.startswith("#    uv pip compile ")]
    assert len(made) == 1
    assert made[0][-2:] == [LOCK.relative_to(ROOT).as_posix(), "constraints.txt"]
    assert "--generate-hashes" in made[0]


def test_a_ci_job_installs_from_the_lock_file_alone():
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))["jobs"]["hashes"]
    assert ROOT / job["env"]["LOCK"] == LOCK
    installs = [step["run"] for step in job["steps"] if "pip install" in step.get("run", "")]
    assert len(installs) == 3
    assert all("--no-deps" in line for line in installs), "nothing comes beside what is named"
    assert "--require-hashes" in installs[0]
    assert installs[0].endswith('--requirement "$LOCK"')
    assert installs[1].endswith("--constraint constraints.txt torch")
    assert "--no-build-isolation" in installs[2]
    python = next(step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {}))
    assert LANE["python_full_version"].startswith(python + ".")
    # The index of PyTorch is asked for PyTorch only.
    asked = [step["run"] for step in job["steps"] if "PIP_EXTRA_INDEX_URL" in step.get("env", {})]
    assert asked == [installs[1]]


def required(requirement, seen):
    """Adds to `seen` every package that a requirement brings, as far as it is installed here, with what asks for it."""
    name = canonicalize_name(requirement.name)
    asked = (name, *sorted(requirement.extras))
    if asked in seen:
        return
    seen[asked] = requirement.specifier
    # PyTorch's CUDA libraries are of the wheel that CI does not take.
    if name == "torch":
        return
    try:
        further = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for each in map(Requirement, further):
        if any(each.marker is None or each.marker.evaluate({**LANE, "extra": extra}) for extra in ("", *asked[1:])):
            required(each, seen)


def test_whatever_the_locked_packages_require_is_locked():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = [name for name in extras if f"panbench[{name}]" in extras["dev"]]
    wanted = [
        *project["dependencies"],
        *extras["docs"],
        *extras["dev"],
        *(row for name in names for row in extras[name]),
    ]
    seen = {}
    for each in map(Requirement, wanted):
        if each.name != "panbench":
            required(each, seen)
    assert len(seen) > len(wanted)
    locked_versions = versions(Requirement(line.partition(" --hash")[0]) for line in locked()) | {"torch": "2.13.0"}
    assert {name for name, *_ in seen} - set(locked_versions) == set()
    unfit = {name: str(given) for (name, *_), given in seen.items() if not given.contains(locked_versions[name])}
    assert unfit == {}
