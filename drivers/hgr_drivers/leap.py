"""Leap Motion and Ultraleap sensors, over the WebSocket that their service offers on port 6437.

The service is leapd itself up to Orion (SDK 4). From Gemini on it has no such server any more, and
UltraleapTrackingWebSocket puts it back. Protocol 6, as both speak it:

1. The client connects to ``/v6.json``. A server that knows only older protocols closes with code
   1001; UltraleapTrackingWebSocket drops a connection to any other path.
2. The server says ``{"serviceVersion": "2.3.1+33747", "version": 6}``, or ``{"version": 6}``.
3. leapd tells of its sensor: ``{"event": {"type": "deviceEvent", "state": {...}}}``, now and at
   each plug and unplug. Some services keep sending frames after an unplug.
4. The client says ``{"background":true}``, ``{"focused":true}`` and ``{"optimizeHMD":false}``: to
   one that has neither focus nor background leave leapd sends nothing. UltraleapTrackingWebSocket
   compares these texts byte by byte, in a buffer of 32 bytes: they must stay compact.
5. The server sends a frame a message, also while it sees no hand.

A service can go silent without closing, and focus can be lost to another program: when nothing
comes the focus messages are sent again, and the runner's watchdog reconnects after ``silence_s``.
What a frame holds is known in ``hgr_stream.datasets.leap_json``. UltraleapTrackingWebSocket splits
its frames between two clients: keep other LeapJS pages closed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec
import numpy as np
from msgspec import Meta

from hgr_stream.datasets.leap_json import (
    REASONS,
    DeviceState,
    LeapFrame,
    LeapJsonError,
    ServiceVersion,
    decode_message,
)

from .base import DeviceError, Driver, Found, HandSample, Options, Sample

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

log = logging.getLogger(__name__)

DEFAULT_URL: Final = "ws://127.0.0.1:6437/v6.json"
PROTOCOL: Final = 6
#: A frame of two hands is 10 KB; anything larger than this is not one.
MAX_MESSAGE_BYTES: Final = 1 << 20
#: The WebSocket library drops the connection beyond its limit, so ours is the lower one.
_HARD_LIMIT_BYTES: Final = 1 << 24
#: No frame for so long from a service that has told of an unplug: say so, rather than be silent.
UNPLUGGED_S: Final = 1.0
_GOING_AWAY, _NOT_UTF8, _TOO_BIG = 1001, 1007, 1009

#: A head-mounted sensor's axes (y away from the face, z down) in canonical ones, as LeapJS's
#: transform plugin has it: (x, y, z) -> (-x, -z, -y). Not tried on a device.
HMD_AXES: Final = np.array([[-1, 0, 0], [0, 0, -1], [0, -1, 0]], dtype=np.float32)

_START = "start the Leap service (leapd, or UltraleapTrackingWebSocket for Gemini and later)"
_UPDATE = "update the Leap Motion software to 2.0 or later, or use UltraleapTrackingWebSocket"


class LeapOptions(Options):
    """Keys of a device's table in the config."""

    url: str = DEFAULT_URL
    background: bool = True  #: get frames although another program has the focus
    optimize_hmd: bool = False  #: the sensor is mounted on a headset
    connect_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 3.0
    refocus_s: Annotated[float, Meta(gt=0, le=60)] = 0.75  #: silent for so long: ask again


