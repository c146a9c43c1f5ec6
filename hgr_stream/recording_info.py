"""What ``hgr info`` tells of a recording: topics, devices, rates, gaps, losses, hands."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from .messages import Event, Frame, Truth, Window
from .recording import Reader
from .segmentation import MAX_COORDINATE_M
from .skeleton import BONES, JOINTS, Float32, bone_lengths, chirality
from .stream import topics

#: A pause between frames counts as a gap from this many median periods on.
GAP_PERIODS: Final = 3
#: Of more hands than this (nine minutes of one at 120 frames a second) every second one's bones
#: are kept, of twice as many every fourth's ...: a night's recording fits into memory.
MOST_BONES: Final = 1 << 16


class TopicInfo(msgspec.Struct):
    """One topic of a recording."""

    topic: str
    messages: int
    schema: str


class HandInfo(msgspec.Struct):
    """One side's hands of one device. Bones are named by the joint that they end in."""

    side: str
    ids: list[int]
    frames: int
    share: float  #: of the device's frames
    bad_joints: int  #: hands with a joint that is not finite, or absurdly far
    bone_median_mm: dict[str, float]  #: of many hands by a sample, see ``MOST_BONES``
    bone_cv: dict[str, float]  #: standard deviation / mean
    right_handed: float | None = None  #: share of chirality; None when no depth tells it
    lacks: dict[str, int] = {}  #: what the source could not see -> of how many hands


class DeviceInfo(msgspec.Struct):
    """The frames of one device; times are stream time."""

    device: str
    frames: int
    duration_s: float
    rate_hz: float  #: 1 / the median period; 0 for fewer than two frames
    period_p99_ms: float
    gaps: int
    longest_gap_s: float
    boots: int  #: how many times its publisher was started
    lost: int  #: sequence numbers that are missing
    out_of_order: int  #: sequence numbers that came again or ran back
    time_backwards: int
    time_standing: int
    frames_without_hand: int
    bad_joints: int
    slots: dict[str, int]  #: windows by the hand's slot
    hands: list[HandInfo]


class Info(msgspec.Struct):
    """What ``hgr info`` tells."""

    file: str
    bytes: int
    indexed: bool
    duration_s: float  #: from the first message's log time to the last's
    messages: int
    frames: int
    topics: list[TopicInfo]
    devices: list[DeviceInfo]
    events: dict[str, dict[str, int]]  #: label -> kind -> how many
    truths: dict[str, int]
    bad_messages: dict[str, int]
    notes: list[str]
    metadata: dict[str, str]


class _Hands:
    """Collects one side's hands of one device."""

    def __init__(self) -> None:
        self.ids: dict[int, None] = {}
        self.frames = 0
        self.bad = 0
        self.bones: list[Float32] = []
        self._whole = 0  # hands with good joints
        self._stride = 1  # of them, from one whose bones are kept to the next
        self.lacks: Counter[str] = Counter()
        self.chirality = [0, 0]  # how many were of a left and of a right hand

    def add_bones(self, joints: Float32) -> None:
        """Joints (22, 3) that are a hand's."""
        if self._whole % self._stride == 0:
            self.bones.append(bone_lengths(joints))
            if len(self.bones) > MOST_BONES:
                self.bones, self._stride = self.bones[::2], 2 * self._stride
        self._whole += 1

    def info(self, side: str, frames: int) -> HandInfo:
        lengths = np.array(self.bones, dtype=np.float64).reshape(-1, len(BONES))
        median, cv = {}, {}
        if len(lengths):
            mean = lengths.mean(axis=0)
            spread = np.divide(lengths.std(axis=0), mean, out=np.zeros_like(mean), where=mean > 0)
            for i, (_, child) in enumerate(BONES):
                median[JOINTS[child]] = round(float(np.median(lengths[:, i])) * 1e3, 2)
                cv[JOINTS[child]] = round(float(spread[i]), 4)
        told = sum(self.chirality)
        return HandInfo(
            side=side,
            ids=list(self.ids),
            frames=self.frames,
            share=self.frames / frames,
            bad_joints=self.bad,
            bone_median_mm=median,
            bone_cv=cv,
            right_handed=round(self.chirality[1] / told, 4) if told else None,
            lacks=dict(self.lacks),
        )


