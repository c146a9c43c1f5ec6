"""Small models made here, for tests that are about the stream and not about accuracy.

``PalmModel`` is a true streaming model by the contract of ``recognition``: its state holds the
last palm position and a smoothed velocity, and a palm that moves fast to one side is LEFT or
RIGHT. It needs no training, and what it says is known beforehand.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hgr_stream.recognition.bundle import save
from hgr_stream.recognition.options import FORMAT, DecoderOptions, Metadata


class PalmModel(nn.Module):
    def __init__(self, rate_hz: float) -> None:
        super().__init__()
        self.rate_hz = rate_hz

    @torch.jit.export
    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, 3)  # seen before, last palm x, smoothed velocity

    def forward(self, joints: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, n = joints.shape[0], joints.shape[1]
        seen, last, velocity = state[:, 0], state[:, 1], state[:, 2]
        rows: list[Tensor] = []
        for i in range(n):
            x = joints[:, i, 1, 0]
            now = torch.where(seen > 0, (x - last) * self.rate_hz, torch.zeros_like(x))
            velocity = 0.6 * velocity + 0.4 * now
            seen, last = torch.ones_like(seen), x
            none = torch.full_like(x, 3.0)
            rows.append(torch.stack([none, -velocity * 12.0, velocity * 12.0], 1))
        logits = torch.stack(rows, 1)
        boundary = torch.full((batch, n, 2), -9.0)
        embedding = torch.zeros(batch, n, 4)
        return logits, boundary, embedding, torch.stack([seen, last, velocity], 1)


def save_palm_model(
    path: Path,
    *,
    rate_hz: float = 25.0,
    hop: int = 1,
    name: str = "palm",
    mirrors: bool = False,
) -> Path:
    """Write it as a model file; ``mirrors``: one that sees left hands mirrored."""
    metadata = Metadata(
        format=FORMAT,
        name=name,
        kind="streaming",
        labels=["LEFT", "RIGHT"],
        rate_hz=rate_hz,
        size=hop,
        hop=hop,
        mirror_left=mirrors,
        mirror_labels={"LEFT": "RIGHT", "RIGHT": "LEFT"} if mirrors else {},
        decoder=DecoderOptions(min_duration_s=0.08),
        training={"data": "none: written by hand for tests"},
    )
    save(torch.jit.script(PalmModel(rate_hz).eval()), metadata, path)
    return path