class LeapDriver(Driver[LeapOptions]):
    """Hands of one Leap service: both, with the service's own ids, clock and frame numbers."""

    name: ClassVar[str] = "leap"
    about: ClassVar[str] = "Leap Motion and Ultraleap by WebSocket"
    packages: ClassVar[tuple[str, ...]] = ("websockets",)
    extra: ClassVar[str] = "leap"
    Options: ClassVar[type[Options]] = LeapOptions
    silence_s: ClassVar[float] = 2.0

    def __init__(self, options: LeapOptions) -> None:
        super().__init__(options)
        self.service: ServiceVersion | None = None
        self.device: DeviceState | None = None  #: the sensor, as far as the service has told
        self._connection: ClientConnection | None = None
        self._stack = ExitStack()
        self._counts: Counter[str] = Counter()
        self._refocus_at_s = 0.0
        self._heard_s = 0.0  # last frame or device event
        self._warned: set[str] = set()

    def open(self) -> None:
        self.close()
        options = self.options
        self._heard_s = time.monotonic()
        deadline_s = self._heard_s + options.connect_timeout_s
        self._connection = self._connect()
        try:
            self.service = self._await_version(self._connection, deadline_s)
            self._send_focus(self._connection)
        except DeviceError:
            self.close()
            raise
        self.say("service", f"{options.url}: {_service_text(self.service)}")

    def read(self, timeout_s: float) -> Sample | None:
        connection = self._connection
        if connection is None:
            raise DeviceError("the Leap driver is not open")
        now_s = time.monotonic()
        deadline_s = now_s + timeout_s
        while True:
            if now_s >= self._refocus_at_s:
                self._counts["focus_sent_again"] += 1
                self._send_focus(connection)
            wait_s = max(min(deadline_s, self._refocus_at_s) - now_s, 0.0)
            sample = self._next_sample(connection, wait_s)
            now_s = time.monotonic()
            if sample is not None:
                self._heard_s = now_s
                self._refocus_at_s = now_s + self.options.refocus_s
                return sample
            if now_s >= deadline_s:
                self._check_plugged(now_s)
                return None

    def _check_plugged(self, now_s: float) -> None:
        device = self.device
        if device is not None and not device.attached and now_s - self._heard_s > UNPLUGGED_S:
            raise DeviceError(f"sensor {device.id} is unplugged; its service runs", "plug it in")

    def close(self) -> None:
        self._connection = None
        self.service = self.device = None
        self._stack.close()

    def counts(self) -> dict[str, int]:
        """Refused: ``message_<reason>`` and ``hand_<reason>``; also sensors attached and detached,
        focus sent again, and hands whose wrist had to be estimated (SDK 2 betas)."""
        return dict(self._counts)

    @classmethod
    def find(cls) -> list[Found]:
        """A service on the default port, within about half a second."""
        driver = cls(LeapOptions(url=DEFAULT_URL, connect_timeout_s=0.4))
        deadline_s = time.monotonic() + 0.5
        try:
            driver.open()
            while driver.device is None and (left_s := deadline_s - time.monotonic()) > 0:
                driver.read(left_s)
        except DeviceError:
            if driver.service is None:
                return []
        try:
            assert driver.service is not None
            device = driver.device
            text = f"{_service_text(driver.service)} at {driver.options.url}"
            if device is not None:
                text += f", sensor {device.id} {'attached' if device.attached else 'unplugged'}"
            return [Found(cls.name, device.id if device else cls.name, text)]
        finally:
            driver.close()

    def check(self) -> None:
        """DeviceError for a url that is none."""
        from websockets.exceptions import InvalidURI
        from websockets.uri import parse_uri

        try:
            parse_uri(self.options.url)
        except (InvalidURI, ValueError) as error:  # the latter for a port or bracket
            raise _bad_url(error) from None

    # --- the connection

    def _connect(self) -> ClientConnection:
        try:
            from websockets.exceptions import InvalidHandshake, InvalidURI
            from websockets.sync.client import connect
        except ImportError:
            raise DeviceError(
                "the Leap driver needs the package websockets",
                'pip install "hgr-stream[leap]"',
                fatal=True,
            ) from None
        url = self.options.url
        try:
            return self._stack.enter_context(
                connect(
                    url,
                    open_timeout=self.options.connect_timeout_s,
                    # The sensor is local or on a trusted network; no proxy knows the way to it.
                    proxy=None,
                    # Frames are small and fresh; and the service may be a very plain server.
                    compression=None,
                    ping_interval=None,
                    close_timeout=0.5,
                    max_size=_HARD_LIMIT_BYTES,
                )
            )
        except (InvalidURI, ValueError) as error:  # the latter for a port, bracket or host
            raise _bad_url(error) from None
        except InvalidHandshake as error:
            raise DeviceError(
                f"{url} answers, but not as a Leap service: {error}",
                "another program may use the port; set url",
            ) from None
        except TimeoutError:
            raise DeviceError(
                f"no answer from {url} in {self.options.connect_timeout_s:g} s",
                f"{_START}, or set url",
            ) from None
        except (OSError, EOFError) as error:
            raise DeviceError(
                f"no Leap service at {url}: {error}", f"{_START}, or set url"
            ) from None

    def _await_version(self, connection: ClientConnection, deadline_s: float) -> ServiceVersion:
        from websockets.exceptions import ConnectionClosed

        url = self.options.url
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                message = self._decode(connection.recv(timeout=left_s))
            except TimeoutError:
                break
            except ConnectionClosed as error:
                if error.rcvd is not None and error.rcvd.code == _GOING_AWAY:
                    raise DeviceError(
                        f"the service at {url} does not speak protocol {PROTOCOL} "
                        f"(it closed with {_GOING_AWAY})",
                        _UPDATE,
                    ) from None
                raise DeviceError(
                    f"{url} closed the connection at once ({error})",
                    "the path must be /v6.json; or the service is restarting",
                ) from None
            if isinstance(message, DeviceState):
                self._device_event(message)
            elif isinstance(message, ServiceVersion):
                if message.protocol < PROTOCOL:
                    raise DeviceError(
                        f"{_service_text(message)} at {url} is too old: {PROTOCOL} is needed",
                        _UPDATE,
                    )
                return message
        raise DeviceError(
            f"{url} accepts the connection but does not tell its version",
            "restart the Leap service; if another program uses the port, set url",
        )

    def _send_focus(self, connection: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        self._refocus_at_s = time.monotonic() + self.options.refocus_s
        try:
            for key, value in (
                ("background", self.options.background),
                ("focused", True),
                ("optimizeHMD", self.options.optimize_hmd),
            ):
                # msgspec writes no spaces; see the module's docstring for why that matters.
                connection.send(msgspec.json.encode({key: value}).decode())
        except ConnectionClosed as error:
            raise self._lost(error) from None

    def _next_sample(self, connection: ClientConnection, wait_s: float) -> Sample | None:
        """One message; None if it was no frame or if none came."""
        from websockets.exceptions import ConnectionClosed

        try:
            data = connection.recv(timeout=wait_s)
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            raise self._lost(error) from None
        message = self._decode(data)
        if isinstance(message, LeapFrame):
            return self._sample(message)
        if isinstance(message, DeviceState):
            self._device_event(message)
        return None

    def _lost(self, error: Exception) -> DeviceError:
        sent = getattr(error, "sent", None)
        if sent is not None and sent.code == _TOO_BIG:
            self._counts["message_oversized"] += 1
        elif sent is not None and sent.code == _NOT_UTF8:
            self._counts["message_malformed"] += 1
        return DeviceError(
            f"lost the Leap service at {self.options.url} ({error})", f"{_START} again"
        )

    # --- messages

    def _decode(self, data: str | bytes) -> LeapFrame | ServiceVersion | DeviceState | None:
        if len(data) > MAX_MESSAGE_BYTES:
            self._refuse("oversized", f"{len(data)} bytes")
        elif not isinstance(data, str):
            self._refuse("binary", f"{len(data)} bytes")
        else:
            try:
                return decode_message(data)
            except LeapJsonError as error:
                self._refuse("malformed", str(error))
        return None

    def _refuse(self, reason: str, detail: str) -> None:
        self._complain(f"message_{reason}", f"{reason} message refused: {detail}")

    def _complain(self, count: str, text: str) -> None:
        self._counts[count] += 1
        if count not in self._warned:  # once for each kind; the counts tell the rest
            self._warned.add(count)
            log.warning("%s: %s", self.options.url, text)

    def _device_event(self, state: DeviceState) -> None:
        self.device = state
        self._heard_s = time.monotonic()
        if state.attached:
            self._counts["attached"] += 1
            self.say("sensor", f"{self.options.url}: sensor {state.id} attached")
        else:
            self._counts["detached"] += 1
            text = f"{self.options.url}: sensor {state.id} unplugged"
            self.say("sensor", text, logging.WARNING)

    def _sample(self, frame: LeapFrame) -> Sample:
        for reason in frame.refused:
            self._complain(f"hand_{reason}", f"hand refused: {REASONS[reason]}")
        if frame.estimated_wrists:
            self._counts["wrist_estimated"] += frame.estimated_wrists
        return Sample(frame.device_ns, [self._hand(hand) for hand in frame.hands], frame.index)

    def _hand(self, hand: HandSample) -> HandSample:
        joints = hand.joints @ HMD_AXES.T if self.options.optimize_hmd else hand.joints
        return HandSample(hand.id, hand.side, joints, hand.confidence)


def _bad_url(error: Exception) -> DeviceError:
    return DeviceError(f"bad url: {error}", f'url must look like "{DEFAULT_URL}"', fatal=True)


def _service_text(service: ServiceVersion) -> str:
    name = f"Leap service {service.service}" if service.service else "Leap service"
    return f"{name}, protocol {service.protocol}"
