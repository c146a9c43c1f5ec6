"""What the networks see of a hand: palm-relative joints, bone directions, fingertip distances, and
movements over several lags.

Nothing here sees where the hand is, only how it is shaped, turned and moved: the origin of one
sensor's coordinates means nothing to another (SHREC'21's hands float 2.3 m above theirs). Axes
stay aligned with gravity. Joints 1 (palm, derived) and 2 (thumb base, which some sensors invent)
are not looked at.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..skeleton import MIDDLE_BASE, N_JOINTS, TIPS, WRIST

USED_JOINTS: Final = (0, *range(3, 22))  # 20: neither palm (1) nor thumb base (2)
FINGER_BONES: Final = (
    (3, 4),
    (4, 5),
    *((base + i, base + i + 1) for base in (6, 10, 14, 18) for i in range(3)),
)
TIP_PAIRS: Final = tuple((a, b) for i, a in enumerate(TIPS) for b in TIPS[i + 1 :])
#: Frames back over which movement is measured (of the palm; of the joints relative to it).
PALM_LAGS: Final = (1, 2, 4, 8, 16)
JOINT_LAGS: Final = (1, 4)
HISTORY: Final = 16  # frames of past that the features need: the longest lag
N_LOCAL: Final = 3 * len(USED_JOINTS)
N_FEATURES: Final = (
    N_LOCAL
    + 3 * len(FINGER_BONES)
    + len(TIP_PAIRS)
    + len(TIPS)
    + 3 * len(PALM_LAGS)
    + N_LOCAL * len(JOINT_LAGS)
)


def projection_matrix() -> Tensor:
    """(66, K): flat joints -> palm-relative joints, palm, bone vectors, tip pairs, tip-palm.

    All are linear in the joints, so that one product makes them all.
    """
    palm = {WRIST: 0.5, MIDDLE_BASE: 0.5}
    rows: list[dict[int, float]] = []
    for joint in USED_JOINTS:
        row = {joint: 1.0}
        for j, w in palm.items():
            row[j] = row.get(j, 0.0) - w
        rows.append(row)
    rows.append(palm)
    rows += [{child: 1.0, parent: -1.0} for parent, child in FINGER_BONES]
    rows += [{a: 1.0, b: -1.0} for a, b in TIP_PAIRS]
    rows += [{tip: 1.0, **{j: -w for j, w in palm.items()}} for tip in TIPS]
    matrix = torch.zeros(N_JOINTS * 3, len(rows) * 3)
    for i, row in enumerate(rows):
        for joint, weight in row.items():
            for axis in range(3):
                matrix[3 * joint + axis, 3 * i + axis] = weight
    return matrix


def lag_scales() -> Tensor:
    """Brings movements of every lag to about unit size: typical speeds are below 1 m/s."""
    palm = [20.0 / math.sqrt(lag) for lag in PALM_LAGS for _ in range(3)]
    joints = [40.0 / math.sqrt(lag) for lag in JOINT_LAGS for _ in range(N_LOCAL)]
    return torch.tensor(palm + joints)


def shape_features(projected: Tensor) -> Tensor:
    """(..., K) of the projection -> (..., n) features of one frame: pose, bones, distances."""
    n_bones, n_pairs = 14, 15
    vectors = projected[..., 63:].unflatten(-1, [n_bones + n_pairs, 3])
    norms = torch.linalg.vector_norm(vectors, dim=-1)
    bones = vectors[..., :n_bones, :] / norms[..., :n_bones, None].clamp_min(1e-3)
    return torch.cat(
        [projected[..., :60] * 15.0, bones.flatten(-2) * 1.5, norms[..., n_bones:] * 15.0], -1
    )


def statistics(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm to be folded: its mean, and what to multiply by (without its own weight)."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, (norm.running_var + norm.eps).rsqrt()


class Features(nn.Module):
    """(B, T, 22, 3) metres -> (B, T, N_FEATURES), causal; movements are zero before their lag."""

    projection: Tensor
    lag_scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("projection", projection_matrix(), persistent=False)
        self.register_buffer("lag_scales", lag_scales(), persistent=False)

    def forward(self, joints: Tensor) -> Tensor:
        projected = joints.flatten(-2) @ self.projection
        palm, local = projected[..., 60:63], projected[..., :60]
        moves = [self._moved(palm, lag) for lag in PALM_LAGS]
        moves += [self._moved(local, lag) for lag in JOINT_LAGS]
        moved = torch.cat(moves, -1) * self.lag_scales
        # A glitch (a hand metres away for one frame) must not drown everything else.
        return torch.cat([shape_features(projected), moved], -1).clamp(-5.0, 5.0)

    @staticmethod
    def _moved(x: Tensor, lag: int) -> Tensor:
        return F.pad(x[:, lag:] - x[:, :-lag], (0, 0, min(lag, x.shape[1]), 0))
