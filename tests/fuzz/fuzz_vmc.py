"""Coverage-guided fuzzing of VMC over OSC: bundles and messages.

python tests/fuzz/fuzz_vmc.py -runs=20000
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

with atheris.instrument_imports(include=["hgr_drivers.network"]):
    from hgr_drivers.network.vmc import VmcDecoder

    from tests.fuzz.network import HANDS, fuzz, push
    from tools.senders import vmc_bones, vmc_packets


def one(data: bytes) -> None:
    decoder = VmcDecoder()
    for _ in range(3):  # a frame is known by the next
        push(decoder, data)


if __name__ == "__main__":
    fuzz(one, vmc_packets(vmc_bones(HANDS), 1.0, bundle=8))
