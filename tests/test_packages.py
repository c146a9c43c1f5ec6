"""What the code imports is what pyproject.toml declares, and what the tests pin."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return {re.split(r"[\[<>=;~! ]", line)[0] for lines in lists for line in lines}


def test_every_package_that_is_imported_is_declared() -> None:
    names = set(imported(ROOT / "hgr_stream", ROOT / "drivers")) - {"hgr_stream", "hgr_drivers"}
    assert {"numpy", "zstandard", "torch"} <= names
    assert not {PACKAGES.get(name, name) for name in names} - declared()


@pytest.mark.parametrize("name", sorted(declared() - {"hgr-stream"}))
def test_every_declared_package_is_pinned(name: str) -> None:
    pinned = (ROOT / "tools" / "constraints.txt").read_text().lower()
    assert f"\n{name.lower()}==" in pinned
