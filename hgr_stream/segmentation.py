"""From hand frames to windows: hands are followed, resampled on a fixed clock, and cut.

``Segmenter.push(frame) -> windows`` is the whole stage, and stream time its only clock:

1. *Admission*: a frame that repeats, comes late or runs back in time is refused; so is a hand with
   impossible joints. Each refusal is counted by name; the rest of the frame goes on.
2. *Following*: a hand is known by the sensor's id; one that was lost and found under another id,
   on the same side and close by, is the same hand. An id that several hands of one frame had tells
   nothing: those are followed so too. A hand keeps its side though single frames call it the
   other one, also where ids go by sides. Each followed hand has a slot ("right", "left",
   "right.2", ...), and each unbroken stretch of it is a track. What is seen in single frames only,
   as trackers see hands in a face or a curtain, is no hand: the windows of a track are held until
   it was in eight frames running or in half of some more, and again while it is in few.
3. *Resampling*: ticks at ``origin + k * step``, common to all hands of a device so that a worker
   can batch them; joints interpolated linearly between the two samples around the tick. Causal: a
   tick is given when the first sample at or after it has come. Any input rate, jitter and gaps up
   to ``max_gap_s`` are bridged so; at a longer one the track ends.
4. *Windows*: ``size`` ticks every ``hop`` ticks.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from .config import Segmentation
from .faults import worth_telling
from .messages import Frame, Hand, Window, joint_bytes
from .skeleton import (
    MIDDLE_BASE,
    N_JOINTS,
    WRIST,
    Float32,
    Lack,
    Side,
    bone_lengths,
    chirality,
)

#: Farther than this from the sensor's origin no hand is; glitch frames at 15 m were seen.
MAX_COORDINATE_M: Final = 10.0
#: Wrist to middle base of any hand, child to giant, with a sensor's error; millimetres fail it.
PALM_RANGE_M: Final = (0.02, 0.25)
#: What joints that are not in metres may be in, and a unit's length in metres.
OTHER_UNITS: Final = {"centimetres": 0.01, "millimetres": 0.001}
#: A device's clock that steps back farther than this has been set anew (or a recording loops).
BACKWARDS_RESET_NS: Final = 250_000_000
#: After how many ticks of a track its chirality is held against its side.
CHIRALITY_TICKS: Final = 50
#: So near to where a hand of the frame before was, and is no more, is that hand, whatever its side.
SAME_PLACE_M: Final = 0.1
#: How many frames of the other side, beyond those of its own, it takes to change a track's side.
MAX_SIDE_VOTES: Final = 50
#: A hand's share of the frames that might have shown it is a running mean over so many of them.
SEEN_FRAMES: Final = 12
#: From this share on a hand is believed, and until its share is below that one: what shows up in
#: one frame of ten at random is not, what is lost in every second frame is.
BELIEVED_SHARE: Final = 0.5
DOUBTED_SHARE: Final = 0.2
SURE_SHARE: Final = 0.99  # as good as all
#: Publishers of one device that still speak though another was started were started just before.
MAX_RETIRED: Final = 64


class WindowSpec(NamedTuple):
    """What the model asks for: ticks a second, ticks in a window, ticks between windows."""

    rate_hz: float
    size: int
    hop: int

    @property
    def step_ns(self) -> int:
        """The fixed clock's period."""
        return round(1e9 / self.rate_hz)


@dataclass(slots=True)
class _Track:
    """One followed hand."""

    slot: str
    name: str
    sensor_id: int
    side: Side
    next_tick_ns: int
    time_ns: int  # of the last accepted sample
    joints: Float32  # of the last accepted sample
    ring: Float32  # the last `size` ticks, oldest first
    filled: int = 0
    fresh: int = 0  # ticks since the last window
    seq: int = 0
    last_tick_ns: int = 0
    ticks: int = 0
    chirality_sum: float = 0.0
    lacks: list[Lack] = field(default_factory=list)  # of the last accepted sample
    side_votes: int = 1  # frames that say its side, less those that say the other
    beside: frozenset[str] = frozenset()  # slots in the last frame that it was in, its own too
    seen: float = 0.0  # its share of the last frames
    believed: bool = False
    doubted_ns: int = 0  # since when it is not believed, and for how many frames
    doubted: int = 0
    held: list[Window] = field(default_factory=list)  # until it is believed
    told_ns: int | None = None  # time of the last window that went out


