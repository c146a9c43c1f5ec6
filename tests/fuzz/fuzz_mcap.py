"""Coverage-guided fuzzing of recordings: python tests/fuzz/fuzz_mcap.py -runs=20000"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hgr_stream", "mcap"]):
    from hgr_stream.messages import Frame, encode
    from hgr_stream.recording import Reader, RecordingError, Writer
    from hgr_stream.recording_info import info

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-mcap-"))


def seed() -> bytes:
    path = FOLDER / "seed.mcap"
    with Writer(path) as writer:
        for i in range(4):
            frame = Frame("d", "b", i, i * 10_000_000, 0, 0, 0, 0)
            writer.write("frame/d", encode(frame), frame.time_ns, 0)
            writer.flush()
    return path.read_bytes()


def one(data: bytes) -> None:
    path = FOLDER / "a.mcap"
    path.write_bytes(data)
    try:
        reader = Reader(path)
        list(reader)
        list(reader.truths())
        info(path)
    except RecordingError as error:
        told = str(error)
        if "\n" in told:
            raise AssertionError(told) from None


if __name__ == "__main__":
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    whole = seed()
    (corpus / "whole").write_bytes(whole)
    (corpus / "cut").write_bytes(whole[: len(whole) // 2])
    atheris.Setup([*sys.argv, "-rss_limit_mb=2048", "-timeout=20", os.fspath(corpus)], one)
    atheris.Fuzz()
