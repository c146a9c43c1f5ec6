"""Coverage-guided fuzzing of Rokoko's packets, LZ4 frames and JSON.

python tests/fuzz/fuzz_rokoko.py -runs=20000
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

with atheris.instrument_imports(include=["hgr_drivers.network"]):
    import lz4.frame
    from hgr_drivers.network.rokoko import RokokoDecoder

    from tests.fuzz.network import HANDS, fuzz, push
    from tools.senders import rokoko_packet


def one(data: bytes) -> None:
    decoder = RokokoDecoder()
    # As it is, and as what an LZ4 frame holds: a fuzzer does not find the checksums by itself.
    push(decoder, data)
    push(decoder, lz4.frame.compress(data))


if __name__ == "__main__":
    fuzz(
        one,
        [rokoko_packet({"A": HANDS}, 1.0, version=v, lz4=p) for v in (2, 3) for p in (False, True)],
    )
