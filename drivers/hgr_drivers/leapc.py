"""Ultraleap's own tracking service (Gemini, Hyperion) through LeapC, over the vendor's binding.

The binding is the package ``leap`` of github.com/ultraleap/leapc-python-bindings. It is not on
PyPI, needs the vendor's SDK, and is looked for when the driver opens. Its calls used here:
``Connection`` (connect, disconnect, get_devices, subscribe_events, set_tracking_mode), ``Listener``
and the events. Millimetres and microseconds become metres and nanoseconds; the axes of a sensor on
the desk are the canonical ones.

A listener runs in the binding's thread, which prints an exception and goes on: so everything is
caught there and told through ``read``.
"""

from __future__ import annotations

import importlib
import logging
import queue
import time
from collections import Counter
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from msgspec import Meta

from hgr_stream.skeleton import N_JOINTS, Float32, with_palm

from .base import DeviceError, Driver, Found, HandSample, Options, Sample
from .leap import HMD_AXES

log = logging.getLogger(__name__)

#: Frames that wait while the pipeline is busy: one second. The oldest is dropped, and counted.
BACKLOG: Final = 120
DEVICES_S: Final = 0.5
_INSTALL: Final = (
    "install the Ultraleap SDK, then the binding of "
    'https://github.com/ultraleap/leapc-python-bindings; or use driver = "leap" with '
    "UltraleapTrackingWebSocket"
)
_SERVICE: Final = "start the Ultraleap tracking service (Linux: systemctl start libtrack-server)"


class LeapCOptions(Options):
    """Keys of a device's table in the config."""

    serial: str = ""  #: which sensor, of several; empty: all that the service follows
    mode: Literal["desktop", "hmd", "screentop"] = "desktop"  #: how the sensor is mounted
    connect_timeout_s: Annotated[float, Meta(gt=0, le=60)] = 5.0


class LeapCDriver(Driver[LeapCOptions]):
    """Hands of one service, or of one of its sensors."""

    name: ClassVar[str] = "leapc"
    about: ClassVar[str] = "Ultraleap by its own library (Gemini, Hyperion)"
    Options: ClassVar[type[Options]] = LeapCOptions
    silence_cure: ClassVar[str] = (
        "the service runs but sends nothing: plug the sensor in, or restart the service"
    )

    def __init__(self, options: LeapCOptions) -> None:
        super().__init__(options)
        self._connection: Any = None
        self._events: queue.Queue[Sample | DeviceError] = queue.Queue(BACKLOG)
        self._device_id: int | None = None  # only this one's frames are taken; None: all
        self._last_frame: dict[int, int] = {}  # device id -> its last frame's number
        self._counts: Counter[str] = Counter()

    def open(self) -> None:
        self.close()
        leap = _binding()
        options = self.options
        try:
            connection = leap.Connection(
                multi_device_aware=bool(options.serial), poll_timeout=0.1, response_timeout=1
            )
            connection.add_listener(self._listener(leap))
            connection.connect(timeout=options.connect_timeout_s)
        except leap.LeapError as error:
            raise DeviceError(f"no Ultraleap service answers ({_name(error)})", _SERVICE) from None
        self._connection = connection
        try:
            connection.set_tracking_mode(getattr(leap.TrackingMode, _MODES[options.mode]))
            self._subscribe(connection)
        except leap.LeapError as error:
            self.close()
            raise DeviceError(
                f"the Ultraleap service refuses: {_name(error)}", "restart the service"
            ) from None
        except DeviceError:
            self.close()
            raise

    def _subscribe(self, connection: Any) -> None:
        """Ask for the frames of the wanted sensor; raises DeviceError naming those there are."""
        # The service tells of its sensors a moment after the connection.
        deadline_s = time.monotonic() + DEVICES_S
        while not (devices := _serials(connection)) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        if not self.options.serial:
            if not devices:
                raise DeviceError("the Ultraleap service sees no sensor", "plug it in")
            return
        device = devices.get(self.options.serial)
        if device is None:
            there = ", ".join(sorted(devices)) or "none"
            raise DeviceError(
                f"no sensor {self.options.serial!r}; there are: {there}",
                "plug it in, or set serial",
            )
        with device.open():
            connection.subscribe_events(device)
        self._device_id = device.id

    def read(self, timeout_s: float) -> Sample | None:
        if self._connection is None:
            raise DeviceError("the LeapC driver is not open")
        try:
            event = self._events.get(timeout=max(timeout_s, 1e-4))
        except queue.Empty:
            return None
        if isinstance(event, DeviceError):
            raise event
        return event

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
        self._events = queue.Queue(BACKLOG)
        self._device_id = None
        self._last_frame.clear()

    def counts(self) -> dict[str, int]:
        """``lost`` by the service's frame numbers, ``overtaken`` (came faster than they were
        read), ``malformed`` and ``dropped_by_service``."""
        return dict(self._counts)

    @classmethod
    def missing(cls) -> str:
        try:
            _binding()
        except DeviceError as error:
            return f"{error}: {error.cure}"
        return ""

    @classmethod
    def find(cls) -> list[Found]:
        """The service's sensors, within about a second."""
        try:
            leap = _binding()
            connection = leap.Connection(poll_timeout=0.1, response_timeout=1)
            connection.connect(timeout=1.0)
        except Exception:  # no binding, no service: nothing is seen
            return []
        try:
            return [
                Found(cls.name, serial, f"Ultraleap sensor {serial}", {"serial": serial})
                for serial in sorted(_serials(connection))
            ]
        except leap.LeapError:
            return []
        finally:
            connection.disconnect()

    # --- in the binding's thread

    def _listener(self, leap: Any) -> Any:
        """The binding's Listener, bound to this driver's queue of now."""
        driver, events = self, self._events

        class Listener(leap.Listener):  # type: ignore[misc]
            def on_tracking_event(self, event: Any) -> None:
                driver.take(event, events)

            def on_dropped_frame_event(self, event: Any) -> None:
                driver._counts["dropped_by_service"] += 1

            def on_connection_lost_event(self, event: Any) -> None:
                driver.put(DeviceError("lost the Ultraleap service", _SERVICE), events)

            def on_device_lost_event(self, event: Any) -> None:
                if driver._is_ours(event):
                    driver.put(DeviceError("the sensor is unplugged", "plug it in"), events)

            def on_device_failure_event(self, event: Any) -> None:
                if driver._is_ours(event):
                    driver.put(
                        DeviceError("the sensor fails", "unplug it, and plug it in again"), events
                    )

        return Listener()

    def _is_ours(self, event: Any) -> bool:
        """False for a sensor's event when another sensor is followed; one without id counts."""
        # A failure's device has no id in the binding, and a message of the service's own has 0.
        device_id = event.device.id or event.metadata.device_id
        return self._device_id is None or device_id in (0, self._device_id)

    def take(self, event: Any, events: queue.Queue[Sample | DeviceError]) -> None:
        """A tracking event of the binding -> a sample in the queue."""
        try:
            device_id = int(event.metadata.device_id)
            if self._device_id is not None and device_id != self._device_id:
                return
            number = int(event.tracking_frame_id)
            last = self._last_frame.get(device_id)
            if last is not None and number > last + 1:
                self._counts["lost"] += number - last - 1
            self._last_frame[device_id] = number
            hands = [self._hand(hand) for hand in event.hands]
            self.put(Sample(int(event.timestamp) * 1000, hands, number), events)
        except Exception as error:  # the binding would only print it
            self._counts["malformed"] += 1
            if self._counts["malformed"] == 1:
                log.warning("a tracking event is refused: %s", error)

    def put(self, event: Sample | DeviceError, events: queue.Queue[Sample | DeviceError]) -> None:
        """Queue it; the newest are kept."""
        while True:
            try:
                events.put_nowait(event)
                return
            except queue.Full:
                events.get_nowait()
                self._counts["overtaken"] += 1

    def _hand(self, hand: Any) -> HandSample:
        joints = hand_joints(hand)
        if self.options.mode == "hmd":
            joints = joints @ HMD_AXES.T
        side: Literal["left", "right"] = "left" if hand.type.name == "Left" else "right"
        return HandSample(int(hand.id), side, joints, float(hand.confidence))


