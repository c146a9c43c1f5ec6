"""The processes of the daemon: a flat list of data. What runs, in which order, and when.

They are started from the top (whoever is listened to, first) and stopped from the bottom.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ..config import Config

#: A process that ends with this code says: starting me again cannot help.
EXIT_FATAL = 78


@dataclass(frozen=True)
class Process:
    """One line of the list."""

    stage: str
    argv: tuple[str, ...]
    may_end: bool = False  #: an exit code of 0 is an end, not a fault (a recording that is over)
    after: tuple[str, ...] = ()  #: first started when these are up: nobody speaks to deaf ears


def processes(config: Config, run_dir: Path) -> list[Process]:
    """What a daemon with this configuration consists of."""

    def stage(name: str) -> Process:
        argv = (sys.executable, "-m", "hgr_stream.daemon.main", name, "--run-dir", str(run_dir))
        return Process(name, argv)

    def driver(device: str) -> Process:
        argv = (sys.executable, "-m", "hgr_drivers.runner", device, "--run-dir", str(run_dir))
        after = ("gateway", "worker", "segmenter")
        return Process(f"driver.{device}", argv, may_end=True, after=after)

    return [
        stage("gateway"),
        *([stage("recorder")] if config.record.path else []),
        stage("worker"),
        stage("segmenter"),
        *(driver(device) for device in config.devices),
    ]
