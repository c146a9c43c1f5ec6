"""The inference worker's process: windows in, gesture events out.

All hands that are due go through the network in one batch. The model can be swapped while it
runs: the new one is loaded beside the old one, and takes over between two batches, or is refused.
"""

from __future__ import annotations

import gc
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import zmq

from ..config import Recognition, Segmentation
from ..faults import error_line
from ..messages import Event, MessageError, Window, decode, encode
from ..recognition import bundle as bundles
from ..recognition.engine import Engine
from ..stream import topics
from ..stream.bus import Inlet, Outlet, bind
from ..stream.clock import monotonic_ns
from .keeper import Watch
from .shell import Shell, decode_request

LOADING_POLL_S = 0.02
#: A live hand of which nothing comes for so long beyond a hop and the longest bridged gap, not even
#: its end, has lost its segmenter, which tells the end within two seconds after that gap.
SILENCE_MARGIN_S = 3.0


class WorkerShell(Shell):
    def __init__(
        self,
        run_dir: Path,
        model: str,
        threads: int,
        asked: Recognition | None = None,
        segmentation: Segmentation | None = None,
    ) -> None:
        super().__init__("worker", run_dir)
        self.send_status("starting", f"loading model {model}")
        self.threads = threads
        try:
            self.engine = Engine(bundles.load(bundles.resolve(model), threads), asked=asked)
        except bundles.ModelError as error:
            self.send_status("down", error_line(error))
            self.close()
            raise
        # What is loaded now stays: the collector need not walk through it while hands move.
        gc.collect()
        gc.freeze()
        self.inlet = Inlet(self.context, self.info.sockets["windows"], "windows")
        self.outlet = Outlet(self.context, self.info.sockets, None, self.stopping)
        self.requests = self.context.socket(zmq.ROUTER)
        self.requests.setsockopt(zmq.LINGER, 200)
        bind(self.requests, self.info.sockets["model"], "model requests")
        for socket in (self.inlet.socket, self.requests):
            self.poller.register(socket, zmq.POLLIN)
        self.wake_socket()
        self._loader = ThreadPoolExecutor(1, "model-loader")
        self._loading: tuple[bytes, str, Future[bundles.Bundle]] | None = None
        self._seq = 0
        self._lag_ns = 0
        self._clock = Watch(time.monotonic())
        self._heard: dict[tuple[str, str], tuple[float, Window]] = {}  # hand -> when, its last
        m, gap_s = self.engine.bundle.metadata, (segmentation or Segmentation()).max_gap_s
        self._silence_s = m.hop / m.rate_hz + gap_s + SILENCE_MARGIN_S
        self.send_status("up", self._running())

    def _running(self) -> str:
        metadata = self.engine.bundle.metadata
        return f"model {metadata.name}: {len(metadata.labels)} gestures"

    def turn(self, timeout_s: float) -> None:
        timeout_s = min(timeout_s, LOADING_POLL_S) if self._loading else timeout_s
        ready = dict(self.poller.poll(round(timeout_s * 1000)))
        windows = []
        for data in self.inlet.drain():
            try:
                windows.append(decode(Window, data))
            except MessageError as error:
                self.refuse(error)
        arrived_ns = monotonic_ns()
        now_s = self._clock.at(time.monotonic())
        if windows:
            self.counts["windows"] += len(windows)
            self.counts["batches"] += 1
            self._send(self._recognise(windows), arrived_ns)
            for notice in self.engine.notices:
                self.log.warning("%s", notice)
            self.engine.notices.clear()
            for window in windows:
                if window.ended:
                    self._heard.pop((window.device, window.hand), None)
                else:
                    self._heard[window.device, window.hand] = (now_s, window)
            if sent_ns := windows[-1].frame_sent_ns:  # an ended track names no frame
                self._lag_ns = monotonic_ns() - sent_ns
        self.forget_silent(now_s)
        if self.requests in ready:
            self._request()
        if self._loading and self._loading[2].done():
            self._swap(*self._loading)
            self._loading = None

    def _recognise(self, windows: list[Window]) -> list[Event]:
        try:
            return self.engine.push(windows)
        except bundles.ModelError:
            pass
        # One of them is not cut for this model; it must not cost the others.
        events: list[Event] = []
        for window in windows:
            try:
                events += self.engine.push([window])
            except bundles.ModelError as error:
                self.refuse(error)
        return events

    def _send(self, events: list[Event], arrived_ns: int = 0) -> None:
        for event in events:
            event.boot_id, event.seq = self.boot_id, self._seq
            event.host_ns, event.wall_ns = monotonic_ns(), time.time_ns()
            event.worked_ns = event.host_ns - arrived_ns if arrived_ns else 0
            self._seq += 1
            self.counts[f"events_{event.kind}"] += 1
            self.outlet.tell(topics.of(event), encode(event))

    # -- swapping the model ---------------------------------------------------------------------

    def _request(self) -> None:
        who, *parts = self.requests.recv_multipart()
        try:
            request = decode_request(parts[-1] if parts else b"")
            if request.get("op") != "use" or not isinstance(request.get("model"), str):
                raise ValueError('the worker knows one request: {"op": "use", "model": FILE}')
            if self._loading:
                raise ValueError("another model is being loaded; try again")
        except ValueError as error:
            self._answer(who, False, str(error))
            return
        name = str(request["model"])
        self._loading = (who, name, self._loader.submit(self._load, name))

    def _load(self, name: str) -> bundles.Bundle:
        return bundles.load(bundles.resolve(name), self.threads)

    def _swap(self, who: bytes, name: str, loaded: Future[bundles.Bundle]) -> None:
        try:
            events = self.engine.swap(loaded.result())
        except Exception as error:  # whatever a foreign file did, the running model runs on
            self.counts["models_refused"] += 1
            self.log.warning("model refused: %s", error_line(error))
            self._answer(who, False, error_line(error))
            return
        self._send(events)
        self.counts["models_swapped"] += 1
        self.log.info("now running %s", self._running())
        self.send_status("up", self._running())
        self._answer(who, True, self._running(), name)

    def _answer(self, who: bytes, ok: bool, text: str, model: str = "") -> None:
        """``model``: the file that was asked for and runs now."""
        reply = msgspec.msgpack.encode({"ok": ok, "text": text, "model": model})
        self.requests.send_multipart([who, b"", reply], zmq.NOBLOCK)

    def forget_silent(self, now_s: float) -> None:
        """End the live hands of which nothing has come for too long. ``now_s``: by ``Watch``."""
        for key, (heard_s, last) in list(self._heard.items()):
            if now_s - heard_s > self._silence_s and not last.lossless:
                del self._heard[key]
                self.counts["hands_silent"] += 1
                end = msgspec.structs.replace(last, seq=last.seq + 1, joints=b"", ended="lost")
                self._send(self._recognise([end]))

    def beat(self) -> None:
        if hasattr(self, "engine"):  # it is still loading at the first beat
            self.counts["dropped_tap"] = self.outlet.counts["dropped_tap"]
            for name, count in self.engine.counts.items():  # lost, or lacking what the model needs
                self.counts[name] = count
            self.labels = self.engine.labels
            self.gauges = {
                "lag_ms": self._lag_ns / 1e6,
                "hands": float(self.engine.recogniser.hands),
            }

    def finish(self) -> None:
        # Hands are followed on the segmenter's word; what is still open here will never end.
        self._send(self.engine.close(0, "stopped"))
        self._loader.shutdown(wait=False, cancel_futures=True)
        self.outlet.close()
