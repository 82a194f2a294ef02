"""Every folder with code is a package of the wheel, and the wheel works away from the checkout."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("worldbridge", "benchmarks", "bridge", "kernels", "models", "runtime", "engine_plugins")


def _project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_every_package_is_listed() -> None:
    on_disk = set()
    for folder in FOLDERS:
        for init in (ROOT / folder).rglob("__init__.py"):
            name = ".".join(init.parent.relative_to(ROOT).parts)
            on_disk.add(name if folder == "worldbridge" else f"worldbridge.{name}")
    listed = _project()["tool"]["setuptools"]["packages"]  # type: ignore[index]
    assert set(listed) == on_disk


def test_every_module_lies_in_a_package() -> None:
    for folder in FOLDERS:
        for module in (ROOT / folder).rglob("*.py"):
            assert (module.parent / "__init__.py").exists(), f"{module} would not be in the wheel"


def test_every_listed_package_is_mapped_to_its_folder() -> None:
    mapping = _project()["tool"]["setuptools"]["package-dir"]  # type: ignore[index]
    assert mapping == {f"worldbridge.{name}": name for name in FOLDERS if name != "worldbridge"}


def test_locked_versions_satisfy_the_ranges() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    locked = {}
    for name in ("requirements.lock", "requirements-dev.lock"):
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith("#"):
                package, version = line.split("==")
                locked[canonicalize_name(package)] = version
    project = _project()["project"]
    assert isinstance(project, dict)
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked"
        assert requirement.specifier.contains(version), f"{requirement} but locked is {version}"


def test_locks_name_no_host_and_no_build() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        lines = (ROOT / name).read_text().splitlines()
        assert lines
        for line in lines:
            assert line.startswith("#") or ("://" not in line and "+" not in line), line
