"""The synthetic hand as a device: performances computed ahead, played on a device's own clock.

Everything is computed in ``open``: a loop of joints for each performance, with sensor noise and
jittered stamps. ``read`` only waits for the next sample's deadline and hands it out, so that many
hands at a high rate cost next to nothing. Deadlines are absolute: a reader that comes late gets
the samples that are due at once, in order, and the rate holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hgr_stream.skeleton import Float32, Side
from hgr_stream.stream.clock import monotonic_ns

from ..base import DeviceError, Driver, EndOfStream, Found, HandSample, Options, Performed, Sample
from .gestures import GESTURES
from .performance import Performance, sensor_noise

#: Performances that are all different; more hands than that share them, at another place and, in
#: an endless stream, at another time (a minute of one costs 0.1 s to compute and 2 MB).
MAX_DISTINCT: Final = 8
#: Different rounds of the script in one loop, when there are few hands.
MAX_ROUNDS: Final = 3
#: Between hands side by side: wider than a hand can move, so that they are not confused.
SPACING_M: Final = 0.6
#: For how long a hand is lost, seconds.
LOST_S: Final = (0.15, 0.8)
#: A left hand that moves to the left makes the mirror image of a right hand's movement to the
#: right.
MIRROR_LABEL: Final = {"LEFT": "RIGHT", "RIGHT": "LEFT"}


class SyntheticOptions(Options, kw_only=True):
    """The synthetic hand's options."""

    fps: Annotated[float, Meta(ge=15, le=240)] = 60.0
    hands: Annotated[int, Meta(ge=1, le=64)] = 1
    side: Literal["right", "left", "both"] = "right"  #: both: every second hand is a left one
    gestures: list[str] = []  #: labels to perform; empty: all of them
    repeat: Annotated[int, Meta(ge=0)] = 0  #: times that the script is performed; 0: endlessly
    shuffle: bool = True  #: a new order, drawn from the seed, at each repetition
    pause_s: Annotated[float, Meta(ge=0.5, le=600)] = 2.0  #: rest between two gestures
    variation: Annotated[float, Meta(ge=0, le=1.5)] = 1.0  #: how much repetitions differ
    seed: Annotated[int, Meta(ge=0)] = 0
    noise_mm: Annotated[float, Meta(ge=0, le=20)] = 1.0  #: of a joint's position, r.m.s.
    jitter_ms: Annotated[float, Meta(ge=0, le=50)] = 0.5  #: of a sample's time, r.m.s.
    #: Probability, in each second, that a hand is lost for 0.15-0.8 s.
    dropout: Annotated[float, Meta(ge=0, le=1)] = 0.0
    hand_present: bool = True  #: false: the sensor runs and sees nothing, endlessly


@dataclass(frozen=True)
class _Loop:
    """All that ``read`` needs, for one pass; index k is the sample's number in it."""

    duration_ns: int
    time_ns: list[int]  # of each sample
    joints: list[Float32]  # (n, 22, 3) for each distinct performance
    present: NDArray[np.bool_]  # (n, hands)
    #: Gestures that are over when sample k is taken.
    done: dict[int, list[tuple[int, str, int, int]]]  # k -> (hand, label, onset_ns, offset_ns)


