"""What all stages share: bad messages are counted, and told of without flooding the log."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hgr_stream.daemon.shell import Shell, decode_request
from hgr_stream.stream.bus import DaemonInfo, private_sockets, write_daemon_file


class Stage(Shell):
    """A stage without a daemon."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.log = logging.getLogger("stage")

    def turn(self, timeout_s: float) -> None:
        """Nothing to do."""


def test_bad_messages_are_told_of_at_every_tenfold(caplog: pytest.LogCaptureFixture) -> None:
    stage, told = Stage(), []
    for n in range(1, 20_001):
        stage.refuse(ValueError("cut"))
        told += [n] * len(caplog.records)
        caplog.clear()
    assert told == [1, 10, 100, 1000, 10_000]
    assert stage.counts["malformed"] == 20_000


@pytest.mark.parametrize("data", [b"\x81\xa2op" + b"\x91" * 60_000, b"\x81\xa2\xff\xff\x01"])
def test_a_request_that_cannot_be_read_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^malformed request"):
        decode_request(data)


HUNG = """
import sys, time
from pathlib import Path
from hgr_stream.daemon import shell

shell.ORPHAN_S = 0.1

class Hung(shell.Shell):
    def turn(self, timeout_s):
        print("hangs", flush=True)
        time.sleep(60)

Hung("hung", Path(sys.argv[1])).run()
"""


def test_a_stage_that_hangs_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    sockets = private_sockets(tmp_path)
    write_daemon_file(tmp_path, DaemonInfo(1, "test", "0", "", sockets, [], ""))
    with subprocess.Popen(
        [sys.executable, "-c", HUNG, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stage:
        assert stage.stdin is not None
        assert stage.stdout is not None
        assert stage.stdout.readline() == b"hangs\n"
        stage.stdin.close()
        try:
            assert stage.wait(5) == 1
        finally:
            stage.kill()
