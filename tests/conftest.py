"""Shared fixtures: the real recordings, where they are, and clean run directories."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# xdist's workers ignore Ctrl-C, which is their controller's affair; the commands that tests start
# and interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real research recordings beside the repository; they are not part of it."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the research recordings in {path} (see the README: data)")
    return path


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for what makes sockets in folders of its own: their paths are 100 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="hgr-") as folder:
        yield Path(folder)
