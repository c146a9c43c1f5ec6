"""Loading a device's C library, with the signatures of the functions that are called in it."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

#: Result type and argument types of each function, by its name without the library's prefix.
Signatures = Mapping[str, tuple[Any, list[Any]]]


def load(names: Iterable[str], system: str) -> ctypes.CDLL | None:
    """The first of the names that loads, else what the system finds by the short name ``system``.

    None where none does.
    """
    found = ctypes.util.find_library(system) if system else None
    for name in filter(None, (*names, found)):
        with contextlib.suppress(OSError):
            if sys.platform == "win32" and Path(name).is_absolute():
                os.add_dll_directory(str(Path(name).parent))  # what it needs itself lies beside it
            return ctypes.CDLL(name)
    return None


def sign(library: ctypes.CDLL, prefix: str, signatures: Signatures) -> None:
    """Tell the functions' types; raises AttributeError for one that the library has not."""
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"{prefix}_{name}")
        function.restype, function.argtypes = result, arguments
