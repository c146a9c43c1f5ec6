"""Headsets with OpenXR hands (HoloLens 2, WebXR, Unity, Godot): JSON over a WebSocket.

The headset's app connects to ``ws://THIS_MACHINE:6470`` and sends one text message a frame:

    {"time_ms": 81234.5,
     "hands": [{"side": "right", "joints": [[x, y, z], ...]},
               {"side": "left",  "joints": [[x, y, z], ...]}]}

``joints``: the 26 of OpenXR's XR_EXT_hand_tracking in its order (palm, wrist, thumb metacarpal ...
little tip), or the 25 of WebXR's XRHand (the same without the palm); metres, y up, in a space whose
-z is where the user looks (OpenXR's and WebXR's "local"). With ``axes = "unity"`` z points away
instead. A joint that is not tracked is null: that hand is left out, and counted. ``time_ms``: the
app's own clock (``performance.now()``, ``XRFrame.predictedDisplayTime``); left out: arrival.
``hands`` may be empty: send that too. More keys are ignored.

A web page may not connect unless its origin is in ``origins``: any page that the user visits could
otherwise speak to this port.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from hgr_stream.skeleton import OPENXR_26, Side, from_layout

from ..base import DeviceError, HandSample, Options, Sample
from .geometry import Heading, collapsed, plausible, to_canonical
from .packets import BACKLOG, PacketDriver, PacketError
from .udp import Port

if TYPE_CHECKING:
    from websockets.sync.server import Server, ServerConnection

log = logging.getLogger(__name__)
#: The library tells of each connection, also of those that only try whether somebody listens.
_library_log = logging.getLogger(f"{__name__}.websockets")
_library_log.setLevel(logging.WARNING)

DEFAULT_PORT: Final = 6470
#: Two hands as text are 4 KB.
MAX_MESSAGE_BYTES: Final = 1 << 16
#: A headset that has left the Wi-Fi answers no goodbye: closing waits for it so long.
CLOSE_S: Final = 1.0
N_OPENXR, N_WEBXR = 26, 25


class HeadsetOptions(Options):
    """Keys of a device's table in the config."""

    host: str = "127.0.0.1"  #: own address to listen on; "0.0.0.0": all, for a headset by Wi-Fi
    port: Port = DEFAULT_PORT
    origins: list[str] = []  #: web pages that may connect, like "https://my-page.example"
    axes: Literal["openxr", "unity"] = "openxr"
    heading_deg: Heading = 0.0  #: turn the hands about the vertical


class _Hand(msgspec.Struct):
    side: Side
    joints: Annotated[list[tuple[float, float, float] | None], Meta(max_length=64)]


class _Frame(msgspec.Struct):
    hands: Annotated[list[_Hand], Meta(max_length=16)]
    #: In ns it must still fit int64.
    time_ms: Annotated[float, Meta(ge=-9e12, le=9e12)] | None = None


_decoder = msgspec.json.Decoder(_Frame)


class HeadsetDecoder:
    """Messages to samples; pure. ``counts``: ``hand_untracked``, ``hand_refused``."""

    def __init__(
        self, axes: Literal["openxr", "unity"] = "openxr", heading_deg: float = 0.0
    ) -> None:
        self._mirror = np.array([1.0, 1.0, -1.0]) if axes == "openxr" else np.ones(3)
        self._heading_deg = heading_deg
        self._index = 0
        self.counts: Counter[str] = Counter()

    def push(self, data: bytes, sender: str) -> Sample:
        """One message; raises PacketError for what is no frame. A bad hand costs itself alone."""
        try:
            frame = _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise PacketError("malformed", f"no frame: {error}") from None
        hands = [made for i, hand in enumerate(frame.hands) if (made := self._hand(i, hand))]
        device_ns = None if frame.time_ms is None else round(frame.time_ms * 1e6)
        self._index += 1
        return Sample(device_ns, hands, self._index)

    def _hand(self, position: int, hand: _Hand) -> HandSample | None:
        if len(hand.joints) not in (N_OPENXR, N_WEBXR):
            self.counts["hand_refused"] += 1
            return None
        needed = hand.joints[-N_WEBXR:]  # the palm is computed
        if any(joint is None for joint in needed):
            self.counts["hand_untracked"] += 1
            return None
        points = np.array([needed[0], *needed], dtype=float)
        if not plausible(points):
            self.counts["hand_refused"] += 1
            return None
        # Geometry speaks Unity; OpenXR is the same with z turned round.
        turned = to_canonical(points * self._mirror, "unity", heading_deg=self._heading_deg)
        joints = from_layout(turned, OPENXR_26)
        if collapsed(joints):
            self.counts["hand_untracked"] += 1
            return None
        ids = {"left": 1, "right": 2, "unknown": 3}
        return HandSample(
            ids[hand.side] + 10 * position * (hand.side == "unknown"), hand.side, joints
        )


