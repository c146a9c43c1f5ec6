"""The entry of the daemon's own stages: ``python -m hgr_stream.daemon.main STAGE --run-dir DIR``.

Started by the supervisor, which leaves the whole configuration in the run directory.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from ..config import Config, ConfigError, path_of
from ..faults import error_line
from ..recognition.bundle import ModelError, read_metadata, resolve
from ..stream.bus import BusError
from .processes import EXIT_FATAL
from .shell import Shell, set_up_logging

CONFIG_FILE = "config.json"


def read_config(run_dir: Path) -> Config:
    """The configuration that the supervisor left for its processes."""
    return msgspec.json.decode((run_dir / CONFIG_FILE).read_bytes(), type=Config)


def make(stage: str, run_dir: Path) -> Shell:
    """The stage's process object; imports only what this stage needs."""
    config = read_config(run_dir)
    if stage == "segmenter":
        from ..segmentation import WindowSpec
        from .segmenter import SegmenterShell

        metadata = read_metadata(resolve(config.model.use))
        spec = WindowSpec(metadata.rate_hz, metadata.size, metadata.hop)
        return SegmenterShell(run_dir, spec, config.segmentation)
    if stage == "worker":
        from .worker import WorkerShell

        model = config.model
        return WorkerShell(
            run_dir, model.use, model.threads, config.recognition, config.segmentation
        )
    if stage == "gateway":
        from .gateway import GatewayShell

        return GatewayShell(run_dir, config.gateway)
    if stage == "recorder":
        from .recorder import RecorderShell

        return RecorderShell(run_dir, path_of(config.record.path))
    raise ConfigError(f"there is no stage {stage!r}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="hgr_stream.daemon.main", description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("--run-dir", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        return make(arguments.stage, arguments.run_dir).run()
    except (ConfigError, ModelError) as error:
        set_up_logging(arguments.stage).error("%s", error_line(error))
        return EXIT_FATAL
    except (BusError, OSError) as error:
        set_up_logging(arguments.stage).error("%s", error_line(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
