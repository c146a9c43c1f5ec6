"""OpenPose as it runs: the folder into which ``--write_json`` puts a file a frame.

OpenPose has no network output; its files are read as they appear. The next one is looked for by
its number, and the folder as a whole only now and then, as it grows by 100,000 files an hour. A
file that cannot be read yet is being written: it is tried again until ``RETRY_S``. A number that
is missing while later ones are there is waited for until ``LATE_S``, then counted. Numbers that
begin again are a new run of OpenPose.

What a file holds, and what becomes of it (2D only: every hand lacks "depth"), is known in
``hgr_stream.datasets.openpose`` and ``people``.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, ClassVar, Final, NamedTuple

from msgspec import Meta

from hgr_stream.config import path_of
from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.files import Faults, read_bytes
from hgr_stream.datasets.openpose import MAX_FRAME_BYTES, NO_HANDS, frame_number, read_people
from hgr_stream.datasets.people import (
    INCOMPLETE,
    LOW_CONFIDENCE,
    MALFORMED,
    MAX_PEOPLE,
    NO_SIZE,
    LiveLifter,
    Person,
    Picture,
)

from .base import DeviceError, Driver, Options, Sample

log = logging.getLogger(__name__)

POLL_S: Final = 0.004
SCAN_S: Final = 0.05
RETRY_S: Final = 0.5
LATE_S: Final = 0.25
#: A file so many numbers back is not late but of a new run.
NEW_RUN: Final = 30
#: OpenPose needs longer to start; within a run its threads finish files a little out of order.
SAME_RUN_NS: Final = 1_000_000_000
_START: Final = "start OpenPose with --hand --write_json FOLDER, and name the same folder here"
_COUNTS: Final = {
    LOW_CONFIDENCE: "hand_low_confidence",
    INCOMPLETE: "hand_incomplete",
    MALFORMED: "hand_malformed",
    NO_SIZE: "hand_no_size",
    NO_HANDS: "people_without_hands",
    "people not followed": "people_not_followed",
}


class OpenPoseOptions(Options):
    """Keys of a device's table in the config."""

    folder: str
    people: Annotated[int, Meta(ge=1, le=MAX_PEOPLE)] = 1  #: how many are followed
    fps: Annotated[float, Meta(ge=0, le=1000)] = 0.0  #: 0: frames are as old as their files
    from_start: bool = False  #: also the files that are there already
    delete_read: bool = False  #: remove each file when it was read


class _File(NamedTuple):
    number: int
    mtime_ns: int
    path: Path