@dataclass(slots=True)
class _Device:
    """What is remembered of one device."""

    boot_id: str
    seq: int
    time_ns: int
    origin_ns: int
    lossless: bool
    tracks: dict[str, _Track] = field(default_factory=dict)
    # Boot ids that another one replaced; a looped recording has new ones without end.
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_RETIRED))
    followed_ns: int = 0  # time of the last frame whose hands were followed
    shared_ids: set[int] = field(default_factory=set)  # that several hands of one frame had
    started: int = 0  # tracks so far, for their names


class Segmenter:
    """The segmentation stage: plain state, pushed frames, giving windows.

    ``counts`` names everything refused, lost or mended; ``notices`` holds one-line messages
    for people about things that want their attention, one a count until the caller clears them.
    """

    def __init__(self, spec: WindowSpec, options: Segmentation | None = None) -> None:
        if spec.size < 1 or not 1 <= spec.hop <= spec.size or not 1 <= spec.rate_hz <= 1000:
            raise ValueError(f"windows cannot be cut as {spec}")
        self.spec = spec
        self.options = options or Segmentation()
        self.counts: Counter[str] = Counter()
        self.notices: dict[str, str] = {}
        self._devices: dict[str, _Device] = {}
        self._step_ns = spec.step_ns
        self._max_gap_ns = round(self.options.max_gap_s * 1e9)
        self._max_age_ns = round(self.options.max_age_s * 1e9)

    @property
    def hands(self) -> int:
        """How many hands are followed now."""
        return sum(len(d.tracks) for d in self._devices.values())

    def push(self, frame: Frame, now_ns: int | None = None) -> list[Window]:
        """Windows that this frame made due, ended tracks first, then in the order of ticks.

        ``now_ns``: host monotonic time; when given, a live frame sent longer than ``max_age_s``
        ago is refused as stale (a backlog must not be recognised as if it were now).
        """
        out: list[Window] = []
        device = self._admit(frame, now_ns, out)
        if device is None:
            return out
        if frame.end:
            self._end_all(frame.device, device, "end", out)
            del self._devices[frame.device]
            return out
        self.counts["frames"] += 1
        # First, so that no hand of this frame gets a slot, or an id's, that a silence has freed.
        for old in list(device.tracks.values()):
            if frame.time_ns - old.time_ns > self._max_gap_ns:
                self._end(frame.device, device, old, "lost", out)
            elif old.doubted > SEEN_FRAMES and frame.time_ns - old.doubted_ns > self._max_gap_ns:
                reason = "fleeting" if old.told_ns is None else "lost"
                self._end(frame.device, device, old, reason, out)
        followed = self._follow(frame, device, out)
        slots = frozenset(slot for slot, _, _ in followed)
        for slot, hand, joints in followed:
            track = device.tracks.get(slot)
            if track is None:
                track = device.tracks[slot] = self._start(frame, device, slot, hand, joints)
            else:
                track.sensor_id, track.lacks = hand.id, hand.lacks
                self._advance(frame, track, joints)
            track.beside = slots
            if track.seen < 1.0:
                self._believe(frame, track, True)
            if track.held:
                self._release(frame, track, out)
        for track in device.tracks.values() if len(device.tracks) > len(slots) else ():
            # A frame that holds only hands that this one was not beside is another tracker's.
            if track.slot not in slots and (not slots or not slots.isdisjoint(track.beside)):
                self._believe(frame, track, False)
        device.followed_ns = frame.time_ns
        return out

    def flush(self, device: str) -> list[Window]:
        """End the tracks of a live device that has gone silent; it is known to this stage still.

        The same windows come as when a later frame shows the gap, so that neither order of events
        changes the result."""
        state = self._devices.get(device)
        out: list[Window] = []
        if state is not None and not state.lossless:
            self._end_all(device, state, "lost", out)
        return out

    def finish(self) -> list[Window]:
        """End every track: there is no more input."""
        out: list[Window] = []
        for name, device in self._devices.items():
            self._end_all(name, device, "end", out)
        self._devices.clear()
        return out

    # -- admission ------------------------------------------------------------------------------

    def _admit(self, frame: Frame, now_ns: int | None, out: list[Window]) -> _Device | None:
        """The frame's device, or None when the frame is refused."""
        device = self._devices.get(frame.device)
        if device is None:
            device = _Device(
                frame.boot_id, frame.seq - 1, frame.time_ns - 1, frame.time_ns, frame.lossless
            )
            self._devices[frame.device] = device
        elif frame.boot_id != device.boot_id:
            if frame.boot_id in device.retired:
                self._complain("conflicting", f"two publishers call themselves {frame.device}")
                return None
            self._end_all(frame.device, device, "restart", out)
            self.counts["restarts"] += 1
            device.retired.append(device.boot_id)
            device.boot_id, device.seq = frame.boot_id, frame.seq - 1
            device.time_ns, device.origin_ns = frame.time_ns - 1, frame.time_ns
            device.lossless = frame.lossless
            device.shared_ids.clear()
        if frame.seq <= device.seq:
            self.counts["duplicates"] += 1
            return None
        self.counts["lost"] += frame.seq - device.seq - 1
        device.seq = frame.seq
        if frame.end:
            return device
        if now_ns is not None and not frame.lossless and now_ns - frame.sent_ns > self._max_age_ns:
            self.counts["stale"] += 1
            return None
        if frame.time_ns <= device.time_ns:
            if device.time_ns - frame.time_ns < BACKWARDS_RESET_NS:
                self.counts["time_backwards"] += 1
                return None
            self._complain("clock_resets", f"{frame.device}: time jumped back; hands start anew")
            self._end_all(frame.device, device, "clock", out)
            device.origin_ns = frame.time_ns
        device.time_ns = frame.time_ns
        return device

    def _joints(self, device: str, hand: Hand) -> Float32 | None:
        """The hand's joints, or None when they are impossible."""
        joints = hand.array()
        fault = impossible(joints)
        if fault is None:
            return joints
        count, text = fault
        self._complain(count, f"{device}: {text}")
        return None

    # -- following ------------------------------------------------------------------------------

    def _follow(
        self, frame: Frame, device: _Device, out: list[Window]
    ) -> list[tuple[str, Hand, Float32]]:
        """The frame's good hands with the slot that each belongs to."""
        good = [(h, j) for h in frame.hands if (j := self._joints(frame.device, h)) is not None]
        self._distrust_shared_ids(frame, device)
        by_id = {
            track.sensor_id: track
            for track in device.tracks.values()
            if track.sensor_id not in device.shared_ids
        }
        followed: list[tuple[str, Hand, Float32]] = []
        taken: set[str] = set()
        strangers: list[tuple[Hand, Float32]] = []
        for hand, joints in good:
            track = by_id.get(hand.id)
            if track is None:
                strangers.append((hand, joints))
            elif self._jumped(track.joints[MIDDLE_BASE].tolist(), joints[MIDDLE_BASE].tolist()):
                self.counts["hands_jumped"] += 1  # a glitch; if it stays there, its track ends
                taken.add(track.slot)
            elif not self._keeps_side(frame.device, track, hand):
                self._end(frame.device, device, track, "side", out)
                strangers.append((hand, joints))
            else:
                followed.append((track.slot, hand, joints))
                taken.add(track.slot)
        known = self._readopt(device, strangers, taken)
        for i, (hand, joints) in enumerate(strangers):
            slot = known.get(i)
            if slot and not self._keeps_side(frame.device, device.tracks[slot], hand):
                self._end(frame.device, device, device.tracks[slot], "side", out)
                slot = None
            if slot is None:
                limit = self.options.max_hands
                if len(device.tracks.keys() | taken) >= limit:
                    self._complain("hands_too_many", f"{frame.device}: more than {limit} hands")
                    continue
                slot = _free_slot(hand.side, device.tracks.keys() | taken)
            followed.append((slot, hand, joints))
            taken.add(slot)
        return followed

    def _jumped(self, was: list[float], now: list[float]) -> bool:
        """Whether a hand whose middle base was here is too far away to be the same."""
        return math.dist(was, now) > self.options.max_jump_m

    def _keeps_side(self, device: str, track: _Track, hand: Hand) -> bool:
        """Whether the track keeps its side with this sample: sensors take a hand for the other
        one in single frames, also in the first that they see of it."""
        if "unknown" in (track.side, hand.side):
            return True
        if track.side == hand.side:
            track.side_votes = min(track.side_votes + 1, MAX_SIDE_VOTES)
            return True
        track.side_votes -= 1
        self._complain(
            "hands_of_changing_side", f"{device}: one hand is called now left, now right"
        )
        return track.side_votes >= 0

    def _distrust_shared_ids(self, frame: Frame, device: _Device) -> None:
        """Ids that several hands have now tell nothing later either: not when one of those hands
        is out of view, which of them is still there."""
        ids = [hand.id for hand in frame.hands]
        if len(set(ids)) < len(ids):
            device.shared_ids.update(id_ for id_, n in Counter(ids).items() if n > 1)
            self._complain(
                "ids_repeated",
                f"{frame.device}: several hands of one frame have the same id; "
                "they are told apart by side and place",
            )

    def _readopt(
        self,
        device: _Device,
        strangers: list[tuple[Hand, Float32]],
        taken: set[str],
    ) -> dict[int, str]:
        """The slots of those hands, by their place in the list, that no id leads to and that were
        there just now: of all such hands and tracks the nearest belong together. Ids may go by
        sides, and sides be mistaken (``_keeps_side``)."""
        free = [track for track in device.tracks.values() if track.slot not in taken]
        there = [(t, t.joints[MIDDLE_BASE].tolist(), t.joints[WRIST].tolist()) for t in free]
        near: list[tuple[float, int, str]] = []
        for i, (hand, joints) in enumerate(strangers):
            middle, wrist = joints[MIDDLE_BASE].tolist(), joints[WRIST].tolist()
            for track, its_middle, its_wrist in there:
                if self._jumped(its_middle, middle):
                    continue
                away_m = math.dist(its_wrist, wrist)
                same_place = away_m < SAME_PLACE_M and track.time_ns == device.followed_ns
                if track.side == hand.side or same_place:
                    near.append((away_m, i, track.slot))
        near.sort()
        found: dict[int, str] = {}
        left = {slot for _, _, slot in near}
        for _, i, slot in near:
            if i not in found and slot in left:
                found[i] = slot
                left.remove(slot)
                if strangers[i][0].id not in device.shared_ids:
                    self.counts["ids_changed"] += 1
        return found

    # -- believing ------------------------------------------------------------------------------

    def _believe(self, frame: Frame, track: _Track, seen: bool) -> None:
        """Judge anew whether a track is a hand's, by a frame that showed it or did not."""
        track.seen += (seen - track.seen) / SEEN_FRAMES
        if track.seen > SURE_SHARE:
            track.seen = 1.0
        if track.seen >= BELIEVED_SHARE:
            track.believed, track.doubted = True, 0
        elif track.believed and track.seen < DOUBTED_SHARE:
            track.believed, track.doubted_ns = False, frame.time_ns
        if not track.believed:
            track.doubted += 1

    def _release(self, frame: Frame, track: _Track, out: list[Window]) -> None:
        """Give a track's windows, if it is believed: those that were held come with this frame."""
        if not track.believed:
            return
        for window in track.held:
            window.frame_seq, window.frame_time_ns = frame.seq, frame.time_ns
            window.frame_sent_ns = frame.sent_ns
        track.told_ns = track.held[-1].time_ns
        out += track.held
        track.held = []

    # -- resampling and windows -----------------------------------------------------------------

    def _start(
        self,
        frame: Frame,
        device: _Device,
        slot: str,
        hand: Hand,
        joints: Float32,
    ) -> _Track:
        device.started += 1
        ticks_before = -((device.origin_ns - frame.time_ns) // self._step_ns)
        track = _Track(
            slot=slot,
            name=f"{device.boot_id}.{device.started}",
            sensor_id=hand.id,
            side=hand.side,
            next_tick_ns=device.origin_ns + ticks_before * self._step_ns,
            time_ns=frame.time_ns,
            joints=joints,
            ring=np.zeros((self.spec.size, N_JOINTS, 3), dtype=np.float32),
            lacks=hand.lacks,
            doubted_ns=frame.time_ns,
        )
        self.counts["tracks"] += 1
        if track.next_tick_ns == frame.time_ns:
            self._tick(frame, track, joints)
        return track

    def _advance(self, frame: Frame, track: _Track, joints: Float32) -> None:
        """Take the next sample of a track and give the ticks between it and the one before."""
        while track.next_tick_ns <= frame.time_ns:
            fraction = (track.next_tick_ns - track.time_ns) / (frame.time_ns - track.time_ns)
            if fraction >= 1.0:
                self._tick(frame, track, joints)
            else:
                between = track.joints + np.float32(fraction) * (joints - track.joints)
                self._tick(frame, track, between)
        track.time_ns, track.joints = frame.time_ns, joints

    def _tick(self, frame: Frame, track: _Track, joints: Float32) -> None:
        size, hop = self.spec.size, self.spec.hop
        ring = track.ring
        if size > 1:
            ring[:-1] = ring[1:]
        ring[-1] = joints
        track.last_tick_ns = track.next_tick_ns
        track.next_tick_ns += self._step_ns
        track.filled = min(track.filled + 1, size)
        track.fresh += 1
        track.ticks += 1
        if track.ticks <= CHIRALITY_TICKS and "depth" not in track.lacks:
            self._check_chirality(frame.device, track, joints)
        if track.filled == size and track.fresh >= hop:
            track.held.append(
                Window(
                    device=frame.device,
                    hand=track.slot,
                    side=track.side,
                    track=track.name,
                    seq=track.seq,
                    time_ns=track.last_tick_ns,
                    step_ns=self._step_ns,
                    new=track.fresh,
                    joints=joint_bytes(ring),
                    frame_seq=frame.seq,
                    frame_time_ns=frame.time_ns,
                    frame_sent_ns=frame.sent_ns,
                    lossless=frame.lossless,
                    lacks=track.lacks,
                )
            )
            track.seq += 1
            track.fresh = 0

    def _check_chirality(self, device: str, track: _Track, joints: Float32) -> None:
        """Tell once when a track looks like the other hand: a flipped axis ruins recognition."""
        track.chirality_sum += float(np.sign(chirality(joints)))
        if track.ticks == CHIRALITY_TICKS and track.side != "unknown":
            right = track.chirality_sum > 0.6 * CHIRALITY_TICKS
            left = track.chirality_sum < -0.6 * CHIRALITY_TICKS
            if (track.side == "left" and right) or (track.side == "right" and left):
                self._complain(
                    "chirality",
                    f"{device}: a {track.side} hand has the shape of the other one; "
                    "is an axis flipped, or the image mirrored?",
                )

    # -- endings --------------------------------------------------------------------------------

    def _end(
        self, name: str, device: _Device, track: _Track, reason: str, out: list[Window]
    ) -> None:
        """Close a track. Its stamps depend on its own samples alone, not on who found it gone. Of
        one that was never believed, and of its windows, nobody has heard, and nobody will."""
        del device.tracks[track.slot]
        self.counts[f"tracks_ended_{reason}"] += 1
        if track.held:
            self.counts["windows_doubted"] += len(track.held)
        if track.told_ns is None and not track.believed:
            return
        seq, time_ns = track.seq, track.last_tick_ns
        if track.held and track.told_ns is not None:
            seq, time_ns = track.held[0].seq, track.told_ns
        known_ns = self._max_gap_ns if reason == "lost" else 0
        out.append(
            Window(
                device=name,
                hand=track.slot,
                side=track.side,
                track=track.name,
                seq=seq,
                time_ns=time_ns,
                step_ns=self._step_ns,
                new=0,
                joints=b"",
                frame_seq=device.seq,
                frame_time_ns=track.time_ns + known_ns,
                ended=reason,
                lossless=device.lossless,
            )
        )

    def _end_all(self, name: str, device: _Device, reason: str, out: list[Window]) -> None:
        for track in list(device.tracks.values()):
            self._end(name, device, track, reason, out)

    def _complain(self, count: str, text: str) -> None:
        """Count a fault; tell of it when ``worth_telling`` says so."""
        self.counts[count] += 1
        n = self.counts[count]
        if worth_telling(n):
            self.notices.setdefault(count, text if n == 1 else f"{text} ({n} times so far)")


def impossible(joints: Float32) -> tuple[str, str] | None:
    """What no hand's joints, (22, 3) metres, can be: the name by which that is counted, and a text;
    None for a hand's."""
    # max() hands NaN on, and no comparison with NaN is true: one pass finds all three faults.
    near = np.abs(joints).max() < MAX_COORDINATE_M
    if not near and not np.isfinite(joints).all():
        return "hands_not_finite", "a hand with joints that are not numbers"
    length = math.dist(joints[WRIST].tolist(), joints[MIDDLE_BASE].tolist())
    if near and PALM_RANGE_M[0] < length < PALM_RANGE_M[1]:
        return None
    unit = _other_unit(joints)
    if near or unit:
        return "hands_absurd", (
            f"a hand of {length:.3g} m from wrist to middle base; "
            f"are its joints in {unit or 'metres'}?"
        )
    return "hands_absurd", f"a hand with joints over {MAX_COORDINATE_M:g} m away"


def _other_unit(joints: Float32) -> str:
    """The unit, not metres, in which joints would be those of a hand; "" when there is none."""
    with np.errstate(over="ignore", invalid="ignore"):  # they are absurd: any number may come
        bones = bone_lengths(joints)
        typical, longest = float(np.median(bones)), float(bones.max())
    for unit, metres in OTHER_UNITS.items():
        if PALM_RANGE_M[0] / 2 < typical * metres and longest * metres < PALM_RANGE_M[1]:
            return unit
    return ""


def _free_slot(side: Side, used: set[str]) -> str:
    if side not in used:
        return side
    n = 2
    while f"{side}.{n}" in used:
        n += 1
    return f"{side}.{n}"
