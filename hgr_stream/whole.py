"""Files that are there whole or not at all, whoever is killed and however full the disk."""

from __future__ import annotations

import contextlib
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that nobody finds half written; raises OSError, and leaves what was there."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def leave_whole(path: Path, data: bytes) -> None:
    """``write_whole`` unless the file is there with just that in it: a disk that is full meanwhile
    is then no fault."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    write_whole(path, data)