_MODES: Final = {"desktop": "Desktop", "hmd": "HMD", "screentop": "ScreenTop"}


def hand_joints(hand: Any) -> Float32:
    """The binding's hand -> canonical joints (22, 3), metres.

    The thumb's metacarpal has no length in LeapC: its base is the proximal bone's beginning.
    """
    ends = [hand.arm.next_joint, hand.arm.next_joint]  # wrist, and the palm that is computed
    for i, digit in enumerate(hand.digits):
        bones = digit.bones
        ends.append(bones[1].prev_joint if i == 0 else bones[0].next_joint)
        ends += [bone.next_joint for bone in bones[1:]]
    joints = np.array([(p.x, p.y, p.z) for p in ends], dtype=np.float32).reshape(N_JOINTS, 3)
    return with_palm(joints * np.float32(1e-3))


def _binding() -> Any:
    """The vendor's package; raises DeviceError with the cure. It raises a bare Exception itself
    when it does not find the SDK."""
    try:
        leap = importlib.import_module("leap")
    except ImportError as error:
        text = "is not installed" if error.name == "leap" else f"does not load: {error}"
        raise DeviceError(f"Ultraleap's Python binding {text}", _INSTALL) from None
    except Exception as error:  # a bare one, when the SDK is not found
        raise DeviceError(f"Ultraleap's Python binding does not load: {error}", _INSTALL) from None
    if not hasattr(leap, "Connection"):
        raise DeviceError(
            "the installed package 'leap' is another one (PyPI's is not Ultraleap's)",
            f"pip uninstall leap; {_INSTALL}",
        )
    return leap


def _serials(connection: Any) -> dict[str, Any]:
    """Serial number -> device of the service."""
    found: dict[str, Any] = {}
    for device in connection.get_devices():
        with device.open():
            found[str(device.get_info().serial)] = device
    return found


def _name(error: Exception) -> str:
    return type(error).__name__.removeprefix("Leap").removesuffix("Error") or str(error)
