"""Coverage-guided fuzzing of Azure Kinect recordings: the Matroska file, its tags, its calibration.

python tests/fuzz/fuzz_azure.py -runs=20000
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris
import av
import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

with atheris.instrument_imports(
    include=["hgr_stream.datasets.azure_calibration", "hgr_stream.datasets.azure_mkv"]
):
    from hgr_stream.datasets.azure_calibration import parse_calibration
    from hgr_stream.datasets.azure_mkv import AzureRecording
    from hgr_stream.datasets.base import DatasetError
    from tests.azure_calibration import device_json
    from tests.kinect_files import write_azure

av.logging.set_level(None)
FOLDER = Path(tempfile.mkdtemp())


def one(data: bytes) -> None:
    if data[:1] == b"{":
        try:
            calibration = parse_calibration(data)
        except DatasetError:
            return
        point = np.array([0.1, 0.1, 1.0])
        for camera in (
            calibration.depth_camera("NFOV_2X2BINNED"),
            calibration.color_camera("720P"),
        ):
            assert not np.isinf(camera.project(point)).any()
        return
    path = FOLDER / "fuzzed.mkv"
    path.write_bytes(data)
    try:
        with AzureRecording(path) as recording:
            for frame in recording.frames():
                assert frame.color.dtype == np.uint8
                assert frame.depth_mm.shape == (288, 320)
    except DatasetError as error:
        if "\n" in str(error):
            raise AssertionError(repr(str(error))) from error


def corpus() -> str:
    """One small recording and one calibration to begin with."""
    folder = Path(tempfile.mkdtemp())
    color = np.full((720, 1280, 3), 90, dtype=np.uint8)
    depth = np.zeros((288, 320), dtype=np.uint16)
    options = {"depth_mode": "NFOV_2X2BINNED", "depth_size": (320, 288)}
    write_azure(folder / "recording", device_json(), [(color, depth)], **options)
    (folder / "calibration").write_bytes(device_json())
    return str(folder)


if __name__ == "__main__":
    limits = ["-max_len=400000", "-rss_limit_mb=1024", "-timeout=10"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], corpus()], one)
    atheris.Fuzz()
