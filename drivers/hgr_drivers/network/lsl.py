"""Lab Streaming Layer: a stream of joints a hand, found by its type and described by itself.

LSL has no convention for hands, so this is ours, and what our own bridge writes. A stream carries
one hand, float32, a sample a frame, stamped with the sender's ``local_clock``:

- type ``Hand``; 66, 63 or 78 channels: x, y, z of 22 canonical joints, of 21 in MediaPipe's order,
  or of OpenXR's 26. A sample of NaN: the hand is not seen.
- ``desc/channels/channel/{label, unit, type}`` for each channel, as XDF's meta-data has it. Labels
  are ``wrist_x``, ``wrist_y`` ... with the names of ``skeleton.JOINTS``; with them the 22 joints
  may come in any order. Units: ``meters`` (default), ``centimeters``, ``millimeters``.
- ``desc/hand/{layout, side, axes}``: ``canonical22 | mediapipe21 | openxr26``, ``left | right``,
  ``canonical | unity | y-up | z-up``. What is missing can be set in the config.

Needs the package ``pylsl``, whose wheels bring liblsl on Windows, macOS and Linux x86-64. Each
sender has a clock of its own; LSL measures its offset, and the stamps come out in this machine's.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hgr_stream.skeleton import JOINTS, MEDIAPIPE_21, OPENXR_26, Side, from_layout, with_palm

from ..base import DeviceError, Driver, Found, HandSample, Options, Sample
from .geometry import Axes, Heading, collapsed, plausible, to_canonical
from .packets import SILENCE_S, PacketError

STREAM_TYPE: Final = "Hand"
LAYOUT_OF: Final = {66: "canonical22", 63: "mediapipe21", 78: "openxr26"}
MAX_STREAMS: Final = 16
LOOK_S: Final = 1.0  #: how often to look for streams that have come since
#: A stream that does not answer holds up the others while it is asked: again later, ever later.
RETRY_S: Final = 5.0
MOST_RETRY_S: Final = 80.0
_SIDES: Final[dict[str, Side]] = {"left": "left", "right": "right", "unknown": "unknown"}
_AXES: Final[dict[str, Axes | None]] = {
    "canonical": None, "unity": "unity", "y-up": "y-up", "z-up": "z-up",
}  # fmt: skip
_UNITS_M: Final = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_UNIT_NAMES: Final = {
    "meters": "m", "metres": "m", "meter": "m", "centimeters": "cm", "centimetres": "cm",
    "millimeters": "mm", "millimetres": "mm",
}  # fmt: skip
_GONE: Final = "gone"  #: why a stream is refused that may yet answer
_START: Final = (
    f'start the program that streams hands (its LSL stream must have the type "{STREAM_TYPE}", or '
    "set type or stream here); both machines must be on one network"
)


@dataclass(frozen=True)
class Description:
    """What a stream says of itself; empty where it says nothing."""

    n_channels: int
    labels: tuple[str, ...] = ()
    unit: str = ""
    layout: str = ""
    side: str = ""
    axes: str = ""


def channel_labels() -> list[str]:
    """The 66 labels of the canonical layout."""
    return [f"{joint}_{axis}" for joint in JOINTS for axis in "xyz"]


def stream_info(name: str, side: Side, source_id: str, rate_hz: float = 0.0) -> Any:
    """pylsl's StreamInfo of a canonical hand in this format, to open an outlet with."""
    import pylsl

    info = pylsl.StreamInfo(name, STREAM_TYPE, 66, rate_hz, pylsl.cf_float32, source_id)
    channels = info.desc().append_child("channels")
    for label in channel_labels():
        channel = channels.append_child("channel")
        channel.append_child_value("label", label)
        channel.append_child_value("unit", "meters")
        channel.append_child_value("type", "Position" + label[-1].upper())
    hand = info.desc().append_child("hand")
    hand.append_child_value("layout", "canonical22")
    hand.append_child_value("side", side)
    hand.append_child_value("axes", "canonical")
    return info


def described(info: Any) -> Description:
    """What pylsl's full StreamInfo says, bounded."""
    labels: list[str] = []
    units: set[str] = set()
    channel = info.desc().child("channels").child("channel")
    while not channel.empty() and len(labels) < 256:
        labels.append(channel.child_value("label")[:64])
        units.add(channel.child_value("unit").strip().lower()[:64])
        channel = channel.next_sibling("channel")
    hand = info.desc().child("hand")
    return Description(
        info.channel_count(),
        tuple(labels),
        units.pop() if len(units) == 1 else "",
        hand.child_value("layout")[:64],
        hand.child_value("side").strip().lower()[:64],
        hand.child_value("axes").strip().lower()[:64],
    )


