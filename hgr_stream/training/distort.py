"""Distortions of whole gestures, a batch at a time: other hands, other speeds, other takes.

Gestures are *packed*: their frames lie one after the other in one tensor (N, 22, 3), with their
lengths (B,) beside, so that a batch costs some dozen tensor operations and no padding. Turns and
shifts are mild on purpose: where the palm is and how the hand is turned tell SHREC'17's gestures
apart. People differ in speed and size; those spreads are wide.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..skeleton import MIDDLE_BASE, N_JOINTS, PALM, PARENTS, WRIST

_CHILDREN = torch.arange(2, N_JOINTS)
_PARENTS = torch.tensor([PARENTS[c] for c in range(2, N_JOINTS)])
KNOT_FRAMES = 12  # slow waves bend about this often
MAX_FRAMES = 200  # that slowing a gesture down may lead to
MIN_FRAMES = 8


@dataclass(frozen=True)
class Distortion:
    """Spreads. Lengths in metres, angles in radians; shares are of the gesture's length."""

    crop: float = 0.06  #: cut from either end, at most
    slowest: float = 0.6  #: factors of the duration
    longest: float = 1.6
    local_speed: float = 0.25  #: slow waves of the speed, log
    bone: float = 0.1  #: each bone's length
    size: float = 0.12  #: the whole hand's
    travel: float = 1.52  #: the palm's way, factor up or down
    drift_m: float = 0.01
    turn_rad: float = 0.2
    wobble_m: float = 0.003  #: fingers, slowly
    noise_m: float = 0.0018  #: joints, frame by frame
    shift_m: float = 0.03  #: where the hand is
    faults: float = 0.4  #: share of gestures with frames held, and with a finger lost

    def scaled(self, by: float) -> Distortion:
        """All spreads times ``by``: 0 distorts nothing."""
        factors = {"slowest", "longest", "travel"}
        return Distortion(**{k: v**by if k in factors else v * by for k, v in asdict(self).items()})


@dataclass
class Packed:
    """Frames (N, C) of many gestures, where each begins (B,) and how long it is (B,)."""

    frames: Tensor
    first: Tensor
    lengths: Tensor

    @staticmethod
    def of(sequences: list) -> Packed:
        """Pack arrays (T_i, C)."""
        lengths = torch.tensor([len(s) for s in sequences])
        frames = torch.cat([torch.as_tensor(s) for s in sequences]).float()
        return Packed(frames, lengths.cumsum(0) - lengths, lengths)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Gestures ``index`` (B,) undistorted -> frames (N, C) and lengths (B,)."""
        lengths = self.lengths[index]
        place = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(
            lengths
        )
        return self.frames[self.first[index].repeat_interleave(lengths) + place], lengths


def waves(batch: int, frames: int, channels: int, knot: float, g: torch.Generator) -> Tensor:
    """(batch, frames, channels) smooth noise of about unit deviation."""
    knots = max(int(frames / knot) + 2, 4)
    values = torch.randn(batch, knots, channels, generator=g) * 1.2
    at = torch.linspace(0, knots - 1.001, frames)
    i = at.long()
    w = (at - i)[None, :, None]
    w = w * w * (3 - 2 * w)
    return values[:, i] * (1 - w) + values[:, i + 1] * w


def draw(data: Packed, index: Tensor, d: Distortion, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Gestures ``index`` (B,) at other speeds, cut at the ends -> frames (N, C), lengths (B,)."""
    batch = len(index)
    length = data.lengths[index].float()

    def between(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=g) * (high - low) + low

    begin = between(0, d.crop) * length * (between(0, 1) < 0.7)
    end = (length - 1) - between(0, d.crop) * length * (between(0, 1) < 0.7)
    speed = torch.exp(between(math.log(d.slowest), math.log(d.longest)))
    n = ((end - begin + 1) * speed).round().clamp_min(MIN_FRAMES)
    # What is longer is judged at its own length, and so is learnt at that.
    n = torch.minimum(n, data.lengths[index].clamp_min(MAX_FRAMES)).long()
    most = int(n.max())
    inside = torch.arange(most)[None] < n[:, None]
    pace = torch.exp(d.local_speed * waves(batch, most, 1, KNOT_FRAMES, g)[..., 0]) * inside
    gone = pace.cumsum(1) - pace[:, :1]
    gone = gone / gone.gather(1, (n - 1)[:, None])
    at = (begin[:, None] + gone * (end - begin)[:, None])[inside]
    owner = torch.arange(batch).repeat_interleave(n)
    i = torch.minimum(at.floor().clamp_min(0).long(), (data.lengths[index] - 2)[owner])
    w = (at - i)[:, None]
    base = data.first[index][owner] + i
    return data.frames[base] * (1 - w) + data.frames[base + 1] * w, n


