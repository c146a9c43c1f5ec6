"""Foreign files as bytes and as lists of JSON items: bounded, and with what a damaged file still
holds.

A crafted file must cost no more than an honest one of its size: reading stops at ``MAX_BYTES``,
and a compressed one may not grow more than ``MAX_RATIO`` times (real recordings grow 5 to 20
times, a bomb a thousand). A list of items smaller than any frame is refused before it is taken
apart: an item costs a hundred bytes, however short its text is.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, overload

import msgspec
import numpy as np

from .base import DatasetError

T = TypeVar("T")

MAX_BYTES: Final = 1 << 29
MAX_RATIO: Final = 100
#: Of sources without time, unless told otherwise.
DEFAULT_FPS: Final = 30.0
#: Brackets within brackets; no pose file has ten.
MAX_DEPTH: Final = 100
#: At one frame a second, in nanoseconds, it still fits 64 bits.
MAX_FRAME: Final = 10**9
#: What any packed file may unpack to, however small it is.
FREE_BYTES: Final = 1 << 20
#: Text for each item of a list, on average; an empty frame with a time has more.
MIN_ITEM_BYTES: Final = 16
#: So many items any list may have, however short they are.
FREE_ITEMS: Final = 100_000
_BLOCK: Final = 1 << 20
#: Strings whole (also one that the file's end cuts), so that brackets within do not count.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
#: All that tells how deep a text's brackets are, once its escapes are gone.
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(b'"[]{},'))
_STEPS: Final = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_FIRST_LINE: Final = re.compile(rb"\s*+([^\r\n]++)\s++\S")
_NAN: Final = re.compile(rb"-?\b(?:NaN|Infinity)\b")


def read_bytes(path: Path, notes: list[str], limit: int = MAX_BYTES) -> bytes:
    """A file's bytes, gunzipped if need be; what a cut or damaged gzip file still gives, noted.

    Raises DatasetError for a file that is not there, cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            # Asked for more than there is, Python would allocate it all the same.
            data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    if len(data) <= limit and data[:2] == b"\x1f\x8b":
        data = _gunzipped(path, data, min(limit, FREE_BYTES + MAX_RATIO * len(data)), notes)
    if len(data) > limit:
        raise DatasetError(f"{path}: larger than {limit >> 20} MiB; cut it into parts")
    return data.removeprefix(b"\xef\xbb\xbf")


def _gunzipped(path: Path, data: bytes, limit: int, notes: list[str]) -> bytes:
    out = bytearray()
    while data:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            while data and not unpacker.eof:
                out += unpacker.decompress(data, _BLOCK)
                data = unpacker.unconsumed_tail
                if len(out) > limit:
                    raise DatasetError(f"{path}: unpacks to more than {limit >> 20} MiB, refused")
        except zlib.error as error:
            notes.append(f"{path.name}: damaged gzip data ({error}); what came before it was read")
            break
        if not unpacker.eof:
            notes.append(
                f"{path.name}: ended before the end of its gzip data; what it holds was read"
            )
            break
        data = unpacker.unused_data
    if not out:
        raise DatasetError(f"{path}: no gzip data that can be read")
    return bytes(out)


@dataclass
class JsonItems:
    """The frames of a JSON file, each as its text; ``head``: the fields beside them."""

    items: list[bytes]
    head: dict[str, msgspec.Raw] = field(default_factory=dict)


def json_items(path: Path, notes: list[str], keys: tuple[str, ...] = ()) -> JsonItems:
    """A file that is a list, an object with a list under one of ``keys``, or JSON lines.

    An object without such a key is one item. A cut or damaged file gives the items that are
    whole, and a note. Raises DatasetError when there are none, or far too many.
    """
    data = read_bytes(path, notes)
    try:
        return _whole(path, data, keys)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        fault = str(error)
    if _NAN.search(data):
        data = without_nan(data)
        with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
            return _whole(path, data, keys)
    line = _FIRST_LINE.match(data)
    if line is not None and _is_object(line[1]):
        bound_items(path, max(data.count(b"\n"), data.count(b"\r")), data)
        return JsonItems([line for line in data.splitlines() if line.strip()])
    for key in keys or ("",):
        items, closed = whole_items(data, key)
        if items:
            if not closed:
                notes.append(cut_note(path, len(items)))
            return JsonItems(items)
    raise DatasetError("; ".join([f"{path}: not readable as JSON: {fault}", *notes]))


def _whole(path: Path, data: bytes, keys: tuple[str, ...]) -> JsonItems:
    if data.lstrip()[:1] == b"[":
        return JsonItems(item_texts(path, data))
    bound_items(path, _n_items(data), data)
    head = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    for key in keys:
        if key in head:
            return JsonItems(item_texts(path, bytes(head.pop(key))), head)
    return JsonItems([data])


