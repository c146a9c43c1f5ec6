"""Coverage-guided fuzzing of LeapJS files, plain, packed and gzipped:
python tests/fuzz/fuzz_leapjs.py -runs=20000"""

import gzip
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hgr_stream.datasets"]):
    from hgr_stream.datasets.base import DatasetError
    from hgr_stream.datasets.leapjs import load_leapjs

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-leapjs-"))
FINGER = (
    '{"handId":7,"type":%d,"mcpPosition":[1,2,3],"pipPosition":[1,2,4],'
    '"dipPosition":[1,2,5],"btipPosition":[1,2,6]}'
)
FRAME = (
    '{"id":%d,"timestamp":%d,"hands":[{"id":7,"type":"left","wrist":[0,0,9]}],"pointables":['
    + ",".join(FINGER % i for i in range(5))
    + "]}"
)
PACKED = (
    '{"metadata":{"formatVersion":2},"frames":[["id","timestamp",{"hands":[["id","type"]]},'
    '{"pointables":[["id","mcpPosition"]]}],[1,9000,[[7,"left"]],[[70,[1,2,3]]]],[2,9900,[],[]]]}'
)


def one(data: bytes) -> None:
    path = FOLDER / "a.json"
    for written in (data, gzip.compress(data, 1)):
        path.write_bytes(written)
        try:
            load_leapjs(path)
        except DatasetError as error:
            told = str(error)
            if "\n" in told:
                raise AssertionError(told) from None


if __name__ == "__main__":
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    plain = f"[{FRAME % (1, 9000)},{FRAME % (2, 18000)}]"
    (corpus / "plain").write_text(plain)
    (corpus / "object").write_text(f'{{"metadata":{{}},"frames":{plain}}}')
    (corpus / "packed").write_text(PACKED)
    atheris.Setup([*sys.argv, "-rss_limit_mb=2048", "-timeout=20", os.fspath(corpus)], one)
    atheris.Fuzz()