class LslDecoder:
    """Samples of one stream to hands.

    counts: ``not_seen`` (NaN), ``hand_implausible``, ``hand_empty`` (zeros)."""

    def __init__(
        self,
        description: Description,
        *,
        number: int = 1,
        side: str = "",
        axes: str = "",
        unit: str = "",
        heading_deg: float = 0.0,
    ) -> None:
        """Raises PacketError for a stream that does not fit. Arguments overrule the stream."""
        self.counts: Counter[str] = Counter()
        n = description.n_channels
        self.layout = description.layout or LAYOUT_OF.get(n, "")
        if LAYOUT_OF.get(n) != self.layout:
            text = f"{n} channels for layout {self.layout or 'unknown'!r}"
            raise PacketError("bad_layout", text, "stream 66, 63 or 78 channels: x, y, z of joints")
        self._order: list[int] | None = None
        if self.layout == "canonical22" and len(description.labels) == n:
            labels = [label.strip().lower() for label in description.labels]
            if sorted(labels) == sorted(channel_labels()):
                self._order = [labels.index(label) for label in channel_labels()]
        side = side or description.side or "unknown"
        if side not in _SIDES:
            raise PacketError("bad_side", f"a stream of side {side!r}", "set side here")
        self.side: Side = _SIDES[side]
        axes = axes or description.axes or "canonical"
        if axes not in _AXES:
            raise PacketError("bad_axes", f"a stream of axes {axes!r}", "set axes here")
        self._axes: Axes | None = _AXES[axes]
        unit = unit or description.unit or "m"
        unit = _UNIT_NAMES.get(unit, unit)
        if unit not in _UNITS_M:
            raise PacketError("bad_unit", f"a stream in {unit!r}", "set unit here: m, cm or mm")
        self._metres = _UNITS_M[unit]
        self._heading_deg = heading_deg
        self._number = number
        self._index = 0

    def push(self, values: Sequence[float], time_s: float) -> Sample:
        """One sample; without a hand when it is NaN or cannot be one."""
        points: NDArray[np.floating] = np.asarray(values, dtype=np.float64)
        if self._order is not None:
            points = points[self._order]
        points = points.reshape(-1, 3) * self._metres
        self._index += 1
        device_ns = round(time_s * 1e9) if abs(time_s) < 1e9 else None
        if np.isnan(points).all():
            self.counts["not_seen"] += 1
            return Sample(device_ns, [], self._index)
        if not plausible(points):
            self.counts["hand_implausible"] += 1
            return Sample(device_ns, [], self._index)
        if self._axes is not None or self._heading_deg:
            if self._axes is None:  # only turned: Unity's axes are the canonical ones, z negated
                points = points * (1, 1, -1)
            points = to_canonical(points, self._axes or "unity", heading_deg=self._heading_deg)
        if self.layout == "canonical22":
            joints = with_palm(points.astype(np.float32))
        else:
            joints = from_layout(points, OPENXR_26 if self.layout == "openxr26" else MEDIAPIPE_21)
        if collapsed(joints):
            self.counts["hand_empty"] += 1
            return Sample(device_ns, [], self._index)
        return Sample(device_ns, [HandSample(self._number, self.side, joints)], self._index)


class LslOptions(Options):
    """Keys of a device's table in the config."""

    stream: str = ""  #: only streams of this name; empty: all of the type
    type: str = STREAM_TYPE
    side: Literal["", "left", "right"] = ""  #: overrules what the stream says, as do these:
    axes: Literal["", "canonical", "unity", "y-up", "z-up"] = ""
    unit: Literal["", "m", "cm", "mm"] = ""
    heading_deg: Heading = 0.0
    resolve_s: Annotated[float, Meta(gt=0, le=30)] = 1.0  #: how long to look for streams


@dataclass
class _Inlet:
    inlet: Any
    decoder: LslDecoder
    name: str