def item_texts(path: Path, data: bytes) -> list[bytes]:
    """The items of a JSON list, each as its text.

    Raises msgspec's errors for what is no such list, and DatasetError for too many items."""
    bound_items(path, _n_items(data), data)
    return [bytes(raw) for raw in msgspec.json.decode(data, type=list[msgspec.Raw])]


def bound_items(path: Path, n: int, data: bytes) -> None:
    """Raises DatasetError if ``n`` items are more than frames that ``data`` can hold."""
    if n > _most_items(data):
        raise DatasetError(
            f"{path}: a list of {n:,} items in {len(data):,} bytes: too short to be frames"
        )


def _most_items(data: bytes) -> int:
    return max(FREE_ITEMS, len(data) // MIN_ITEM_BYTES)


def _n_items(data: bytes) -> int:
    """Items of the list or object with which a text begins; or more, if that is few enough too.

    Nothing is made for each, and the text need not be whole."""
    n = data.count(b",") + 1
    if n <= _most_items(data):
        return n  # however many of them belong to the items' own lists
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Two quotes side by side are an empty string, or the end of one and the start of the next.
    marks = data.translate(None, _NO_STRUCTURE).replace(b'""', b"")
    marks = re.sub(rb'"[^"]*+"?', b"", marks)
    n, depth = 1, 0
    for start in range(0, len(marks), _BLOCK):
        block = np.frombuffer(marks, np.uint8, min(_BLOCK, len(marks) - start), start)
        depths = depth + np.cumsum(_STEPS[block], dtype=np.int64)
        ends = np.flatnonzero(depths <= 0)
        until = int(ends[0]) if len(ends) else len(block)
        n += int(np.count_nonzero((block[:until] == ord(",")) & (depths[:until] == 1)))
        if until < len(block):
            break
        depth = int(depths[-1])
    return n


def cut_note(path: Path, n: int) -> str:
    """What to say of a file of which ``whole_items`` found ``n``."""
    return f"{path.name}: breaks off or is damaged after {n} whole frames; the rest is lost"


def whole_items(data: bytes, key: str = "") -> tuple[list[bytes], bool]:
    """The objects and lists that are whole in a damaged JSON list, and whether the list ends.

    The list is the text itself, or else stands in an object under ``key``.
    """
    items: list[bytes] = []
    depth, start, inside = 0, -1, 0  # inside: the depth of the list's items, 0 until it was found
    wanted = f'"{key}"'.encode()
    named = False
    most = _most_items(data)
    for token in _TOKEN.finditer(data):
        text = token[0]
        if text[:1] == b'"':
            named = not inside and depth == 1 and text == wanted
        elif text in b"[{":
            if not inside and text == b"[" and (depth == 0 or (named and depth == 1)):
                inside = depth + 1
            elif depth == inside and inside:
                start = token.start()
            named = False
            depth += 1
            if depth > MAX_DEPTH:
                break
        else:
            depth -= 1
            if depth == inside and start >= 0:
                items.append(data[start : token.end()])
                start = -1
                if len(items) == most:
                    break
            elif depth < inside or depth <= 0:
                return items, bool(inside)
    return items, False


@overload
def decode_item(text: bytes | msgspec.Raw, kind: type[T]) -> T: ...
@overload
def decode_item(text: bytes | msgspec.Raw, kind: Any) -> Any: ...
def decode_item(text: bytes | msgspec.Raw, kind: Any) -> Any:
    """One item as a checked value of a type, or of a union of types.

    Raises DatasetError with the fault alone: the caller knows file and frame."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DatasetError((str(error) or "not JSON").splitlines()[0]) from None


def without_nan(data: bytes) -> bytes:
    """JSON's own numbers only: the NaN and Infinity that Python and C programs write become null,
    which then costs the one hand that holds it."""
    return _NAN.sub(b"null", data)


def _is_object(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


#: Of a fault's detail, in characters.
MAX_DETAIL: Final = 200


class Faults:
    """Counts what a file's frames had wrong, and tells it in one line a kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, kind: str, detail: str = "", n: int = 1) -> None:
        """``kind``: what follows the count ("frames unreadable"); ``detail``: of the first, of
        which a line is kept: it may quote the file."""
        self._counts[kind] += n
        self._first.setdefault(
            kind, detail if len(detail) <= MAX_DETAIL else detail[:MAX_DETAIL] + "..."
        )

    def counts(self) -> dict[str, int]:
        """How often each kind was seen."""
        return dict(self._counts)

    def notes(self) -> list[str]:
        """One line a kind, the commonest first."""
        return [
            f"{n} {kind}" + (f"; first: {detail}" if (detail := self._first[kind]) else "")
            for kind, n in self._counts.most_common()
        ]
