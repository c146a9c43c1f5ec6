"""The segmenter's process: frames in, windows out. The stage itself is ``segmentation``."""

from __future__ import annotations

from pathlib import Path

import zmq

from ..config import Segmentation
from ..messages import Frame, MessageError, Window, decode, encode
from ..segmentation import Segmenter, WindowSpec
from ..stream import topics
from ..stream.bus import DRAIN, Inlet, Outlet
from ..stream.clock import monotonic_ns
from .shell import Shell

#: A live device silent for this long beyond the longest bridged gap has no hands any more.
SILENCE_MARGIN_NS = 1_000_000_000


class SegmenterShell(Shell):
    def __init__(self, run_dir: Path, spec: WindowSpec, options: Segmentation) -> None:
        super().__init__("segmenter", run_dir)
        self.segmenter = Segmenter(spec, options)
        self.inlet = Inlet(self.context, self.info.sockets["frames"], "frames")
        self.outlet = Outlet(self.context, self.info.sockets, "windows", self.held)
        self.poller.register(self.inlet.socket, zmq.POLLIN)
        self.wake_socket()
        self._heard_ns: dict[str, int] = {}
        self._silence_ns = round(options.max_gap_s * 1e9) + SILENCE_MARGIN_NS
        self._age_ns = 0
        self._behind = False  #: frames wait here: who has not been heard may be among them

    def turn(self, timeout_s: float) -> None:
        self.poller.poll(round(timeout_s * 1000))
        waiting = self.inlet.drain()
        self._behind = True
        for data in waiting:
            self._frame(data)
            self.beat_when_due()
        self._behind = len(waiting) == DRAIN

    def _frame(self, data: bytes) -> None:
        try:
            frame = decode(Frame, data)
        except MessageError as error:
            self.refuse(error)
            return
        now_ns = monotonic_ns()
        self._heard_ns[frame.device] = now_ns
        self._age_ns = now_ns - frame.sent_ns
        self._send(self.segmenter.push(frame, now_ns))
        if frame.end:
            del self._heard_ns[frame.device]

    def _send(self, windows: list[Window]) -> None:
        for window in windows:
            self.outlet.send(topics.of(window), encode(window), lossless=window.lossless)
        for notice in self.segmenter.notices.values():
            self.log.warning("%s", notice)
        self.segmenter.notices.clear()

    def beat(self) -> None:
        now_ns = monotonic_ns()
        for device, heard_ns in list(self._heard_ns.items()):
            if not self._behind and now_ns - heard_ns > self._silence_ns:
                self._send(self.segmenter.flush(device))
                del self._heard_ns[device]
        for counts in (self.segmenter.counts, self.outlet.counts):
            for name, count in counts.items():  # beside the shell's own
                self.counts[name] = count
        self.gauges = {
            "hands": float(self.segmenter.hands),
            "devices": float(len(self._heard_ns)),
            "age_ms": self._age_ns / 1e6,
        }

    def finish(self) -> None:
        self._send(self.segmenter.finish())
        self.outlet.close()