class OpenPoseDriver(Driver[OpenPoseOptions]):
    """Hands of the people in front of OpenPose's camera."""

    name: ClassVar[str] = "openpose"
    about: ClassVar[str] = "OpenPose, by the folder that it writes JSON into (2D)"
    Options: ClassVar[type[Options]] = OpenPoseOptions
    #: On a slow machine OpenPose itself takes a second for a frame.
    silence_s: ClassVar[float] = 5.0
    silence_cure: ClassVar[str] = "is OpenPose still running, with --write_json to this folder?"

    def __init__(self, options: OpenPoseOptions) -> None:
        super().__init__(options)
        self.folder = path_of(options.folder)
        self._opened = False
        self._last: _File | None = None  # read, or left behind; as young as any before it
        self._awaited: int | None = None  # the number of the last one, when the next was not there
        self._lifter = LiveLifter(options.people)
        self._faults = Faults()
        self._counts: Counter[str] = Counter()
        self._trying: tuple[Path, float] | None = None  # a file that is being written, since when
        self._gap_s: float | None = None  # since when a number has been missing
        self._scan_at_s = 0.0
        self._waiting: list[_File] = []
        self._warned = False

    def open(self) -> None:
        if not self.folder.is_dir():
            raise DeviceError(f"{self.folder}: no such folder", _START)
        if self._last is None and not self._opened and not self.options.from_start:
            # What an earlier run has left is not live.
            self._last = max(self._scan(), key=lambda f: (f.mtime_ns, f.number), default=None)
        self._opened = True
        self.say("folder", f"{self.folder}: waiting for OpenPose's files")

    def read(self, timeout_s: float) -> Sample | None:
        deadline_s = time.monotonic() + timeout_s
        while True:
            now_s = time.monotonic()
            file = self._next(now_s)
            if file is not None:
                sample = self._read(file, now_s)
                if sample is not None:
                    return sample
            if now_s >= deadline_s:
                return None
            time.sleep(min(POLL_S, deadline_s - now_s))

    def close(self) -> None:
        """Nothing is held open; where it was stays known, so that a pause loses nothing."""
        self._waiting.clear()
        self._scan_at_s = 0.0

    def counts(self) -> dict[str, int]:
        """Files read, unreadable, missing and late; hands and people refused, by reason."""
        told = {**self._faults.counts(), **self._lifter.faults.counts()}
        refused = {_COUNTS.get(kind, "people_malformed"): n for kind, n in told.items()}
        return {**self._counts, **refused}

    # --- which file is next

    def _next(self, now_s: float) -> _File | None:
        """The next file by number, if it is there and its turn."""
        last = self._last
        if not self._waiting and last is not None and (file := self._following(last)) is not None:
            self._gap_s = None
            return file
        if not self._waiting:
            if now_s < self._scan_at_s:
                return None
            self._waiting = self._new(self._scan())
            # However large the folder grows, looking through it takes a thirtieth of the time.
            took_s = time.monotonic() - now_s
            self._scan_at_s = now_s + max(SCAN_S, 30 * took_s)
            if not self._waiting:
                return None
        first = self._waiting[0]
        expected = first.number if last is None or first.number < last.number else last.number + 1
        if first.number > expected:
            self._gap_s = now_s if self._gap_s is None else self._gap_s
            if now_s - self._gap_s < LATE_S:
                self._waiting.clear()
                return None
            self._counts["files_missing"] += first.number - expected
        self._gap_s = None
        return first

    def _following(self, last: _File) -> _File | None:
        """The file after another, if it is there and of the same run: either it is young enough, or
        it was not there before, whatever its age: the clock may have been set back meanwhile."""
        file = _successor(last)
        if file is None:
            self._awaited = last.number
        elif file.mtime_ns <= _since_ns(last) and self._awaited != last.number:
            return None
        return file

    def _new(self, files: list[_File]) -> list[_File]:
        """Those after the last one read, in order."""
        last = self._last
        if last is None:
            return sorted(files)
        since_ns = _since_ns(last)
        fresh = sorted(f for f in files if f.number > last.number and f.mtime_ns > since_ns)
        if fresh:
            return fresh
        newer = [f for f in files if f.mtime_ns > last.mtime_ns and f.number != last.number]
        again = sorted(f for f in newer if f.number == 0 or f.number <= last.number - NEW_RUN)
        if again:
            log.info("%s: OpenPose counts from %d again", self.folder, again[0].number)
            self._counts["runs"] += 1
            # Its first files bear the names of the last run's, and are read in its order.
            self._last = _File(again[0].number - 1, again[0].mtime_ns - 1, again[0].path)
        return again

    def _scan(self) -> list[_File]:
        found = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    number = frame_number(entry.name)
                    if number is not None:
                        path = Path(entry.path)
                        found.append(_File(number, entry.stat().st_mtime_ns, path))
        except FileNotFoundError:
            if not self.folder.is_dir():
                raise DeviceError(f"{self.folder}: the folder is gone", _START) from None
            return []  # a file was removed meanwhile: the next look finds the rest
        except OSError as error:
            raise DeviceError(
                f"{self.folder}: {error.strerror}", "give this user the right to read it"
            ) from None
        return found

    # --- what is in it

    def _read(self, file: _File, now_s: float) -> Sample | None:
        try:
            people = read_people(read_bytes(file.path, [], MAX_FRAME_BYTES), self._faults)
        except DatasetError as error:
            if self._trying is None or self._trying[0] != file.path:
                self._trying = (file.path, now_s)
            if now_s - self._trying[1] < RETRY_S:
                return None
            self._counts["files_unreadable"] += 1
            if self._counts["files_unreadable"] == 1:
                log.warning("%s left out: %s", file.path, error)
            self._done(file)
            return None
        self._counts["files_read"] += 1
        self._done(file)
        self._warn_without_hands(people)
        fps = self.options.fps
        device_ns = round(file.number * 1e9 / fps) if fps else file.mtime_ns
        return Sample(
            device_ns,
            self._lifter.push(Picture(device_ns, file.number, people)),
            file.number,
        )

    def _done(self, file: _File) -> None:
        self._trying = None
        youngest_ns = max(file.mtime_ns, self._last.mtime_ns if self._last else 0)
        self._last = file._replace(mtime_ns=youngest_ns)
        if self._waiting:
            self._waiting.pop(0)
        if self.options.delete_read:
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                if not self._counts["files_not_deleted"]:
                    log.warning("%s stays: %s", file.path, error.strerror)
                self._counts["files_not_deleted"] += 1

    def _warn_without_hands(self, people: list[Person]) -> None:
        if people and not self._warned and self._faults.counts().get(NO_HANDS):
            self._warned = True
            log.warning("%s: OpenPose finds people but writes no hands: add --hand", self.folder)


def _successor(last: _File) -> _File | None:
    """The file after another, if it is there: the same name, one number higher."""
    head, _, tail = last.path.name.rpartition("_keypoints")
    digits = head.rpartition("_")[2]
    if not digits.isdecimal() or int(digits) != last.number:
        return None
    name = f"{head[: -len(digits)]}{last.number + 1:0{len(digits)}}_keypoints{tail}"
    path = last.path.with_name(name)
    try:
        mtime_ns = path.stat().st_mtime_ns
    except OSError:
        return None
    return _File(last.number + 1, mtime_ns, path)


def _since_ns(last: _File) -> int:
    """Older files were left by an earlier run that has not been written over yet."""
    return last.mtime_ns - SAME_RUN_NS
