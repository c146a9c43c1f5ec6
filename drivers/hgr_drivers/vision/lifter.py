"""A hand in a colour image, and depth -> the canonical hand in metres. Pure.

MediaPipe's world landmarks have the hand's shape, but an average hand's size, and know nothing of
where it is. A depth image knows where the skin is, but has holes, flying pixels at edges, and where
fingers hide each other it sees the wrong one. So the shape is laid, as a whole, through what is
measured: seven unknowns (size, turn, place) are fitted by robust least squares to

* the pixel rays of all 21 points, which the shape's points must lie on;
* the depth at six anchors (wrist, base of the thumb, four knuckles: they move as one rigid piece
  and are seldom hidden), each the median of the non-zero depths about its pixel: that is of the
  skin before it, or of a finger, which the shape tells;
* what is known before: hands are about as large as the average one, or just as large as this one
  was found to be before; and MediaPipe's turn is about right, along the ray to the hand.

A finger's depth is then the fitted shape's, and its knuckle's measured one; its place is on its own
pixel ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from hgr_stream.skeleton import MEDIAPIPE_21, Float32, camera_to_canonical, from_layout

from .intrinsics import Float64, Intrinsics
from .landmarks import DetectedHand

__all__ = ["ANCHORS", "Intrinsics", "Lifted", "Lifter", "lift", "lift_anchored", "sample"]

Depth = NDArray[np.float32] | NDArray[np.uint16]

#: MediaPipe's wrist, base of the thumb, and knuckles.
ANCHORS: Final = (0, 1, 5, 9, 13, 17)
#: How many of the 21 points each anchor takes along: itself, and its finger.
_FOLLOWERS: Final = (1, 4, 4, 4, 4, 4)
#: Half a hand's thickness at MediaPipe's 21 points, in metres: a joint lies so deep under the
#: skin. Estimates; 4 mm more or less move a hand by as much.
FLESH_M: Final = np.array(
    [
        *(0.018, 0.013, 0.011, 0.010, 0.009),  # wrist and thumb
        *(0.012, 0.009, 0.008, 0.007),
        *(0.013, 0.009, 0.008, 0.007),
        *(0.012, 0.009, 0.008, 0.007),
        *(0.011, 0.008, 0.007, 0.006),
    ]
)
#: (from, to, share) of points along the bones, and across the palm: where the flesh is.
_ALONG: Final = np.array(
    [
        (a, b, share)
        for a, b in (
            *((0, 1), (1, 2), (2, 3), (3, 4), (0, 5), (0, 9), (0, 13), (0, 17)),
            *((knuckle + i, knuckle + i + 1) for knuckle in (5, 9, 13, 17) for i in range(3)),
            *((5, 9), (9, 13), (13, 17), (2, 5)),
        )
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
)
_FROM: Final = _ALONG[:, 0].astype(int)
_TO: Final = _ALONG[:, 1].astype(int)
_SHARE: Final = _ALONG[:, 2]
_RADIUS_M: Final = FLESH_M[_FROM] + _SHARE * (FLESH_M[_TO] - FLESH_M[_FROM])
#: The window of an anchor's median: 7 x 7 pixels.
RADIUS_PX: Final = 3

# Standard deviations of what is fitted to.
_RAY_PALM_M: Final = 0.004
_RAY_FINGER_M: Final = 0.012
_DEPTH_M: Final = 0.004
_DEPTH_PER_M2: Final = 0.006  # a stereo camera's error grows with the distance squared
_SHAPE_M: Final = 0.005  # of MediaPipe's shape at an anchor
_TURN_RAD: Final = 0.2
_SIZE: Final = 0.15  # of people's hands
_SIZE_KNOWN: Final = 0.02

#: Depths that would make the hand this many times nearer or farther than its size in the image
#: says are something else's.
_NEAREST, _FARTHEST = 0.5, 1.9
#: Anchors whose depths agree on the hand's place: within this.
_AGREE_M: Final = 0.035
#: A depth so far behind that place is of the hand all the same, and the others hide it; one that is
#: farther is of what is behind the hand.
_THROUGH_M: Final = 0.1
#: Tukey's biweight: what is so many deviations off has no say.
_TUKEY: Final = 4.0
_ROUNDS: Final = 6


@dataclass(frozen=True, slots=True)
class Lifted:
    """A hand in metres.

    ``joints`` (22, 3) canonical. ``confidence`` is the landmarks', lowered as anchors are missing.
    ``lacks`` is ("distance",) when it is only estimated from an average hand's size.
    ``anchors``: how many of the six had a depth that fits. ``size``: times the average hand.
    """

    joints: Float32
    confidence: float
    lacks: tuple[Literal["distance"], ...]
    anchors: int
    size: float


def lift(
    hand: DetectedHand,
    depth: Depth | None,
    camera: Intrinsics,
    *,
    unit_m: float = 1.0,
    size: float | None = None,
) -> Lifted:
    """Put a hand into metres.

    ``depth`` (H, W) is aligned to the colour image, in units of ``unit_m``, 0 where unknown; None
    without any. ``size`` is the hand's, when it was found before (see ``Lifter``)."""
    if depth is None:
        return lift_anchored(hand, None, camera, size=size)
    if depth.shape != (camera.height, camera.width):
        raise ValueError(
            f"depth of {depth.shape} is not aligned to a {camera.width} x {camera.height} camera"
        )
    depths_m = sample(depth, hand.image_points[list(ANCHORS)]) * unit_m
    return lift_anchored(hand, depths_m, camera, size=size)


