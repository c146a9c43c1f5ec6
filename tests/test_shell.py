"""What all stages share: bad messages are counted, and told of without flooding the log."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from hgr_stream.daemon import shell
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


class Pipe:
    """``_winapi`` and ``msvcrt``: a pipe as Windows shows it to who looks without reading."""

    def __init__(self, *looks: int | type[OSError]) -> None:
        self.looks = list(looks)

    def get_osfhandle(self, number: int) -> int:
        return number

    def PeekNamedPipe(self, _: int) -> tuple[int, int]:  # noqa: N802 - its name there
        look = self.looks.pop(0)
        if isinstance(look, int):
            return look, 0
        raise look


@pytest.mark.parametrize(
    ("looks", "reads"),
    [([0, 0, 3, 0, BrokenPipeError], 1), ([0, BrokenPipeError], 0), ([OSError, OSError], 2)],
    ids=["pipe", "nothing ever", "no pipe"],
)
def test_standard_input_is_not_waited_for_in_a_read_on_windows(
    monkeypatch: pytest.MonkeyPatch, looks: list, reads: int
) -> None:
    pipe, said = Pipe(*looks), [b"", b"abc"]
    read = Mock(side_effect=lambda *_: said.pop())
    monkeypatch.setitem(sys.modules, "_winapi", pipe)
    monkeypatch.setitem(sys.modules, "msvcrt", pipe)
    stdin = SimpleNamespace(fileno=lambda: 0)
    monkeypatch.setattr(shell, "sys", SimpleNamespace(platform="win32", stdin=stdin))
    monkeypatch.setattr(shell, "os", SimpleNamespace(read=read))
    shell.wait_for_end_of_stdin()
    assert (read.call_count, pipe.looks) == (reads, [])