class _Device:
    """Collects one device's frames."""

    def __init__(self) -> None:
        self.times = array("q")  # 8 bytes a frame
        self.next_seq: dict[str, int] = {}
        self.lost = self.out_of_order = self.empty = 0
        self.hands: defaultdict[str, _Hands] = defaultdict(_Hands)
        self.slots: Counter[str] = Counter()

    def add(self, frame: Frame) -> None:
        expected = self.next_seq.get(frame.boot_id, frame.seq)
        if frame.seq < expected:
            self.out_of_order += 1
        else:
            self.lost += frame.seq - expected
            self.next_seq[frame.boot_id] = frame.seq + 1
        if frame.end:  # bears no time and no hands
            return
        self.times.append(min(frame.time_ns, 2**63 - 1))
        self.empty += not frame.hands
        for side in {hand.side for hand in frame.hands}:
            self.hands[side].frames += 1
        for hand in frame.hands:
            seen = self.hands[hand.side]
            seen.ids[hand.id] = None
            seen.lacks.update(hand.lacks)
            joints = hand.array()
            # A comparison with NaN is false, so this refuses it too.
            if not np.abs(joints).max() < MAX_COORDINATE_M:
                seen.bad += 1
            else:
                seen.add_bones(joints)
                # A hand without depth is flat, and rounding alone gives it a chirality.
                if "depth" not in hand.lacks and (product := float(chirality(joints))):
                    seen.chirality[product > 0] += 1

    def info(self, device: str) -> DeviceInfo:
        n = len(self.times)
        bound = 2**61  # the difference of two stamps must fit, however absurd they are
        times: NDArray[np.int64] = np.array(self.times, dtype=np.int64)
        stamps = times.clip(-bound, bound)
        steps = stamps[1:] - stamps[:-1]
        forward = steps[steps > 0]
        period = float(np.median(forward)) if forward.size else 0.0
        gaps = forward[forward.astype(np.float64) > GAP_PERIODS * period]
        hands = [self.hands[side].info(side, n) for side in sorted(self.hands)]
        return DeviceInfo(
            device=device,
            frames=n,
            duration_s=(int(times.max()) - int(times.min())) / 1e9 if n else 0.0,
            rate_hz=round(1e9 / period, 3) if period else 0.0,
            period_p99_ms=round(float(np.percentile(forward, 99)) / 1e6, 3) if period else 0.0,
            gaps=int(gaps.size),
            longest_gap_s=float(gaps.max()) / 1e9 if gaps.size else 0.0,
            boots=len(self.next_seq),
            lost=self.lost,
            out_of_order=self.out_of_order,
            time_backwards=int((steps < 0).sum()),
            time_standing=int((steps == 0).sum()),
            frames_without_hand=self.empty,
            bad_joints=sum(h.bad_joints for h in hands),
            slots=dict(self.slots),
            hands=hands,
        )


def info(path: Path) -> Info:
    """Read a whole recording and tell what is in it; raises RecordingError if it is none."""
    reader = Reader(path)
    counts: Counter[tuple[str, str]] = Counter()
    devices: defaultdict[str, _Device] = defaultdict(_Device)
    events: defaultdict[str, Counter[str]] = defaultdict(Counter)
    truths: Counter[str] = Counter()
    first = last = None
    for item in reader.messages():
        counts[item.topic, item.schema] += 1
        first = item.log_time_ns if first is None else first
        last = item.log_time_ns
        kind = topics.message_type(item.topic)
        if kind is Frame and (frame := reader.decode(Frame, item)):
            devices[frame.device].add(frame)
        elif kind is Window and (window := reader.decode(Window, item)):
            devices[window.device].slots[window.hand] += 1
        elif kind is Event and (event := reader.decode(Event, item)):
            events[event.label][event.kind] += 1
        elif kind is Truth and (truth := reader.decode(Truth, item)):
            truths[truth.label] += 1
    return Info(
        file=str(path),
        bytes=Path(path).stat().st_size,
        indexed=reader.indexed,
        duration_s=(last - first) / 1e9 if first is not None and last is not None else 0.0,
        messages=sum(counts.values()),
        frames=sum(len(d.times) for d in devices.values()),
        topics=[TopicInfo(topic, n, schema) for (topic, schema), n in sorted(counts.items())],
        devices=[device.info(name) for name, device in sorted(devices.items())],
        events={label: dict(kinds) for label, kinds in sorted(events.items())},
        truths=dict(sorted(truths.items())),
        bad_messages=dict(reader.bad),
        notes=list(reader.notes),
        metadata=reader.metadata,
    )
