"""Coverage-guided fuzzing of Xsens MVN's datagrams, two to an input.

python tests/fuzz/fuzz_xsens.py -runs=20000
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

with atheris.instrument_imports(include=["hgr_drivers.network"]):
    from hgr_drivers.network.xsens import XsensDecoder

    from tests.fuzz.network import HANDS, fuzz, push
    from tools.senders import xsens_datagrams


def one(data: bytes) -> None:
    decoder = XsensDecoder()
    middle = len(data) // 2
    for packet in (data, data[:middle], data[middle:], data):
        push(decoder, packet)


if __name__ == "__main__":
    fuzz(one, [p for n in (1, 2) for p in xsens_datagrams(HANDS, 1, 8, parts=n)])
