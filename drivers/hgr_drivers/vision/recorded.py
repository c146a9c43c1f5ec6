"""Files of pictures: played as if they were the camera, or made into recordings.

To find hands in pictures is a driver's work; ``hgr_stream.datasets`` reads files that hold hands
already, and imports no driver. So the importers of pictures are here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, Generic, TypeVar

from hgr_stream.datasets.base import DatasetError, HandFrame, HandFrames

from ..base import DeviceError, EndOfStream, Sample

T = TypeVar("T")

#: A picture later than this many periods is skipped: hands are wanted in the newest.
LATE_PERIODS: Final = 2
_PERIOD_NS: Final = 1_000_000_000 // 30


class Played(Generic[T]):
    """A file's items at their own pace, once or again and again.

    ``items`` opens the file: a generator of (its time, item), which closes the file when it is
    closed. A time that is None, or not later than the one before, is put one period after that.
    What cannot be taken in time is skipped, and counted; where that does not help, because the file
    is read more slowly than it was recorded, it is played more slowly. Raises what ``items``
    raises, and DeviceError for a file without any."""

    def __init__(
        self, items: Callable[[], Generator[tuple[int | None, T]]], *, loop: bool, name: str
    ) -> None:
        self.skipped = 0
        self._open, self._loop = items, loop
        self._items = items()
        self._period_ns = _PERIOD_NS
        self._last_ns: int | None = None
        self._shift_ns = 0  # from the file's time to stream time: loops run on
        self._zero_s: float | None = None  # the host's time at stream time 0
        self._waiting: tuple[int, T] | None = self._following()
        if self._waiting is None:
            raise DeviceError(f"{name} holds no pictures", fatal=True)
        self.first: T = self._waiting[1]  #: the file's first item, which is yet to come

    def next(self, timeout_s: float) -> tuple[int, T] | None:
        """(stream time, item) when its time has come; None when that is not in ``timeout_s``.
        Raises EndOfStream."""
        until_s = time.monotonic() + timeout_s
        while True:
            due, self._waiting = self._waiting, None
            if due is None:
                due = self._following() or self._again()
            now_s = time.monotonic()
            if self._zero_s is None:
                self._zero_s = now_s - due[0] * 1e-9
            wait_s = self._zero_s + due[0] * 1e-9 - now_s
            left_s = max(until_s - now_s, 0.0)
            if wait_s > left_s:
                self._waiting = due
                time.sleep(left_s)
                return None
            if wait_s > 0:
                time.sleep(wait_s)
            elif -wait_s * 1e9 > LATE_PERIODS * self._period_ns:
                if left_s > 0:
                    self.skipped += 1
                    continue
                self._zero_s -= wait_s  # skipping does not catch up: go on from here
            return due

    def close(self) -> None:
        self._items.close()

    def _again(self) -> tuple[int, T]:
        if not self._loop or self._last_ns is None:
            raise EndOfStream
        self._items.close()
        self._items = self._open()
        time_ns, item = next(self._items, (None, None))
        if item is None:
            raise EndOfStream  # it was emptied meanwhile
        self._shift_ns = self._last_ns + self._period_ns - (time_ns or 0)
        self._last_ns += self._period_ns
        return self._last_ns, item

    def _following(self) -> tuple[int, T] | None:
        for own_ns, item in self._items:
            last_ns = self._last_ns
            time_ns = None if own_ns is None else own_ns + self._shift_ns
            if last_ns is None:
                time_ns = time_ns or 0
            elif time_ns is None or time_ns <= last_ns:
                time_ns = last_ns + self._period_ns
            else:
                self._period_ns = time_ns - last_ns
            self._last_ns = time_ns
            return time_ns, item
        return None


def hand_frames(path: Path, samples: Callable[[list[str]], Iterator[Sample]]) -> list[HandFrames]:
    """All samples of a file, as importers give them; ``samples`` gets a list to put notes about
    the file's faults into. Raises DatasetError."""
    found = HandFrames(path.stem, [])
    last_ns = -1
    try:
        for sample in samples(found.notes):
            time_ns = sample.device_ns
            if time_ns is None or time_ns <= last_ns:
                time_ns = last_ns + 1  # in order, where the file is not
            last_ns = time_ns
            found.frames.append(HandFrame(time_ns, sample.index, list(sample.hands)))
    except DeviceError as error:
        raise DatasetError(error.told()) from None
    return [found]
