"""Coverage-guided fuzzing of NatNet's packets: descriptions and frames.

python tests/fuzz/fuzz_natnet.py -runs=20000
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

with atheris.instrument_imports(include=["hgr_drivers.network"]):
    from hgr_drivers.network.natnet import NatNetDecoder

    from tests.fuzz.network import HANDS, fuzz, push
    from tools.senders import natnet_frame, natnet_model, natnet_server_info

VERSIONS = ((3, 0), (3, 1), (4, 1), (4, 2))
MODEL = natnet_model()


def one(data: bytes) -> None:
    decoder = NatNetDecoder(local=len(data) % 2 == 0)
    push(decoder, natnet_server_info(VERSIONS[len(data) % len(VERSIONS)]))
    push(decoder, data)
    push(decoder, MODEL)
    push(decoder, data)


if __name__ == "__main__":
    fuzz(one, [natnet_server_info(), MODEL, natnet_frame([HANDS], 1, 1.0, markers=2)])
