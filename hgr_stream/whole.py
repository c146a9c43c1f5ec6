"""Files that are there whole or not at all, whoever is killed and however full the disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

#: On Windows a file that somebody reads, a scanner of viruses say, can neither be replaced nor
#: removed meanwhile, nor be opened while it is replaced: for moments, as long as all are well.
PATIENCE_S: Final = 1.0


def patiently(do: Callable[[], T]) -> T:
    """``do``, tried again while Windows refuses it because somebody else has the file."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return do()
        except PermissionError:
            if os.name != "nt" or time.monotonic() > end_s:
                raise
        time.sleep(0.01)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that nobody finds half written; raises OSError, and leaves what was there."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        patiently(lambda: part.replace(path))
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file that others may read just now; raises OSError. One that is gone is no fault."""
    patiently(lambda: path.unlink(missing_ok=True))


def leave_whole(path: Path, data: bytes) -> None:
    """``write_whole`` unless the file is there with just that in it: a disk that is full meanwhile
    is then no fault."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == data:
            return
    write_whole(path, data)