class HeadsetDriver(PacketDriver[HeadsetOptions]):
    """A WebSocket server for one headset; a new one that connects takes the old one's place."""

    name: ClassVar[str] = "headset"
    about: ClassVar[str] = "headsets with OpenXR hands (HoloLens, WebXR, Unity), JSON by WebSocket"
    packages: ClassVar[tuple[str, ...]] = ("websockets",)
    extra: ClassVar[str] = "headset"
    Options: ClassVar[type[Options]] = HeadsetOptions
    time_unit_ns: ClassVar[int] = 1_000_000
    switch_on: ClassVar[str] = (
        "start the headset's app and let it send to this machine and port "
        '(by Wi-Fi: host = "0.0.0.0" here; by cable: adb reverse tcp:6470 tcp:6470)'
    )

    def __init__(self, options: HeadsetOptions) -> None:
        super().__init__(options)
        self._counts: Counter[str] = Counter()
        self._waiting: queue.Queue[tuple[bytes, str]] = queue.Queue(BACKLOG)
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._client: ServerConnection | None = None

    def _decoder(self) -> HeadsetDecoder:
        return HeadsetDecoder(self.options.axes, self.options.heading_deg)

    def _where(self) -> str:
        return f"ws://{self.options.host}:{self.port}"

    @property
    def port(self) -> int:
        """The port that is listened on; the configured one while closed."""
        server = self._server
        return int(server.socket.getsockname()[1]) if server else self.options.port

    def listens_at(self) -> str:
        return f"tcp://{self.options.host}:{self.options.port}" if self.options.port else ""

    def _connect(self) -> None:
        try:
            from websockets.sync.server import serve
            from websockets.typing import Origin
        except ImportError:
            raise DeviceError(
                "the headset driver needs the package websockets",
                'pip install "hgr-stream[headset]"',
                fatal=True,
            ) from None
        options = self.options
        try:
            self._server = serve(
                self._serve,
                options.host,
                options.port,
                # None: programs that are no browser send no origin.
                origins=[None, *map(Origin, options.origins)],
                max_size=MAX_MESSAGE_BYTES,
                compression=None,
                ping_interval=5,
                ping_timeout=5,
                close_timeout=CLOSE_S,
                logger=_library_log,
            )
        except (OSError, TypeError) as error:  # the latter for a host that cannot be a name
            why = getattr(error, "strerror", None) or error
            raise DeviceError(
                f"port {options.port} on {options.host}: {why}",
                "another program holds it, or this machine has no such address: set port or host",
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _receive(self, timeout_s: float) -> tuple[bytes, str] | None:
        if self._server is None:
            raise DeviceError("the headset driver is not open")
        try:
            return self._waiting.get(timeout=max(timeout_s, 1e-4))
        except queue.Empty:
            pass
        # The library's server ends at the first connection that it cannot accept: when too many
        # files are open, or (not on Linux) when one has gone away before its turn.
        if self._client is None and not (self._thread and self._thread.is_alive()):
            raise DeviceError(f"{self._where()} takes no connections any more")
        return None

    def close(self) -> None:
        if self._server is not None:
            # Aside: it lets go of the port at once, but waits for whoever has connected and says
            # nothing.
            closing = threading.Thread(target=self._server.shutdown, daemon=True)
            closing.start()
            closing.join(CLOSE_S)
            if self._thread is not None:
                self._thread.join(CLOSE_S)
            self._server = self._thread = None

    def counts(self) -> dict[str, int]:
        """``connections``, ``overtaken`` (came faster than it was read), ``refused_<reason>``, and
        what the decoder counts."""
        return {**self._counts, **super().counts()}

    def _serve(self, connection: ServerConnection) -> None:
        """One headset, in a thread of the server's."""
        from websockets.exceptions import ConnectionClosed

        try:
            sender = str(connection.remote_address[0])
        except OSError:
            sender = "unknown"  # it has gone already; what it sent is read all the same
        with self._lock:
            before, self._client = self._client, connection
            self._counts["connections"] += 1
        if before is not None:
            # Aside: it may be half dead, and the goodbye to it must not hold the new one's frames.
            threading.Thread(
                target=before.close, args=(1001, "another headset has connected"), daemon=True
            ).start()
        log.info("headset %s is connected", sender)
        try:
            for message in connection:
                with self._lock:
                    if self._client is not connection:
                        break
                    if self._waiting.full():
                        self._waiting.get_nowait()
                        self._counts["overtaken"] += 1
                    data = message.encode() if isinstance(message, str) else message
                    self._waiting.put_nowait((data, sender))
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == 1009:
                self._counts["refused_oversized"] += 1
                log.warning("%s: a message of over %d bytes", self._where(), MAX_MESSAGE_BYTES)
        finally:
            with self._lock:
                if self._client is connection:
                    self._client = None
            log.info("headset %s has gone", sender)
