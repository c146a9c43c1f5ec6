"""A foreign recording as frames of the stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..messages import Frame, Hand, Truth, joint_bytes
from ..recording import as_text
from ..skeleton import HandSample
from .base import HandFrame, HandFrames, HandSequence


def truths_of(sequence: HandSequence, device: str) -> list[Truth]:
    """What a sequence's segments say was performed, on its stream time."""
    return [
        Truth(
            device=device,
            hand=sequence.side,
            label=segment.label,
            onset_ns=int(sequence.time_ns[segment.start]),
            offset_ns=int(sequence.time_ns[segment.end]),
        )
        for segment in sequence.segments
    ]


@dataclass
class StreamFrames:
    """A recording's frames, made as they are asked for; those without a hand too.

    Each of a source's streams is a device with numbers of its own: "openpose.person0".
    """

    source: HandSequence | HandFrames
    device: str

    def __iter__(self) -> Iterator[Frame]:
        seqs: dict[str, int] = {}
        for frame in self._frames():
            device = f"{self.device}.{frame.stream}" if frame.stream else self.device
            seqs[device] = seqs.get(device, -1) + 1
            # No host saw this frame: its host times are 0.
            yield Frame(
                device=device,
                boot_id=f"import:{as_text(self.source.name)}",
                seq=seqs[device],
                time_ns=frame.time_ns,
                device_ns=frame.time_ns,
                host_ns=0,
                wall_ns=0,
                sent_ns=0,
                index=frame.index,
                hands=[
                    Hand(h.id, h.side, joint_bytes(h.joints), h.confidence, list(h.lacks))
                    for h in frame.hands
                ],
            )

    def _frames(self) -> Iterable[HandFrame]:
        s = self.source
        if isinstance(s, HandFrames):
            return s.frames
        return (
            HandFrame(time_ns, index, [HandSample(1, s.side, joints, 1.0, s.lacks)])
            for joints, time_ns, index in zip(
                s.joints, s.time_ns.tolist(), s.index.tolist(), strict=True
            )
        )