def another_hand(joints: Tensor, n: Tensor, d: Distortion, g: torch.Generator) -> Tensor:
    """Packed canonical joints (N, 22, 3) with lengths (B,): proportions, seat, turn and noise."""
    batch = len(n)
    owner = torch.arange(batch).repeat_interleave(n)
    inside = torch.arange(int(n.max()))[None] < n[:, None]

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=g)

    def slowly(channels: int, knot: float) -> Tensor:
        return waves(batch, int(n.max()), channels, knot, g)[inside]

    def uniform() -> Tensor:
        return torch.rand(batch, generator=g)[owner][:, None, None]

    wrist = joints[:, WRIST : WRIST + 1]
    bones = joints[:, _CHILDREN] - joints[:, _PARENTS]
    scale = (1 + (0.5 * normal(5, 1) + normal(5, 4)) * d.bone) * (1 + normal(1, 1) * d.size)
    bones = bones * scale.clamp(0.6, 1.5).reshape(batch, 20, 1)[owner]
    chains = bones.view(-1, 5, 4, 3).cumsum(2) + wrist[:, None]
    joints = torch.cat([wrist, wrist, chains.reshape(-1, 20, 3)], 1)

    palm = 0.5 * (joints[:, WRIST] + joints[:, MIDDLE_BASE])
    centre = torch.zeros(batch, 3).index_add(0, owner, palm) / n[:, None]
    local = joints - palm[:, None]
    travel = d.travel ** (2 * torch.rand(batch, generator=g) - 1)
    palm = (palm - centre[owner]) * travel[owner][:, None] + d.drift_m * slowly(3, KNOT_FRAMES)
    turn = turns(normal(3).clamp(-2, 2) * d.turn_rad)
    joints = torch.bmm(local + palm[:, None], turn[owner].transpose(1, 2))
    joints[:, 2:] += slowly(60, KNOT_FRAMES / 2).view(-1, 20, 3) * (uniform() * d.wobble_m)
    joints += torch.randn(joints.shape, generator=g) * (uniform() * d.noise_m)
    joints += (centre + normal(3) * d.shift_m)[owner][:, None]
    joints = lost(joints, n, owner, d, g)
    joints[:, PALM] = 0.5 * (joints[:, WRIST] + joints[:, MIDDLE_BASE])
    return joints


def turns(angles: Tensor) -> Tensor:
    """(B, 3) angles about y, x and z -> (B, 3, 3)."""
    c, s = angles.cos(), angles.sin()
    zero, one = torch.zeros(len(angles)), torch.ones(len(angles))

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, 1).view(-1, 3, 3)

    about_y = matrix(c[:, 0], zero, s[:, 0], zero, one, zero, -s[:, 0], zero, c[:, 0])
    about_x = matrix(one, zero, zero, zero, c[:, 1], -s[:, 1], zero, s[:, 1], c[:, 1])
    about_z = matrix(c[:, 2], -s[:, 2], zero, s[:, 2], c[:, 2], zero, zero, zero, one)
    return about_y @ about_x @ about_z


def lost(joints: Tensor, n: Tensor, owner: Tensor, d: Distortion, g: torch.Generator) -> Tensor:
    """The tracker's faults: up to five frames held, and a finger elsewhere for as long."""
    batch, every = len(n), torch.arange(len(joints))
    place = every - (n.cumsum(0) - n)[owner]

    def stretch() -> tuple[Tensor, Tensor]:
        hit = torch.rand(batch, generator=g) < d.faults
        at = (torch.rand(batch, generator=g) * n).long()
        long = torch.randint(1, 6, (batch,), generator=g)
        return hit[owner] & (place > at[owner]) & (place <= (at + long)[owner]), at[owner]

    held, at = stretch()
    joints = joints[torch.where(held, every - (place - at), every)]
    off, _ = stretch()
    finger = torch.randint(0, 5, (batch,), generator=g)
    which = torch.zeros(batch, N_JOINTS, 1)
    for k in range(4):
        which[torch.arange(batch), 2 + 4 * finger + k] = 1
    by = which * torch.randn(batch, 1, 3, generator=g) * 0.015
    return joints + off[:, None, None] * by[owner]


def resampled(frames: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Packed (N, C) -> (B, size, C), each gesture linearly stretched to ``size`` frames."""
    share = torch.linspace(0, 1, size, device=frames.device)
    at = share[None] * (lengths - 1)[:, None]
    i = torch.minimum(at.long(), (lengths - 2).clamp_min(0)[:, None])
    w = (at - i)[..., None]
    base = (lengths.cumsum(0) - lengths)[:, None] + i
    after = torch.minimum(base + 1, (lengths.cumsum(0) - 1)[:, None])
    return frames[base] * (1 - w) + frames[after] * w
