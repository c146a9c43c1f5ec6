"""A stand-in for Ultraleap's Python binding: the same names, over the stand-in shared library.

The vendor's binding is not on PyPI and needs its SDK. This one keeps to what that one does where it
matters to a driver: listeners run in its own polling thread, an exception in one is only printed, a
service that does not answer is a ``LeapTimeoutError``, and hands are read attribute by attribute.
``LEAPC_STAND_IN`` names the library; without it the import fails as the vendor's does without SDK.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import sys
import threading
import time
from pathlib import Path

import cffi

if "LEAPC_STAND_IN" not in os.environ:
    raise Exception("Error: Unable to find leapc_cffi dir within directory")

_header = (Path(__file__).parent.parent / "stand_in.h").read_text()
ffi = cffi.FFI()
ffi.cdef(re.sub(r"/\*.*?\*/", "", _header, flags=re.S))
libleapc = ffi.dlopen(os.environ["LEAPC_STAND_IN"])


class LeapError(Exception):
    pass


class LeapTimeoutError(LeapError):
    pass


class LeapNotConnectedError(LeapError):
    pass


class LeapCannotOpenDeviceError(LeapError):
    pass


_ERRORS = {
    libleapc.RS_TIMEOUT: LeapTimeoutError,
    libleapc.RS_NOT_CONNECTED: LeapNotConnectedError,
    libleapc.RS_CANNOT_OPEN_DEVICE: LeapCannotOpenDeviceError,
}


def _success_or_raise(result: int) -> None:
    if result != libleapc.RS_SUCCESS:
        raise _ERRORS[result]


TrackingMode = enum.Enum("TrackingMode", [("Desktop", 0), ("HMD", 1), ("ScreenTop", 2)])
HandType = enum.Enum("HandType", [("Left", 0), ("Right", 1)])


class _Digit:
    def __init__(self, data) -> None:
        self.metacarpal, self.proximal = data.metacarpal, data.proximal
        self.intermediate, self.distal = data.intermediate, data.distal

    @property
    def bones(self):
        return [self.metacarpal, self.proximal, self.intermediate, self.distal]


class _Hand:
    def __init__(self, data) -> None:
        self._data = data
        self.id, self.confidence, self.arm = data.id, data.confidence, data.arm

    @property
    def type(self):
        return HandType(self._data.type)

    @property
    def digits(self):
        return [_Digit(self._data.digits[i]) for i in range(5)]


class _Metadata:
    def __init__(self, device_id: int) -> None:
        self.device_id = device_id


class TrackingEvent:
    def __init__(self, message) -> None:
        self.metadata = _Metadata(message.device_id)
        # The vendor's, too, knows a sensor that fails by its handle alone.
        failed = message.type == libleapc.TYPE_DEVICE_FAILURE
        self.device = Device(None if failed else message.device_id)
        self.timestamp = message.timestamp
        self.tracking_frame_id = message.tracking_frame_id
        self._message = message

    @property
    def hands(self):
        return [_Hand(self._message.hands[i]) for i in range(self._message.n_hands)]


class Listener:
    def on_error(self, error) -> None:
        pass

    def on_connection_event(self, event) -> None:
        pass

    on_connection_lost_event = on_device_event = on_device_lost_event = on_connection_event
    on_tracking_event = on_dropped_frame_event = on_device_failure_event = on_connection_event


_CALLS = {
    libleapc.TYPE_CONNECTION: "on_connection_event",
    libleapc.TYPE_CONNECTION_LOST: "on_connection_lost_event",
    libleapc.TYPE_DEVICE: "on_device_event",
    libleapc.TYPE_DEVICE_LOST: "on_device_lost_event",
    libleapc.TYPE_DEVICE_FAILURE: "on_device_failure_event",
    libleapc.TYPE_TRACKING: "on_tracking_event",
}


class _DeviceInfo:
    def __init__(self, serial: str) -> None:
        self.serial = serial


class Device:
    def __init__(self, device_id: int | None) -> None:
        self.id = device_id

    @contextlib.contextmanager
    def open(self):
        _success_or_raise(libleapc.LeapOpenDevice(self.id))
        yield self

    def get_info(self) -> _DeviceInfo:
        return _DeviceInfo(ffi.string(libleapc.LeapGetDeviceSerial(self.id)).decode())


class Connection:
    def __init__(
        self, *, multi_device_aware=False, listeners=None, poll_timeout=1.0, response_timeout=10.0
    ) -> None:
        self._listeners = listeners or []
        self._poll_ms = int(poll_timeout * 1000)
        self._handle = libleapc.LeapCreateConnection()
        self._thread: threading.Thread | None = None
        self._stop = self._connected = False

    def __del__(self) -> None:
        libleapc.LeapDestroyConnection(self._handle)

    def add_listener(self, listener) -> None:
        self._listeners.append(listener)

    def connect(self, *, auto_poll=True, timeout=10.0) -> None:
        _success_or_raise(libleapc.LeapOpenConnection(self._handle))
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()
        end_s = time.monotonic() + timeout
        while not self._connected:
            if time.monotonic() > end_s:
                self.disconnect()
                raise LeapTimeoutError("Did not received expected event in time")
            time.sleep(0.01)

    def disconnect(self) -> None:
        if self._thread is not None:
            self._stop = True
            self._thread.join()
            self._thread, self._stop = None, False
        libleapc.LeapCloseConnection(self._handle)

    def set_tracking_mode(self, mode) -> None:
        _success_or_raise(libleapc.LeapSetTrackingMode(self._handle, mode.value))

    def get_devices(self):
        ids, count = ffi.new("uint32_t[8]"), ffi.new("uint32_t*")
        _success_or_raise(libleapc.LeapGetDeviceList(self._handle, ids, count))
        return [Device(ids[i]) for i in range(count[0])]

    def subscribe_events(self, device) -> None:
        _success_or_raise(libleapc.LeapSubscribeEvents(self._handle, device.id))

    def _poll(self) -> None:
        while not self._stop:
            message = ffi.new("LEAP_CONNECTION_MESSAGE*")
            result = libleapc.LeapPollConnection(self._handle, self._poll_ms, message)
            if result != libleapc.RS_SUCCESS:
                for listener in self._listeners:
                    listener.on_error(_ERRORS[result]())
                continue
            self._connected |= message.type == libleapc.TYPE_CONNECTION
            for listener in self._listeners:
                try:
                    getattr(listener, _CALLS[message.type])(TrackingEvent(message))
                except Exception as error:
                    print(f"Caught exception in listener callback: {error}", file=sys.stderr)
