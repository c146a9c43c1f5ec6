"""A Leap Motion service without a Leap Motion: recorded frames over leapd's own protocol.

    python tools/leapd.py RECORDING.json.gz --loop

The recording (LeapJS playback, packed or not, or a list of frames) is played in its own timing, to
any client of protocol 6: a browser with LeapJS, or ``hgr run`` with ``driver = "leap"``. It starts
with the first client that may have frames. Frames of the first pass are sent as the file has them;
in later passes ids and timestamps go on. After the last frame, as when the hand has left, frames
without hands follow, unless ``--loop`` is given.

The options after it are the faults that a client must survive. ``LeapdServer`` is the same for
tests: a real server on a real socket, in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import statistics
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import click
import msgspec
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from hgr_stream.datasets.base import DatasetError
from hgr_stream.datasets.leapjs import frame_texts

T = TypeVar("T")

SERVICE_VERSION: Final = "2.3.1+33747"
SERIAL: Final = "LP00000000001"
#: UltraleapTrackingWebSocket copies what it receives into a buffer of this size.
ULTRALEAP_BUFFER_BYTES: Final = 32
#: A client that does not read is sent nothing more, rather than filling the memory.
MAX_BACKLOG_BYTES: Final = 4 << 20
GOING_AWAY: Final = 1001


class _Stamp(msgspec.Struct):
    id: int
    timestamp: int


@dataclass(eq=False)
class _Client:
    socket: ServerConnection
    focused: bool = False
    background: bool = False


class LeapdServer:
    """The server; use it as a context manager, or ``start()`` and ``stop()``.

    frames: a recording's path, or JSON texts of frames. port 0: any free one, see ``port``.
    fps: frames a second, with timestamps to match; None: the recording's own. version: the newest
    protocol it speaks. require_focus: background leave is refused (the user's control panel).
    silent_after, close_after: after so many frames it falls silent, or closes every connection
    (again and again). ultraleap_quirks: be UltraleapTrackingWebSocket instead of leapd.

    Methods may be called from any thread. ``received`` holds every control message, in order.
    """

    def __init__(
        self,
        frames: Path | Sequence[str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        fps: float | None = None,
        loop: bool = False,
        version: int = 6,
        device_events: bool = True,
        require_focus: bool = False,
        silent_after: int | None = None,
        close_after: int | None = None,
        ultraleap_quirks: bool = False,
    ) -> None:
        if isinstance(frames, Path):
            frames = [text.decode() for text in frame_texts(frames)]
        if not frames:
            raise ValueError("no frames to serve")
        self.host, self.port = host, port
        self.received: list[str] = []
        self._frames = list(frames)
        self._stamps = _stamps(self._frames)
        self._fps, self._loop_frames, self._version = fps, loop, version
        self._device_events = device_events and not ultraleap_quirks
        self._require_focus, self._quirks = require_focus, ultraleap_quirks
        self._silent_after, self._close_after = silent_after, close_after
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        """A freshly started service: its frame ids and its clock begin again."""
        self._clients: list[_Client] = []
        self._sent = 0
        self._silent = self._detached = self._frames_go_on = False

    # --- for the caller's thread

    @property
    def url(self) -> str:
        return f"ws://{self.host}:{self.port}/v6.json"

    @property
    def clients(self) -> int:
        """Connections that are open now."""
        return len(self._clients)

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def sent(self) -> int:
        """Frames sent since the start, each counted once however many clients it went to."""
        return self._sent

    def start(self) -> None:
        """Listen; raises OSError if the port is taken."""
        self._reset()
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="leapd", daemon=True)
        self._thread.start()
        ready.result(10)

    def stop(self, *, abrupt: bool = False) -> None:
        """Close every connection with 1001, or without a word (a killed process)."""
        if self._thread is None or self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._end, abrupt)
        self._thread.join(10)
        self._thread = self._loop = None

    def restart(self, *, down_s: float = 0.0, abrupt: bool = False) -> None:
        """Stop, stay away for ``down_s``, and come back on the same port as a new service."""
        self.stop(abrupt=abrupt)
        time.sleep(down_s)
        self.start()

    def silence(self, on: bool = True) -> None:
        """Hang: no frames, but the connections stay. Frames missed are not made up for."""
        self._silent = on

    def detach(self, *, frames_go_on: bool = False) -> None:
        """Unplug the sensor. ``frames_go_on``: as some services do."""
        self._detached, self._frames_go_on = True, frames_go_on
        self._tell_device()

    def attach(self) -> None:
        """Plug the sensor in again."""
        self._detached = False
        self._tell_device()

    def take_focus(self) -> None:
        """Another program comes to the front: every client loses what it was granted."""
        for client in list(self._clients):
            client.focused = client.background = False

    def send_raw(self, message: str | bytes) -> None:
        """Send any message to every client: bytes go as a binary one."""

        async def send() -> None:
            # Not awaited: a client that is slow to read must not hold up its own test.
            broadcast([client.socket for client in self._clients], message)

        self._call(send())

    def __enter__(self) -> LeapdServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise RuntimeError("the server is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _tell_device(self) -> None:
        if self._device_events:
            self.send_raw(self._device_event())

    # --- in the server's thread

    def _run(self, ready: Future[None]) -> None:
        try:
            asyncio.run(self._main(ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _main(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        async with serve(
            self._serve_client,
            self.host,
            self.port,
            compression=None,
            ping_interval=None,
            close_timeout=1,
        ) as server:
            self.port = server.sockets[0].getsockname()[1]
            player = asyncio.create_task(self._play())
            # A player that fails ends the server; silence would pass for a fault asked for.
            player.add_done_callback(lambda _: self._stopping.set())
            ready.set_result(None)
            await self._stopping.wait()
            player.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await player

    def _end(self, abrupt: bool) -> None:
        if abrupt:
            for client in self._clients:
                client.socket.transport.abort()
        self._stopping.set()

    async def _serve_client(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        wanted = _protocol(socket.request.path)
        if self._quirks and wanted != 6:
            socket.transport.abort()
            return
        if not 1 <= wanted <= self._version:
            await socket.close(GOING_AWAY)
            return
        # UltraleapTrackingWebSocket gives background leave to everyone.
        client = _Client(socket, background=self._quirks)
        with contextlib.suppress(ConnectionClosed):
            if self._quirks:
                await socket.send(_compact({"version": 6}))
            else:
                await socket.send(_compact({"serviceVersion": SERVICE_VERSION, "version": wanted}))
            if self._device_events:
                await socket.send(self._device_event())
            self._clients.append(client)
            self._changed.set()
            try:
                async for message in socket:
                    text = message if isinstance(message, str) else message.decode(errors="replace")
                    self.received.append(text)
                    self._obey(client, text)
                    self._changed.set()
            finally:
                self._clients.remove(client)

    def _obey(self, client: _Client, text: str) -> None:
        if self._quirks:
            if len(text.encode()) >= ULTRALEAP_BUFFER_BYTES:
                return
            for key in ("focused", "background"):
                for value in (True, False):
                    if text == _compact({key: value}):
                        setattr(client, key, value)
            return
        try:
            wishes = json.loads(text)
        except ValueError:
            return
        if isinstance(wishes, dict):
            client.focused = wishes.get("focused", client.focused) is True
            client.background = wishes.get("background", client.background) is True

    def _may_have_frames(self, client: _Client) -> bool:
        return client.focused or (client.background and not self._require_focus)

    def _device_event(self) -> str:
        attached = not self._detached
        state = {"attached": attached, "id": SERIAL, "streaming": attached, "type": "Peripheral"}
        return _compact({"event": {"state": state, "type": "deviceEvent"}})

    async def _play(self) -> None:
        while not any(map(self._may_have_frames, self._clients)):
            self._changed.clear()
            await self._changed.wait()
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        for since_us, text in self._timeline():
            await asyncio.sleep(max(start_s + since_us * 1e-6 - loop.time(), 0))
            await self._emit(text)

    def _timeline(self) -> Iterator[tuple[int, str]]:
        """Time since the start and frame, without end."""
        stamps = self._stamps
        first_us, first_id = stamps[0].timestamp, stamps[0].id
        times_us = [stamp.timestamp - first_us for stamp in stamps]
        steps_us = [b - a for a, b in pairwise(times_us)]
        step_us = statistics.median(steps_us or [0]) or 10_000
        if self._fps is not None:
            step_us = 1e6 / self._fps
            times_us = [round(i * step_us) for i in range(len(stamps))]
        span_us = round(times_us[-1] + step_us)
        span_ids = stamps[-1].id - first_id + 1
        for number in count():
            since_us, more_ids = number * span_us, number * span_ids
            for text, stamp, time_us in zip(self._frames, stamps, times_us, strict=True):
                at_us = since_us + time_us
                if number == 0 and self._fps is None:
                    yield at_us, text
                else:
                    yield at_us, _restamped(text, stamp.id + more_ids, first_us + at_us)
            if not self._loop_frames:
                break
        for number in count():
            at_us = span_us + round(number * step_us)
            frame = {
                "currentFrameRate": 1e6 / step_us,
                "hands": [],
                "id": first_id + span_ids + number,
                "pointables": [],
                "timestamp": first_us + at_us,
            }
            yield at_us, _compact(frame)

    async def _emit(self, text: str) -> None:
        if self._silent or (self._detached and not self._frames_go_on):
            return
        listeners = [
            client.socket
            for client in self._clients
            if self._may_have_frames(client)
            and client.socket.transport.get_write_buffer_size() < MAX_BACKLOG_BYTES
        ]
        if not listeners:
            return
        if self._quirks:
            listeners = [listeners[self._sent % len(listeners)]]
        broadcast(listeners, text)
        self._sent += 1
        if self._silent_after is not None and self._sent == self._silent_after:
            self._silent = True
        if self._close_after is not None and self._sent % self._close_after == 0:
            await asyncio.gather(*(client.socket.close(GOING_AWAY) for client in self._clients))


def _protocol(path: str) -> int:
    """The protocol that a path asks for: /v6.json 6, / 1, anything else 0."""
    if path == "/":
        return 1
    match = re.fullmatch(r"/v(\d{1,3})\.json", path)
    return int(match[1]) if match else 0


def _stamps(frames: list[str]) -> list[_Stamp]:
    """Id and time of every frame; one that tells neither, or goes back in time, follows at once."""
    told: list[_Stamp | None] = []
    for text in frames:
        try:
            told.append(msgspec.json.decode(text, type=_Stamp, strict=False))
        except msgspec.MsgspecError:
            told.append(None)
    last = next((stamp for stamp in told if stamp is not None), _Stamp(0, 0))
    stamps: list[_Stamp] = []
    for stamp in told:
        if stamp is not None:
            last = _Stamp(stamp.id, max(stamp.timestamp, last.timestamp))
        stamps.append(last)
    return stamps


def _restamped(text: str, number: int, timestamp_us: int) -> str:
    frame = json.loads(text)
    frame["id"], frame["timestamp"] = number, timestamp_us
    return _compact(frame)


def _compact(message: object) -> str:
    return json.dumps(message, separators=(",", ":"))


def _parse_fps(context: click.Context, parameter: click.Parameter, value: str) -> float | None:
    if value == "native":
        return None
    with contextlib.suppress(ValueError):
        if 0 < (fps := float(value)) <= 10_000:
            return fps
    raise click.BadParameter(f"{value!r} is neither 'native' nor a number of frames a second")


@click.command(
    epilog="""\b
Examples:
  python tools/leapd.py wave.json.gz --loop
  python tools/leapd.py wave.json.gz --port 6438 --fps 120 --close-after 500
  python tools/leapd.py wave.json.gz --ultraleap-quirks"""
)
@click.argument("recording", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=6437, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--fps",
    default="native",
    show_default=True,
    callback=_parse_fps,
    help="Frames a second; 'native': the recording's own timing.",
)
@click.option("--loop", is_flag=True, help="Begin again after the last frame.")
@click.option("--version", default=6, show_default=True, help="Newest protocol that it speaks.")
@click.option("--no-device-events", is_flag=True, help="Say nothing of the sensor.")
@click.option("--require-focus", is_flag=True, help="Refuse background leave to clients.")
@click.option("--silent-after", type=click.IntRange(1), help="Hang after so many frames.")
@click.option("--close-after", type=click.IntRange(1), help="Close after every so many frames.")
@click.option("--ultraleap-quirks", is_flag=True, help="Be UltraleapTrackingWebSocket.")
def main(
    recording: Path,
    host: str,
    port: int,
    fps: float | None,
    loop: bool,
    version: int,
    no_device_events: bool,
    require_focus: bool,
    silent_after: int | None,
    close_after: int | None,
    ultraleap_quirks: bool,
) -> None:
    """Serve a Leap Motion RECORDING as leapd would, until Ctrl-C."""
    try:
        server = LeapdServer(
            recording,
            host=host,
            port=port,
            fps=fps,
            loop=loop,
            version=version,
            device_events=not no_device_events,
            require_focus=require_focus,
            silent_after=silent_after,
            close_after=close_after,
            ultraleap_quirks=ultraleap_quirks,
        )
        server.start()
    except (DatasetError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host}:{port}: {error}") from None
    click.echo(f"{recording.name} on {server.url}; Ctrl-C ends it")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(0.5) and server.running:
        pass
    server.stop()
    click.echo(f"{server.sent} frames sent")


if __name__ == "__main__":
    sys.exit(main())
