"""The recorder's process: ``[record] path`` in the config. ``hgr record`` does the same outside."""

from __future__ import annotations

import time
from pathlib import Path

from ..client import Stream
from ..recording import RecordingError, Writer
from .shell import Shell

IDLE_S = 0.1


class RecorderShell(Shell):
    """Everything that the gateway passes on, into one file a start (the name gets the date)."""

    def __init__(self, run_dir: Path, path: Path) -> None:
        super().__init__("recorder", run_dir)
        dated = path.with_name(f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}.mcap")
        dated.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.writer = Writer(dated, source="hgr run")
        except RecordingError as error:
            raise OSError(str(error)) from None
        self.stream = Stream([""], self.info.public, idle_s=IDLE_S)
        self.message = f"recording to {dated}"
        self.log.info("%s", self.message)

    def turn(self, timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        for received in self.stream:
            if received is not None:
                self.writer.record(received.topic, received.payload, time.time_ns())
                self.counts["messages"] += 1
            now_s = time.monotonic()
            self.writer.tick(now_s)
            if now_s >= end_s or self.stopping():
                return

    def beat(self) -> None:
        self.counts["lost"] = self.stream.lost
        self.gauges = {"megabytes": self.writer.bytes_written / 1e6}

    def finish(self) -> None:
        for received in self.stream:  # what has come already is written
            if received is None:
                break
            self.writer.record(received.topic, received.payload, time.time_ns())
        self.stream.close()
        self.writer.close()
