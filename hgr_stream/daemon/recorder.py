"""The recorder's process: ``[record] path`` in the config. ``hgr record`` does the same outside."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final

from ..client import Received, Stream
from ..config import ConfigError
from ..recording import RecordingError, Writer
from ..stream.clock import monotonic_ns, wall_offset_ns
from .shell import Shell

IDLE_S = 0.05  # with the writer's flush period: at most 0.25 s are lost at a SIGKILL

#: At the end what has come already is written, for so long at most: a replay beside the daemon may
#: go on, and the supervisor waits 1.6 s for all stages together.
DRAIN_S: Final = 0.3

#: A file's index takes 10 to 30 MB of memory an hour, until it is closed.
FILE_S: Final = 3600.0
#: A full disk is looked at again after so long, and has room when so much is free.
ROOM_S: Final = 10.0
ROOM_BYTES: Final = 1 << 24

#: A disk that is full may have room again: no fault of the path.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def check_path(path: Path) -> None:
    """Raise ConfigError, with the cure, when no recording can be written at ``[record] path``.

    Leaves nothing behind, not even the folders that are still to be made."""
    try:
        if path.is_dir():  # the files would come beside it, with its name
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(p for p in path.absolute().parents if p.exists())
        # Tried, since a folder's mode does not tell of read-only mounts and the like.
        with tempfile.NamedTemporaryFile(prefix=f"{path.stem}-", dir=folder):
            pass
    except (OSError, ValueError, StopIteration) as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            return
        why = getattr(error, "strerror", None) or str(error) or "no file"
        raise ConfigError(
            f"[record] path {str(path)!r} cannot be written: {why}; set it to a file in a folder "
            "that this user may write to"
        ) from None


class RecorderShell(Shell):
    """Everything that the gateway passes on, into files of an hour each (their names get the date).

    Raises ConfigError for a path that can never be written, OSError for one that cannot now. While
    the disk is full nothing is recorded, which is told and counted; it goes on when there is room.
    """

    def __init__(self, run_dir: Path, path: Path) -> None:
        super().__init__("recorder", run_dir)
        check_path(path)
        self._path = path
        self._writer: Writer | None = None
        self._next_s = 0.0  # when the next file is begun
        self._wall_ns = 0
        self.stream = Stream([""], self.info.public, idle_s=IDLE_S)

    def turn(self, timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        for received in self.stream:
            now_s = time.monotonic()
            with self._full_disk_told(now_s):
                if now_s >= self._next_s:
                    self._begin(now_s)
                if received is not None:
                    self._record(received)
                if self._writer is not None:
                    self._writer.tick(now_s)
            if now_s >= end_s or self.stopping():
                return

    @contextlib.contextmanager
    def _full_disk_told(self, now_s: float) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._next_s = now_s + ROOM_S
            with contextlib.suppress(OSError):
                self._end()
            text = f"{self._path.parent}: {error.strerror}; recording goes on when there is room"
            if self.message != text:
                self.log.warning("%s", text)
            self.send_status("degraded", text)

    def _begin(self, now_s: float) -> None:
        """End the file and begin the next."""
        self._end()
        folder = self._path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < ROOM_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        date = time.strftime("%Y%m%d-%H%M%S")  # comes again when the clock is set back
        names = (f"{self._path.stem}-{date}{n or ''}.mcap" for n in count(0, -1))
        dated = next(p for name in names if not (p := folder / name).exists())
        try:
            self._writer = Writer(dated, source="hgr run")
        except RecordingError as error:
            raise OSError(str(error)) from None
        self._next_s = now_s + FILE_S
        self._wall_ns = wall_offset_ns()
        text = f"recording to {dated}"
        self.log.info("%s", text)
        self.send_status("up", text)

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _record(self, received: Received) -> None:
        if self._writer is None:
            self.counts["not_recorded"] += 1
            return
        log_ns = self._wall_ns + monotonic_ns()
        self._writer.record(received.topic, received.payload, log_ns)
        self.counts["messages"] += 1

    def beat(self) -> None:
        if self._writer is not None and not os.path.exists(self._writer.path):
            # Moved to another disk, or removed: what is written now would reach nobody.
            self.log.info("%s is there no more; the next file is begun", self._writer.path)
            self._next_s = 0.0
        self.counts["lost"] = self.stream.lost
        written = self._writer.bytes_written if self._writer is not None else 0
        self.gauges = {"megabytes": written / 1e6}

    def finish(self) -> None:
        end_s = time.monotonic() + DRAIN_S
        with self._full_disk_told(time.monotonic()):
            for received in self.stream:
                if received is None or time.monotonic() > end_s:
                    break
                self._record(received)
            self._end()
        self.stream.close()
