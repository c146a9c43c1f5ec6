"""NumPy's ``.npy`` and ``.npz`` from strangers: nothing is unpickled, and nothing is allocated that
the file does not hold."""

from __future__ import annotations

import math
import struct
import tokenize
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Final
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from ..faults import first_line
from .base import DatasetError
from .files import FREE_BYTES, MAX_BYTES, MAX_RATIO

#: What numpy and zipfile raise on files that were cut, altered or made up.
_BAD_ARCHIVE: Final = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    BadZipFile,
    zlib.error,
)


def arrays(path: Path) -> Iterator[tuple[str, Callable[[], NDArray]]]:
    """The arrays of an ``.npz``: their names, and how to load each.

    An archive tells of itself how large its arrays are, in the index and in each array's header;
    numpy would allocate what the second says. Both are checked first. Raises DatasetError.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise DatasetError(f"{path}: not a readable array archive: it is no .npz")
        with np.load(path, allow_pickle=False) as archive:
            packed = archive.zip
            unpacked = sum(info.file_size for info in packed.infolist())
            if unpacked > min(MAX_BYTES, FREE_BYTES + MAX_RATIO * size):
                raise DatasetError(f"{path}: unpacks to {unpacked >> 20} MiB, refused")
            for name in archive.files:
                yield name, partial(_array, path, archive, packed, name)
    except DatasetError:
        raise
    except _BAD_ARCHIVE as error:
        raise DatasetError(f"{path}: not a readable array archive: {first_line(error)}") from None


def _array(path: Path, archive: Mapping[str, NDArray], packed: ZipFile, name: str) -> NDArray:
    member = name if name in packed.namelist() else f"{name}.npy"
    try:
        with packed.open(member) as file:
            _check_header(f"{path} {name}", file, packed.getinfo(member).file_size)
        return archive[name]
    except DatasetError:
        raise
    except _BAD_ARCHIVE as error:
        raise DatasetError(f"{path} {name}: not a readable array: {first_line(error)}") from None


def _check_header(named: str, file: IO[bytes], held: int) -> None:
    """Refuse what numpy would unpickle, or allocate although it is not there."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DatasetError(f"{named}: Object arrays cannot be loaded")
    if math.prod(shape) * max(dtype.itemsize, 1) > held:
        raise DatasetError(f"{named}: its header says more than it holds")


def load_array(path: Path) -> NDArray:
    """The one array of an ``.npy`` or ``.npz``, checked as in ``arrays``; raises DatasetError."""
    try:
        with path.open("rb") as file:
            head = file.read(6)
            if head[:2] != b"PK" and head != b"\x93NUMPY":
                raise DatasetError(f"{path}: not a NumPy file")
            if head == b"\x93NUMPY":
                file.seek(0)
                _check_header(str(path), file, path.stat().st_size)
                array: NDArray = np.load(path, allow_pickle=False)
                return array
        found = [load() for _, load in arrays(path)]
    except DatasetError:
        raise
    except _BAD_ARCHIVE as error:
        raise DatasetError(f"{path}: not a NumPy file ({first_line(error)})") from None
    if len(found) != 1:
        raise DatasetError(f"{path}: holds {len(found)} arrays instead of one")
    return found[0]
