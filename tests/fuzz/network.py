"""What the harnesses of the network decoders share: seeds, and what must hold after a packet."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import atheris
import numpy as np
from hgr_drivers.network.packets import Decoder, PacketError

from tests.hands import hand_joints

HANDS = {"left": hand_joints(side="left"), "right": hand_joints(side="right")}


def push(decoder: Decoder, data: bytes) -> None:
    """A packet is a sample of finite hands, or nothing yet, or refused; nothing else."""
    try:
        sample = decoder.push(data, "fuzzer")
    except PacketError as error:
        if "\n" in str(error):
            raise AssertionError(f"not one line: {error!r}") from None
        return
    for hand in sample.hands if sample is not None else ():
        assert hand.joints.shape == (22, 3)
        assert np.isfinite(hand.joints).all()


def fuzz(one: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    """Run ``one`` on inputs that grow out of ``seeds``; the arguments are libFuzzer's."""
    with tempfile.TemporaryDirectory(prefix="hgr-fuzz-") as corpus:
        for i, seed in enumerate(seeds):
            (Path(corpus) / f"seed-{i}").write_bytes(seed)
        limits = ["-max_len=4096", "-rss_limit_mb=1024", "-timeout=5"]
        atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], corpus], one)
        atheris.Fuzz()