def sample(depth: Depth, points: NDArray[np.floating]) -> Float64:
    """The median of the non-zero depths about each point, NaN where there are none.

    ``depth`` (H, W), ``points`` (n, 2) pixels -> (n,) in the depth's unit."""
    out = np.full(len(points), np.nan)
    height, width = depth.shape
    for i, (x, y) in enumerate(np.rint(points).tolist()):
        # Also what is not finite ends here.
        if not (-RADIUS_PX <= x < width + RADIUS_PX and -RADIUS_PX <= y < height + RADIUS_PX):
            continue
        column, row = int(x), int(y)
        window = depth[
            max(row - RADIUS_PX, 0) : row + RADIUS_PX + 1,
            max(column - RADIUS_PX, 0) : column + RADIUS_PX + 1,
        ]
        known = window[window > 0]
        if len(known):
            known.sort()
            out[i] = known[len(known) // 2]
    return out


def lift_anchored(
    hand: DetectedHand,
    depths_m: Float64 | None,
    camera: Intrinsics,
    *,
    size: float | None = None,
) -> Lifted:
    """``lift`` with the depths at the six anchors already known: (6,), NaN where unknown."""
    rays = camera.rays(hand.image_points)
    shape, fitted = _Shape.of(hand, rays, size), 0
    trust = below_m = np.zeros(len(ANCHORS))
    if depths_m is not None:
        below_m = shape.below_surface()
        used = shape.consensus(depths_m + below_m)
        if used.any():
            trust = shape.fit(depths_m + below_m, below_m - FLESH_M[list(ANCHORS)], used)
            fitted = int((trust > 0).sum())
        if not fitted:  # back to where its size puts it
            shape = _Shape.of(hand, rays, size)
    z = shape.points()[:, 2:]
    if (
        depths_m is not None and fitted
    ):  # what is left is the shape's own error there: a finger follows its knuckle
        left = trust * np.nan_to_num(depths_m + below_m - z[list(ANCHORS), 0])
        z += np.repeat(left, _FOLLOWERS)[:, None]
    joints = camera_to_canonical(from_layout(np.hstack([rays * z, z]), MEDIAPIPE_21))
    confidence = hand.score
    if depths_m is not None:
        confidence *= 0.5 + 0.5 * fitted / len(ANCHORS)
    return Lifted(
        joints,
        confidence,
        () if fitted or (size is not None and depths_m is not None) else ("distance",),
        fitted,
        float(np.exp(shape.log_size)),
    )


class _Shape:
    """The world landmarks under a similarity: P = exp(log_size) * turn @ world + place."""

    def __init__(self, world: Float64, rays: Float64, turn: Float64, size: float | None) -> None:
        self.world = world
        self.rays = rays
        self.turn = turn
        self.turned = np.zeros(3)  # from MediaPipe's turn, a rotation vector
        self.known_log_size = float(np.log(size)) if size is not None else 0.0
        self.size_deviation = _SIZE if size is None else _SIZE_KNOWN
        self.log_size = self.known_log_size
        self.place = np.zeros(3)

    @classmethod
    def of(cls, hand: DetectedHand, rays: Float64, size: float | None) -> _Shape:
        """Where the hand's size in the image puts it."""
        # MediaPipe looks at a crop, as if the camera were turned towards it.
        middle = np.append(rays.mean(axis=0), 1.0)
        self = cls(hand.world.astype(np.float64), rays, _from_axis(middle), size)
        # By how widely both spread, not by a regression: that would shorten one or the other.
        flat = np.exp(self.log_size) * (self.world @ self.turn.T)
        seen = float(np.linalg.norm(rays - rays.mean(axis=0)))
        z = float(np.linalg.norm(flat[:, :2] - flat[:, :2].mean(axis=0))) / max(seen, 1e-9)
        z = min(max(z, 0.05), 20.0)
        self.place = middle * z - flat.mean(axis=0)
        return self

    def points(self) -> Float64:
        """(21, 3) in camera axes."""
        moved: Float64 = np.exp(self.log_size) * (self.world @ self.turn.T) + self.place
        return moved

    def below_surface(self) -> Float64:
        """How far each anchor lies behind what a camera sees of the hand there, in metres (6,): its
        own flesh, or a finger before it."""
        points = np.exp(self.log_size) * (self.world @ self.turn.T)
        start, end = points[_FROM], points[_TO]
        flesh = start + _SHARE[:, None] * (end - start)
        anchors = points[list(ANCHORS)]
        aside = ((flesh[None, :, :2] - anchors[:, None, :2]) ** 2).sum(axis=2)
        inside = _RADIUS_M**2 - aside
        front = np.where(inside > 0, flesh[:, 2] - np.sqrt(np.maximum(inside, 0)), np.inf)
        below: Float64 = anchors[:, 2] - front.min(axis=1)
        return below

    def consensus(self, depths_m: Float64) -> NDArray[np.bool_]:
        """The anchors, and only those, whose depths put the hand at one place; moves it there."""
        guess = self.points()[list(ANCHORS), 2]
        with np.errstate(invalid="ignore"):
            possible = (depths_m > _NEAREST * guess) & (depths_m < _FARTHEST * guess)
            off = depths_m - guess
            agree = possible & (np.abs(off - off[:, None]) < _AGREE_M)  # a row a candidate
        agree[~possible] = False
        if not possible.any():
            return possible
        # A place that some depths see through is less likely one.
        through = possible & (off - off[:, None] > _AGREE_M)
        votes = agree.sum(axis=1) - through.sum(axis=1)
        # Of equals the nearer: what hides a hand is rarer than what is behind it.
        order = np.lexsort((np.where(possible, off, np.inf), -np.where(possible, votes, -np.inf)))
        best: NDArray[np.bool_] = agree[order[0]]
        z = self.place[2]
        moved = z + float(off[best].mean())
        # Along the ray, with its points' own extent kept.
        self.place = self.place * (moved / z) if z > 0 and moved > 0 else self.place
        best |= through[order[0]] & (off - off[order[0]] < _THROUGH_M)
        return best

    def fit(
        self,
        depths_m: Float64,
        hidden_m: Float64,
        used: NDArray[np.bool_],
    ) -> Float64:
        """Gauss-Newton; how far each depth is to be trusted more than the shape, (6,) of 0 to 1.

        ``depths_m`` (6,) of the joints themselves; ``hidden_m`` (6,) how much of that is a guess at
        what is before them."""
        anchors = list(ANCHORS)
        ray_weight = np.full(len(self.rays), 1 / _RAY_FINGER_M)
        ray_weight[anchors] = 1 / _RAY_PALM_M
        ray_weight = np.repeat(ray_weight, 2)
        n = 2 * len(self.rays)
        kept = deviation = np.zeros(len(anchors))
        jacobian = np.zeros((n + len(anchors) + 4, 7))
        residual = np.zeros(len(jacobian))
        for turn in range(_ROUNDS):
            shape = np.exp(self.log_size) * (self.world @ self.turn.T)
            points = shape + self.place
            # How the points move with size, turn (about x, y, z) and place.
            moves = np.zeros((len(points), 3, 7))
            moves[:, :, 0] = shape
            moves[:, 1, 1], moves[:, 2, 1] = -shape[:, 2], shape[:, 1]
            moves[:, 0, 2], moves[:, 2, 2] = shape[:, 2], -shape[:, 0]
            moves[:, 0, 3], moves[:, 1, 3] = -shape[:, 1], shape[:, 0]
            moves[:, [0, 1, 2], [4, 5, 6]] = 1
            aside = points[:, :2] - self.rays * points[:, 2:]
            residual[:n] = aside.reshape(-1) * ray_weight
            jacobian[:n] = (moves[:, :2] - self.rays[:, :, None] * moves[:, 2:]).reshape(n, 7)
            jacobian[:n] *= ray_weight[:, None]
            deviation = _DEPTH_M + _DEPTH_PER_M2 * points[anchors, 2] ** 2 + 0.5 * hidden_m
            off = np.where(used, points[anchors, 2] - np.nan_to_num(depths_m), 0.0) / deviation
            # What hides a joint is nearer, and any amount; behind it there is nothing to see.
            hidden = np.clip(1 - (off / _TUKEY) ** 2, 0, None)
            kept = np.where(off > 0, hidden, 1 / (1 + np.abs(off) / _TUKEY)) * used
            if turn == 0 or not kept.any():  # not yet in place: all that agree have a say
                kept = used.astype(np.float64)
            weight = kept / deviation
            residual[n : n + len(anchors)] = off * kept
            jacobian[n : n + len(anchors)] = moves[anchors, 2] * weight[:, None]
            residual[-4] = (self.log_size - self.known_log_size) / self.size_deviation
            residual[-3:] = self.turned / _TURN_RAD
            jacobian[[-4, -3, -2, -1], [0, 1, 2, 3]] = (
                1 / self.size_deviation,
                *(1 / _TURN_RAD,) * 3,
            )
            step = np.linalg.solve(jacobian.T @ jacobian, -jacobian.T @ residual)
            self.log_size += float(np.clip(step[0], -0.3, 0.3))
            self.turn = _rotation(step[1:4]) @ self.turn
            self.turned = self.turned + step[1:4]
            self.place = self.place + step[4:]
            if np.abs(step).max() < 1e-4:
                break
        trust: Float64 = kept * _SHAPE_M**2 / (_SHAPE_M**2 + deviation**2)
        return np.where(kept > 0.1, trust, 0.0)


def _rotation(vector: NDArray[np.floating]) -> Float64:
    """Rodrigues; at most half a radian of it."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = min(angle, 0.5)
    out: Float64 = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return out


def _from_axis(ray: Float64) -> Float64:
    """The shortest turn from the optical axis to a ray (3,)."""
    x, y, z = ray / np.linalg.norm(ray)
    cross = np.array([[0, 0, x], [0, 0, y], [-x, -y, 0]])
    out: Float64 = np.eye(3) + cross + cross @ cross / (1 + z)
    return out


class Lifter:
    """``lift`` that remembers how large each hand was found to be, by its id.

    A hand whose size is known stays at its distance through images without any depth."""

    #: Images of a hand until its size is taken as known, and how many it keeps count of.
    KNOWN_AFTER: Final = 10
    MEMORY: Final = 100
    MOST_HANDS: Final = 32

    def __init__(self, camera: Intrinsics, *, unit_m: float = 1.0) -> None:
        self.camera = camera
        self.unit_m = unit_m
        self._sizes: dict[int, tuple[float, int]] = {}  # mean of the logarithm, of how many

    def size(self, hand: int) -> float | None:
        """Times the average hand; None as long as it is not known."""
        log_size, n = self._sizes.get(hand, (0.0, 0))
        return float(np.exp(log_size)) if n >= self.KNOWN_AFTER else None

    def lift(self, hand: DetectedHand, depth: Depth | None) -> Lifted:
        """See ``lift``."""
        lifted = lift(hand, depth, self.camera, unit_m=self.unit_m, size=self.size(hand.id))
        self._learn(hand.id, lifted)
        return lifted

    def lift_anchored(self, hand: DetectedHand, depths_m: Float64 | None) -> Lifted:
        """See ``lift_anchored``."""
        lifted = lift_anchored(hand, depths_m, self.camera, size=self.size(hand.id))
        self._learn(hand.id, lifted)
        return lifted

    def _learn(self, hand: int, lifted: Lifted) -> None:
        if lifted.anchors < 4:
            return
        mean, n = self._sizes.pop(hand, (0.0, 0))
        n = min(n + 1, self.MEMORY)
        self._sizes[hand] = (mean + (float(np.log(lifted.size)) - mean) / n, n)
        while len(self._sizes) > self.MOST_HANDS:  # the one not seen for longest
            del self._sizes[next(iter(self._sizes))]
