"""The command line as a whole: every command helps, errors are one line, exit codes mean it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

import hgr_stream
from hgr_stream.cli import COMMANDS, cli, system
from hgr_stream.cli.demo import free_port
from hgr_stream.cli.numbers import Number
from hgr_stream.cli.stream import plain
from hgr_stream.client import Received
from hgr_stream.messages import Event, Status, encode
from hgr_stream.recording import Writer
from hgr_stream.stream import topics
from tests.hands import frame, hand_joints
from tests.models import save_palm_model

NO_DATA = str(Path(__file__).parent / "leapc")  # a folder that holds no recordings


def hgr(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hgr_stream.cli", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_helps_with_examples(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"Usage: cli {name}" in done.output
    command = cli.get_command(click.Context(cli), name)
    if not isinstance(command, click.Group):
        assert f"hgr {name}" in done.output.split("Example", 1)[1]


def test_version_and_overview() -> None:
    assert hgr("--version").stdout.strip() == f"hgr-stream, version {hgr_stream.__version__}"
    overview = hgr("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in overview


def test_a_mistyped_command_is_met_halfway() -> None:
    done = hgr("lisen")
    assert done.returncode == 2
    assert "'listen'" in done.stderr


def test_doctor_finds_this_installation_well() -> None:
    done = hgr("doctor", "--json")
    findings = {f["what"]: f for f in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert findings["hgr-stream"]["state"] == hgr_stream.__version__
    assert "leap (17 gestures)" in findings["shipped models"]["state"]
    assert all(f["ok"] or f["cure"] for f in findings.values())


def test_doctor_looks_where_clients_look(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("HGR_ENDPOINT", f"tcp://127.0.0.1:{port}")
    with socket.socket() as taken:  # the second of the two ports that a daemon needs
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        busy = system._daemon()
    free = system._daemon()
    monkeypatch.setenv("HGR_ENDPOINT", "here")
    wrong = system._daemon()
    assert (busy.ok, free.ok, wrong.ok) == (False, True, False)
    assert f"127.0.0.1:{port + 1}" in busy.state
    assert f"127.0.0.1:{port}" in free.state
    assert "no endpoint" in wrong.state
    assert "HGR_ENDPOINT" in busy.cure


def test_a_model_tells_of_itself(tmp_path: Path) -> None:
    told = hgr("model", "show", "leap").stdout
    for fact in ("17 gestures", "KNOB", "hgr train --online", "LEFT is RIGHT", "held_out_early"):
        assert fact in told
    assert "93.9 %" in hgr("model", "show", "shrec17-28").stdout
    # A name is shown as it is, and not taken for markup.
    odd = save_palm_model(tmp_path / "odd.pt", name="a [red] model")
    assert "a [red] model" in hgr("model", "show", str(odd)).stdout
    whole = json.loads(hgr("model", "show", "leap", "--json").stdout)
    assert f"{whole['scores']['proxy']['f1']:.3f}" in told
    names = [json.loads(row) for row in hgr("model", "list", "--json").stdout.splitlines()]
    assert whole["labels"] == next(m["labels"] for m in names if m["name"] == "leap")
    assert "hololens" in hgr("model", "list").stdout


def test_devices_lists_every_driver() -> None:
    done = hgr("devices", "--json")
    rows = {row["driver"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert {"leap", "replay", "synthetic"} <= set(rows)
    assert rows["synthetic"]["found"][0]["id"] == "synthetic"
    assert all(row["about"] for row in rows.values())
    assert "leapc-python-bindings" in rows["leapc"]["problem"]  # what is missing, with its cure


@pytest.mark.parametrize(
    ("arguments", "code", "fault"),
    [
        (("run", "/none.toml"), 2, "no such file"),
        (("listen", "--connect", "nonsense"), 1, "no endpoint"),
        (("status", "--connect", "tcp://127.0.0.1:9"), 1, "hgr run"),
        (("info", "/none.mcap"), 1, "/none.mcap"),
        (("replay", "/none.mcap"), 1, ""),
        (("model", "show", "/none.pt"), 1, "no such model file"),
        (("model", "use", "leap", "--name", "nobody"), 1, "no daemon runs"),
        (("model", "use", "/none.pt"), 1, "no such model file"),
        (("process", "/none.mcap"), 1, "/none.mcap"),
        (
            ("train", "--online", "--dataset", "shrec21", "--root", NO_DATA, "-o", "x.pt"),
            1,
            NO_DATA,
        ),
    ],
)
def test_a_users_error_is_one_line_and_an_exit_code(
    arguments: tuple[str, ...], code: int, fault: str
) -> None:
    done = hgr(*arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(errors) == 1
    assert fault in errors[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("devices",), ("model", "list"), ("model", "show", "leap")])
def test_output_that_cannot_be_written_is_one_line_and_exit_1(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hgr_stream.cli", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "Error: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_files_name_may_be_any_bytes(tmp_path: Path) -> None:
    out = tmp_path / os.fsdecode(b"b\xff.mcap")
    Writer(out, source=os.fsdecode(b"openxr a\xff.csv")).close()
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    told = [
        subprocess.run(
            [sys.executable, "-m", "hgr_stream.cli", "info", out, *options],
            capture_output=True, text=True, timeout=60, check=True, env=environment,
        ).stdout
        for options in ((), ("--json",))
    ]  # fmt: skip
    assert "b\\udcff.mcap: 0.00 s" in told[0]
    read = json.loads(told[1])
    assert (read["file"], read["metadata"]["source"]) == (str(out), "openxr a?.csv")


@pytest.mark.parametrize("command", ["model list", "info x.mcap"])
def test_a_closed_pipe_ends_a_command_quietly(command: str, tmp_path: Path) -> None:
    Writer(tmp_path / "x.mcap").close()
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "hgr_stream.cli", *command.split()],
        stdout=write, stderr=subprocess.PIPE, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_recording_that_cannot_be_written_is_named() -> None:
    done = hgr("record", "/dev/full", "--force", "--duration", "0.1")
    assert (done.returncode, done.stderr) == (1, "Error: /dev/full: No space left on device\n")


@pytest.mark.parametrize(
    ("missing", "command", "work"),
    [
        ("torch", "train --online --dataset streams --root . -o m.pt", "training"),
        ("scipy", "train --online --dataset streams --root . -o m.pt", "training"),
        ("torch", "evaluate --root .", "evaluating"),
        ("torch", "export . -o m.pt", "exporting"),
    ],
)
def test_training_without_its_extra_names_the_cure(
    missing: str, command: str, work: str, tmp_path: Path
) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from hgr_stream.cli import main
sys.argv = ["hgr", *{command!r}.split()]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    # A real absence is told by the package's own name, this one by that of the module.
    cure = rf"Error: {work} needs {missing}[.a-z]*: pip install \"hgr-stream\[train\]\""
    assert re.match(cure, done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("hz", "--seconds", "nan"),
        ("hz", "--seconds", "-1"),
        ("hz", "--window", "0"),
        ("hz", "--window", "inf"),
        ("listen", "--timeout", "nan"),
        ("echo", "--timeout", "-1"),
        ("record", "x.mcap", "--duration", "nan"),
        ("replay", "x.mcap", "--start", "inf"),
        ("demo", "--pause", "nan"),
    ],
)
def test_a_time_is_a_finite_number(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, list(arguments))
    assert done.exit_code == 2, done.output
    assert f"Invalid value for '{arguments[-2]}'" in done.output


def test_every_number_on_the_command_line_refuses_what_is_none() -> None:
    for name in COMMANDS:
        asked = [cli.get_command(click.Context(cli), name)]
        for command in asked:
            assert command is not None
            if isinstance(command, click.Group):
                asked += command.commands.values()
            for part in (getattr(command, "online", None), getattr(command, "isolated", None)):
                asked += [part] if part else []
            for parameter in command.params:
                if isinstance(parameter.type, click.FloatRange | type(click.FLOAT)):
                    assert isinstance(parameter.type, Number), (name, parameter.name)


def test_json_has_all_fields_though_the_wire_leaves_defaults_out() -> None:
    event = Event("a", "begin", "LEFT", "leap", "right", "right", 1, 2, 0.5)
    status = Status("segmenter", "b", "up", 0, 0)
    for message in (event, status, frame(0, 0, hand_joints())):
        shown = json.loads(plain(Received(topics.of(message), encode(message), 0)))
        assert set(shown) == {"topic", *message.__struct_fields__}
    assert shown["hands"][0]["lacks"] == []
    assert json.loads(plain(Received("status/x", encode(status), 0)))["counts"] == {}


def test_echo_is_json_whatever_a_driver_sends() -> None:
    joints = hand_joints()
    joints[3] = np.nan, np.inf, 0.12345678
    sent = frame(0, 0, joints)
    shown = plain(Received(topics.of(sent), encode(sent), 0))
    assert msgspec.json.decode(shown)["hands"][0]["joints"][3] == [None, None, 0.1235]


@pytest.mark.parametrize(("command", "source"), [("listen", "subscribe"), ("echo", "Stream")])
def test_what_a_subscriber_lost_is_told_at_ctrl_c_too(
    command: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(contextlib.nullcontext[None]):
        lost = 3

        def __iter__(self) -> Iterator[Received]:
            raise KeyboardInterrupt

    monkeypatch.setattr(f"hgr_stream.cli.stream.{source}", lambda *_, **__: Interrupted())
    done = CliRunner().invoke(cli, [command, "--connect", "tcp://127.0.0.1:9"])
    assert "lost 3 messages" in done.output
