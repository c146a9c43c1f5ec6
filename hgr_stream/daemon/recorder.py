"""The recorder's process: ``[record] path`` in the config. ``hgr record`` does the same outside."""

from __future__ import annotations

import errno
import tempfile
import time
from pathlib import Path
from typing import Final

from ..client import Received, Stream
from ..config import ConfigError
from ..recording import RecordingError, Writer
from ..stream.clock import wall_offset_ns
from .shell import Shell

IDLE_S = 0.05  # with the writer's flush period: at most 0.25 s are lost at a SIGKILL

#: A disk that is full may have room again: no fault of the path.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def check_path(path: Path) -> None:
    """Raise ConfigError, with the cure, when no recording can be written at ``[record] path``.

    Leaves nothing behind, not even the folders that are still to be made."""
    try:
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
    """Everything that the gateway passes on, into one file a start (the name gets the date).

    Raises ConfigError for a path that can never be written, OSError for one that cannot now."""

    def __init__(self, run_dir: Path, path: Path) -> None:
        super().__init__("recorder", run_dir)
        check_path(path)
        dated = path.with_name(f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}.mcap")
        dated.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.writer = Writer(dated, source="hgr run")
        except RecordingError as error:
            raise OSError(str(error)) from None
        self._wall_ns = wall_offset_ns()
        self.stream = Stream([""], self.info.public, idle_s=IDLE_S)
        self.message = f"recording to {dated}"
        self.log.info("%s", self.message)

    def turn(self, timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        for received in self.stream:
            if received is not None:
                self._record(received)
            now_s = time.monotonic()
            self.writer.tick(now_s)
            if now_s >= end_s or self.stopping():
                return

    def _record(self, received: Received) -> None:
        log_ns = self._wall_ns + time.monotonic_ns()
        self.writer.record(received.topic, received.payload, log_ns)
        self.counts["messages"] += 1

    def beat(self) -> None:
        self.counts["lost"] = self.stream.lost
        self.gauges = {"megabytes": self.writer.bytes_written / 1e6}

    def finish(self) -> None:
        for received in self.stream:  # what has come already is written
            if received is None:
                break
            self._record(received)
        self.stream.close()
        self.writer.close()