class SyntheticDriver(Driver[SyntheticOptions]):
    """One to 64 hands that perform gestures, and say which (``Sample.performed``).

    A gesture is told with the first sample taken after its end, whether or not the hand was seen
    then. The stream ends, after a closing rest, when ``repeat`` is done. ``clock`` and ``sleep``
    are the host's, and a test's own in tests.
    """

    name = "synthetic"
    about: ClassVar[str] = "the built-in synthetic hand"
    Options = SyntheticOptions

    def __init__(
        self,
        options: SyntheticOptions,
        *,
        clock: Callable[[], int] = monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(options)
        self._clock, self._sleep = clock, sleep
        self._loop: _Loop | None = None
        self._opened_ns = 0
        self._next = 0
        self._lost = 0
        o = options
        count = o.hands if o.hand_present else 0
        self._sides: list[Side] = [
            "left" if o.side == "left" or (o.side == "both" and h % 2) else "right"
            for h in range(count)
        ]
        self._ids = list(range(1, count + 1))
        self._seen = [True] * count
        columns = max(1, round(count**0.5))
        grid = np.array([(h % columns, 0.0, -(h // columns)) for h in range(count)])
        if count:
            grid[:, 0] -= (columns - 1) / 2
        self._places = (SPACING_M * grid.reshape(-1, 1, 3)).astype(np.float32)
        self._mirror = np.array(
            [[-1.0 if side == "left" else 1.0, 1.0, 1.0] for side in self._sides], dtype=np.float32
        ).reshape(-1, 1, 3)

    # ------------------------------------------------------------------------------ computing
    def _script(self) -> list[str]:
        labels = self.options.gestures or list(GESTURES)
        for label in labels:
            if label not in GESTURES:
                raise DeviceError(
                    f"unknown gesture {label!r} in `gestures`",
                    f"choose from {', '.join(GESTURES)}",
                    fatal=True,
                )
        return labels

    def _rounds(self, distinct: int) -> int:
        """Rounds of the script in one loop: several where cheap, always a divisor of repeat."""
        most = max(1, min(MAX_ROUNDS, MAX_DISTINCT // distinct))
        if self.options.repeat == 0:
            return most
        return max(r for r in range(1, most + 1) if self.options.repeat % r == 0)

    def _compose(self) -> _Loop:
        o, script, hands = self.options, self._script(), len(self._sides)
        distinct = min(hands, MAX_DISTINCT)
        plays: list[Performance] = []
        for p in range(distinct):
            labels: list[str] = []
            for r in range(self._rounds(distinct)):
                order = np.arange(len(script))
                if o.shuffle:
                    np.random.default_rng([o.seed, p, r]).shuffle(order)
                labels += [script[i] for i in order]
            seed = int(np.random.SeedSequence([o.seed, p]).generate_state(1)[0])
            mirror = o.side == "left" or (o.side == "both" and p % 2 == 1)
            if mirror:
                labels = [MIRROR_LABEL.get(label, label) for label in labels]
            plays.append(Performance(labels, seed, pause_s=o.pause_s, variation=o.variation))
        seconds = max((play.duration_s for play in plays), default=1.0)
        n = int(np.ceil(seconds * o.fps))
        seconds = n / o.fps
        rng = np.random.default_rng([o.seed, 1_000_003])
        jitter = np.clip(rng.normal(0.0, o.jitter_ms * 1e-3, n), -0.45 / o.fps, 0.45 / o.fps)
        jitter[0] = abs(jitter[0])  # the device's clock starts at 0
        time_s = np.arange(n) / o.fps + jitter
        joints = []
        for p, play in enumerate(plays):
            play.extend(seconds)
            noise = sensor_noise(n, o.fps, o.noise_mm * 1e-3, np.random.default_rng([o.seed, p, 7]))
            joints.append(play.joints(time_s) + noise)
        time_ns = np.round(time_s * 1e9).astype(np.int64)
        done: dict[int, list[tuple[int, str, int, int]]] = {}
        for hand, side in enumerate(self._sides):
            late_s = self._shift(hand, n) / o.fps
            for act in plays[hand % distinct].acts:
                offset_s = (act.offset_s - late_s) % seconds
                offset = round(offset_s * 1e9)
                onset = round((offset_s - (act.offset_s - act.onset_s)) * 1e9)
                k = int(np.searchsorted(time_ns, offset))
                label = MIRROR_LABEL.get(act.label, act.label) if side == "left" else act.label
                # Past the last sample: told with the first of the next pass.
                entry = (hand, label, onset, offset)
                done.setdefault(k, []).append(entry)
        return _Loop(round(seconds * 1e9), time_ns.tolist(), joints, self._presence(n, hands), done)

    def _shift(self, hand: int, n: int) -> int:
        """Samples by which a hand that shares a performance is ahead of the first that plays it.

        None when the script ends: all begin and end at rest."""
        if self.options.repeat:
            return 0
        sharers = -(-len(self._sides) // MAX_DISTINCT)
        return (hand // MAX_DISTINCT) * n // sharers

    def _presence(self, n: int, hands: int) -> NDArray[np.bool_]:
        present = np.ones((n, hands), dtype=bool)
        if self.options.dropout:
            rng = np.random.default_rng([self.options.seed, 2_000_003])
            fps = self.options.fps
            for k, hand in np.argwhere(rng.random((n, hands)) < self.options.dropout / fps):
                present[k : k + max(1, round(rng.uniform(*LOST_S) * fps)), hand] = False
        return present

    def check(self) -> None:
        """DeviceError for an unknown label."""
        self._script()

    # -------------------------------------------------------------------------------- playing
    def open(self) -> None:
        """Compute the loop; the device's clock starts at 0. DeviceError for an unknown label."""
        if self._loop is None:
            self._loop = self._compose()
        self._next = 0
        self._opened_ns = self._clock()

    def read(self, timeout_s: float) -> Sample | None:
        """The next sample, at its time; EndOfStream after ``repeat`` times the script."""
        loop = self._loop
        if loop is None:
            raise DeviceError("the synthetic hand is not open", fatal=True)
        n = len(loop.time_ns)
        turn, k = divmod(self._next, n)
        if self._ended(turn):
            raise EndOfStream("the script is performed")
        device_ns = turn * loop.duration_ns + loop.time_ns[k]
        wait_s = (self._opened_ns + device_ns - self._clock()) * 1e-9
        if wait_s > timeout_s:
            self._sleep(timeout_s)
            return None
        if wait_s > 0.0:
            self._sleep(wait_s)
        sample = Sample(device_ns, self._hands(loop, k), self._next, self._performed(loop, turn, k))
        self._next += 1
        return sample

    def _ended(self, turn: int) -> bool:
        if not self.options.repeat or not self._sides:
            return False
        rounds = self._rounds(min(len(self._sides), MAX_DISTINCT))
        return turn * rounds >= self.options.repeat

    def _hands(self, loop: _Loop, k: int) -> list[HandSample]:
        if not self._sides:
            return []
        n, distinct = len(loop.time_ns), len(loop.joints)
        count = len(self._sides)
        joints = np.stack(
            [loop.joints[h % distinct][(k + self._shift(h, n)) % n] for h in range(count)]
        )
        joints = joints * self._mirror + self._places
        if not self.options.dropout:
            return [
                HandSample(i, s, j) for i, s, j in zip(self._ids, self._sides, joints, strict=True)
            ]
        hands = []
        for h, here in enumerate(loop.present[k].tolist()):
            if not here and self._seen[h]:
                self._lost += 1
            elif here and not self._seen[h]:
                self._ids[h] += count  # a sensor gives a hand that it finds again a new id
            self._seen[h] = here
            if here:
                hands.append(HandSample(self._ids[h], self._sides[h], joints[h]))
        return hands

    def _performed(self, loop: _Loop, turn: int, k: int) -> Sequence[Performed]:
        due = [(turn, entry) for entry in loop.done.get(k, ())]
        if k == 0 and turn:
            due += [(turn - 1, entry) for entry in loop.done.get(len(loop.time_ns), ())]
        if not due:
            return ()
        return [
            Performed(self._ids[h], label, t * loop.duration_ns + on, t * loop.duration_ns + off)
            for t, (h, label, on, off) in due
            if t * loop.duration_ns + on >= 0  # not one that began before the stream did
        ]

    def close(self) -> None:
        """Forget the place in the script; what was computed is kept for the next ``open``."""
        self._opened_ns = 0
        self._next = 0

    def counts(self) -> dict[str, int]:
        """``lost_hands``: how often a hand was dropped on request."""
        return {"lost_hands": self._lost} if self.options.dropout else {}

    @classmethod
    def find(cls) -> list[Found]:
        """Always there."""
        return [Found("synthetic", "synthetic", "built-in synthetic hand, no device needed", {})]
