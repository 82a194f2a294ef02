"""Every folder with code is a package of the wheel, and the wheel works away from the checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-torch.lock")
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


def _locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Return the version and the hashes of each package of a lock file."""
    from packaging.utils import canonicalize_name

    text = (ROOT / name).read_text().replace("\\\n", " ")
    pins = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    found: dict[str, tuple[str, list[str]]] = {}
    for pin, *hashes in pins:
        package, version = pin.split("==")
        found[canonicalize_name(package)] = (version, hashes)
    return found


def test_locked_versions_satisfy_the_ranges() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    locked = {package: version for name in LOCKS for package, (version, _) in _locked(name).items()}
    project = _project()["project"]
    assert isinstance(project, dict)
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked"
        assert requirement.specifier.contains(version), f"{requirement} but locked is {version}"


def test_locks_name_no_host_and_no_build() -> None:
    for name in LOCKS:
        lines = (ROOT / name).read_text().splitlines()
        assert lines
        for line in lines:
            assert line.startswith("#") or ("://" not in line and "+" not in line), line


@pytest.mark.parametrize("name", LOCKS[:2])
def test_every_locked_package_but_torch_has_its_hashes(name: str) -> None:
    packages = _locked(name)
    assert len(packages) > 30 and "torch" not in packages
    for package, (_, hashes) in packages.items():
        assert hashes, f"{package} has no hashes"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), package
    assert list(_locked("requirements-torch.lock")) == ["torch"]


def test_what_has_hashes_is_installed_by_them_alone() -> None:
    lines = [line for line in (ROOT / "build.sh").read_text().splitlines() if '.lock"' in line]
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) == 2 and all("--require-hashes" in line for line in installs)


def test_a_changed_package_is_refused(tmp_path: Path) -> None:
    """The installer looks at the hash of a file that has the right name and version."""
    version = _locked("requirements.lock")["typer"][0]
    (tmp_path / f"typer-{version}-py3-none-any.whl").write_bytes(b"another")
    text = (ROOT / "requirements.lock").read_text()
    pin = re.search(r"^typer==(?:\\\n|.)*", text, re.MULTILINE)
    assert pin is not None
    (tmp_path / "one.lock").write_text(pin[0] + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--require-hashes", "--no-deps", "--no-index"]
    options = ["--dry-run", "--ignore-installed", "--find-links", str(tmp_path)]
    install = [*pip, *options, "-r", str(tmp_path / "one.lock")]
    result = subprocess.run(install, capture_output=True, text=True, timeout=100)
    assert result.returncode != 0 and "DO NOT MATCH THE HASHES" in result.stderr, result.stderr