class LslDriver(Driver[LslOptions]):
    """Hands of all LSL streams that fit, one hand each."""

    name: ClassVar[str] = "lsl"
    about: ClassVar[str] = "any program that streams hands by Lab Streaming Layer"
    packages: ClassVar[tuple[str, ...]] = ("pylsl",)
    extra: ClassVar[str] = "lsl"
    Options: ClassVar[type[Options]] = LslOptions
    silence_s: ClassVar[float] = 2 * SILENCE_S
    silence_cure: ClassVar[str] = _START

    def __init__(self, options: LslOptions) -> None:
        super().__init__(options)
        self._inlets: list[_Inlet] = []
        self._resolver: Any = None
        self._known: set[str] = set()  # uids of streams that are open, or of no use
        self._gone: dict[str, tuple[float, float]] = {}  # uid -> pause in s, when to ask again
        self._next = 0
        self._look_s = 0.0
        self._counts: Counter[str] = Counter()

    def open(self) -> None:
        self.close()
        pylsl = _pylsl()
        by = "name" if self.options.stream else "type"
        # It goes on looking: a second glove may be switched on later.
        self._resolver = pylsl.ContinuousResolver(by, self.options.stream or self.options.type)
        time.sleep(self.options.resolve_s)
        refused = self._take_new(pylsl)
        if not self._inlets:
            self.close()
            if refused is not None:
                raise DeviceError(f"no LSL stream of use: {refused}", refused.cure)
            wanted = f"named {self.options.stream!r}" if self.options.stream else "of hands"
            raise DeviceError(f"no LSL stream {wanted} on the network", _START)

    def _take_new(self, pylsl: Any) -> PacketError | None:
        """Open the streams that are new, in the order of their names; the last refusal, if any."""
        now_s = time.monotonic()
        self._look_s = now_s + LOOK_S
        refused: PacketError | None = None
        there = {info.uid(): info for info in self._resolver.results()}
        self._gone = {uid: gone for uid, gone in self._gone.items() if uid in there}
        due = {uid for uid in there if now_s >= self._gone.get(uid, (0.0, 0.0))[1]}
        new = [there[uid] for uid in due - self._known]
        for info in sorted(new, key=lambda i: (i.name(), i.source_id(), i.uid())):
            if len(self._known) >= MAX_STREAMS:
                break
            uid = info.uid()
            try:
                self._inlets.append(self._opened(pylsl, info))
                self._known.add(uid)
            except PacketError as error:
                self._counts[f"refused_{error.reason}"] += 1
                if uid not in self._gone:
                    text = f"LSL stream {info.name()} refused: {error}"
                    self.say(f"stream {info.name()}", text, logging.WARNING)
                refused = error
                if error.reason == _GONE:
                    before_s = self._gone.get(uid, (0.0, 0.0))[0]
                    pause_s = min(2 * before_s, MOST_RETRY_S) or RETRY_S
                    self._gone[uid] = pause_s, time.monotonic() + pause_s
                else:
                    self._known.add(uid)
        return refused

    def _opened(self, pylsl: Any, info: Any) -> _Inlet:
        options = self.options
        # No recovery of the library's own: it is silent, and the runner has one.
        inlet = pylsl.StreamInlet(
            info, max_buflen=2, recover=False, processing_flags=pylsl.proc_clocksync
        )
        try:
            description = described(inlet.info(timeout=2.0))
            inlet.open_stream(timeout=2.0)
        except RuntimeError as error:  # pylsl's own TimeoutError and LostError, which it hides
            raise PacketError(_GONE, f"it does not answer ({error})", _START) from None
        decoder = LslDecoder(
            description,
            number=len(self._inlets) + 1,
            side=options.side,
            axes=options.axes,
            unit=options.unit,
            heading_deg=options.heading_deg,
        )
        name = info.name()
        self.say(f"stream {name}", f"LSL stream {name}: {decoder.layout}, {decoder.side} hand")
        return _Inlet(inlet, decoder, info.name())

    def read(self, timeout_s: float) -> Sample | None:
        if not self._inlets:
            raise DeviceError("the lsl driver is not open")
        deadline_s = time.monotonic() + timeout_s
        if time.monotonic() >= self._look_s:
            self._take_new(_pylsl())
        while True:
            left_s = max(deadline_s - time.monotonic(), 0.0)
            # One stream is waited for; of several each in turn, for a moment.
            wait_s = left_s if len(self._inlets) == 1 else min(left_s, 0.004)
            for _ in self._inlets:
                self._next = (self._next + 1) % len(self._inlets)
                sample = self._pulled(self._inlets[self._next], wait_s)
                if sample is not None:
                    return sample
                wait_s = 0.0
            if time.monotonic() >= deadline_s:
                return None

    def _pulled(self, stream: _Inlet, timeout_s: float) -> Sample | None:
        try:
            values, time_s = stream.inlet.pull_sample(timeout=timeout_s)
        except Exception as error:  # pylsl's LostError derives from RuntimeError, others vary
            raise DeviceError(f"lost the LSL stream {stream.name}: {error}", _START) from None
        if values is None:
            return None
        return stream.decoder.push(values, time_s)

    def close(self) -> None:
        for stream in self._inlets:
            self._counts.update(stream.decoder.counts)
            with contextlib.suppress(Exception):
                stream.inlet.close_stream()
        self._inlets, self._known, self._resolver = [], set(), None
        self._gone.clear()

    def counts(self) -> dict[str, int]:
        """``refused_<reason>`` of streams, and what the decoders count."""
        total = Counter(self._counts)
        for stream in self._inlets:
            total.update(stream.decoder.counts)
        return dict(total)

    @classmethod
    def find(cls) -> list[Found]:
        """Streams of hands on the network, within half a second."""
        try:
            pylsl = _pylsl()
        except DeviceError:
            return []
        return [
            Found(
                cls.name,
                info.source_id() or info.name(),
                f"LSL stream {info.name()}, {info.channel_count()} channels, "
                f"{info.nominal_srate():g} Hz, on {info.hostname()}",
                {"stream": info.name()},
            )
            for info in pylsl.resolve_byprop("type", STREAM_TYPE, MAX_STREAMS, 0.5)
        ]


def _pylsl() -> Any:
    try:
        import pylsl
    except ImportError:
        raise DeviceError(
            "the lsl driver needs the package pylsl", 'pip install "hgr-stream[lsl]"', fatal=True
        ) from None
    except (RuntimeError, OSError) as error:  # the package without its library
        raise DeviceError(
            f"the package pylsl has no liblsl here: {str(error).partition(chr(10))[0]}",
            "install liblsl (conda install -c conda-forge liblsl, or its release for your system)",
            fatal=True,
        ) from None
    return pylsl
