"""Coverage-guided fuzzing of NumPy archives: python tests/fuzz/fuzz_arrays.py -runs=20000"""

import io
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hgr_stream.datasets", "zipfile", "numpy.lib"]):
    import numpy as np

    from hgr_stream.datasets.arrays import load_array
    from hgr_stream.datasets.base import DatasetError
    from hgr_stream.datasets.shrec21 import load_shrec21

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-arrays-"))


def seeds() -> dict[str, bytes]:
    points = np.arange(2 * 60, dtype=np.float32).reshape(2, 20, 3)
    plain, packed, single = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(plain, seq_001=points)
    np.savez_compressed(packed, seq_001=points, seq_002=points.astype(">f8"))
    np.save(single, points)
    return {"plain": plain.getvalue(), "packed": packed.getvalue(), "npy": single.getvalue()}


def one(data: bytes) -> None:
    path = FOLDER / "positions.npz"
    path.write_bytes(data)
    for read in (load_shrec21, load_array):
        try:
            read(path)
        except DatasetError as error:
            told = str(error)
            if "\n" in told:
                raise AssertionError(told) from None


if __name__ == "__main__":
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for name, data in seeds().items():
        (corpus / name).write_bytes(data)
    atheris.Setup([*sys.argv, "-rss_limit_mb=2048", "-timeout=20", os.fspath(corpus)], one)
    atheris.Fuzz()
