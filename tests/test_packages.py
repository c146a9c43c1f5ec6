"""What the code imports is what pyproject.toml declares, what the tests pin, and what hgr doctor
looks for."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

#: Imported name -> package, where they differ.
PACKAGES = {
    "zmq": "pyzmq",
    "pyorbbecsdk": "pyorbbecsdk2",
    "libusb_package": "libusb-package",
    "hand_tracking_sdk": "hand-tracking-sdk",
    # OpenCV is MediaPipe's own: which of its four packages that is differs between versions, and
    # two of them in one environment overwrite each other.
    "cv2": "mediapipe",
}


def imported(*roots: Path) -> Iterator[str]:
    """The top-level names of foreign packages in all import statements."""
    for path in (path for root in roots for path in root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            yield from {name.split(".")[0] for name in names} - sys.stdlib_module_names


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def declared() -> set[str]:
    lists = [project()["dependencies"], *project()["optional-dependencies"].values()]
    return {re.split(r"[\[<>=;~! ]", line)[0] for lines in lists for line in lines}


def test_what_pyzmq_needs_for_asyncio_on_windows_is_declared() -> None:
    asked = [Requirement(line) for line in project()["dependencies"]]
    there = [r.name for r in asked if r.marker and r.marker.evaluate({"sys_platform": "win32"})]
    here = [r.name for r in asked if r.marker and r.marker.evaluate({"sys_platform": "linux"})]
    assert (there, here) == (["tornado"], [])


def test_every_package_that_is_imported_is_declared() -> None:
    names = set(imported(ROOT / "hgr_stream", ROOT / "drivers")) - {"hgr_stream", "hgr_drivers"}
    assert {"numpy", "zstandard", "torch"} <= names
    assert not {PACKAGES.get(name, name) for name in names} - declared()


@pytest.mark.parametrize("name", sorted(declared() - {"hgr-stream"}))
def test_every_declared_package_is_pinned(name: str) -> None:
    pinned = (ROOT / "tools" / "constraints.txt").read_text().lower()
    assert f"\n{name.lower()}==" in pinned


def test_a_version_without_a_wheel_for_macos_is_not_pinned_there() -> None:
    lines = (ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line.partition("#")[0]) for line in lines if line[:1] != "#"]
    only = {p.name for p in pins if p.marker and not p.marker.evaluate({"sys_platform": "darwin"})}
    assert only == {"pyorbbecsdk2"}
    assert all(p.marker.evaluate({"sys_platform": "linux"}) for p in pins if p.marker)


# -- hgr doctor -------------------------------------------------------------------------------


def install(folder: Path, name: str, version: str, *lines: str) -> None:
    """A package's metadata, as an installation leaves it, ahead of the real one's."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    head = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}")
    (info / "METADATA").write_text("\n".join([*head, *lines]) + "\n")


def install_project(folder: Path) -> None:
    lines = [f"Requires-Dist: {wanted}" for wanted in project()["dependencies"]]
    for extra, wants in project()["optional-dependencies"].items():
        lines.append(f"Provides-Extra: {extra}")
        for line in wants:
            wanted, _, marker = line.partition(";")
            also = f"({marker.strip()}) and " if marker else ""
            lines.append(f"Requires-Dist: {wanted}; {also}extra == '{extra}'")
    install(folder, "hgr-stream", "0", *lines)


def doctor(folder: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "hgr_stream.cli", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    return done.returncode, {f["what"].split(":")[0]: f for f in json.loads(done.stdout)}


def test_doctor_looks_for_all_that_is_declared(tmp_path: Path) -> None:
    install_project(tmp_path)
    _, found = doctor(tmp_path)
    extras = set(project()["optional-dependencies"]) - {"all", "dev"}
    assert extras <= set(found)
    assert all(found[extra]["what"].partition(": ")[2] for extra in extras)
    for name in ("numpy", "zstandard", "rich"):
        assert f"{name} " in found["packages"]["state"]
    for extra, name in (("inference", "numba"), ("rokoko", "lz4"), ("camera", "av")):
        assert f"{name} " in found[extra]["state"]


def test_doctor_tells_what_is_missing_or_too_old(tmp_path: Path) -> None:
    install(
        tmp_path, "hgr-stream", "0",
        "Requires-Dist: numpy>=1.26",
        "Requires-Dist: msgspec>=99",
        *(f"Provides-Extra: {extra}" for extra in ("inference", "leap", "camera")),
        "Requires-Dist: numba>=0.61; extra == 'inference'",
        "Requires-Dist: no-such-package>=1; extra == 'leap'",
        "Requires-Dist: no-such-package; python_version < '3' and extra == 'camera'",
    )  # fmt: skip
    install(tmp_path, "numba", "0.1")
    code, found = doctor(tmp_path)
    assert code == 1
    assert re.fullmatch(r"numpy [\d.]+; msgspec [\d.]+, not >=99", found["packages"]["state"])
    assert found["packages"]["cure"] == 'pip install "hgr-stream"'
    assert found["inference"]["state"] == (
        "numba 0.1, not >=0.61 (a model's step takes several times as long without it)"
    )
    assert found["leap"]["state"] == "no-such-package not installed"
    assert found["leap"]["cure"] == 'pip install "hgr-stream[leap]"'
    assert [found[extra]["ok"] for extra in ("inference", "leap", "camera")] == [False, False, True]
    assert not found["leap"]["needed"]
