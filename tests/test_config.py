"""The configuration is refused by name, and every file that we ship is right."""

from __future__ import annotations

import errno
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from hgr_drivers import registry
from hgr_drivers.base import DeviceError
from hgr_drivers.replay import ReplayDriver, ReplayOptions

from hgr_stream import config
from hgr_stream.cli import cli
from hgr_stream.config import (
    Config,
    ConfigError,
    convert,
    is_name,
    load,
    parse,
    run_dir,
    shipped,
)
from hgr_stream.recognition.bundle import resolve
from hgr_stream.recording import Writer
from tests.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_shipped_configs_are_right(path) -> None:
    config = load(path)
    registry.check(config)
    assert config.devices


def test_a_shipped_config_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Path("camera")).devices["camera"]["driver"] == "camera"
    assert load(ROOT / "configs/camera.toml") == load(Path("camera"))
    with pytest.raises(
        ConfigError, match=r"^configs.leap.toml: no .* the shipped one is called leap$"
    ):
        load(Path("configs/leap.toml"))
    with pytest.raises(ConfigError, match=r"^nix: no such file; hgr config lists those shipped$"):
        load(Path("nix"))
    with pytest.raises(ConfigError, match="a folder; name the config file in it"):
        load(tmp_path)
    (tmp_path / "camera").write_text('[devices.mine]\ndriver = "camera"\n')
    assert list(load(Path("camera")).devices) == ["mine"]  # a file of one's own comes first


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_a_config_may_be_written_by_an_editor_or_a_shell_of_windows(
    tmp_path: Path, encoding: str
) -> None:
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    text = f"{mark}name = \"a\"\r\nrun_dir = 'C:\\Users\\J\u00f6rg'\r\n"
    (tmp_path / "my.toml").write_bytes(text.encode(encoding))
    assert load(tmp_path / "my.toml").run_dir == "C:\\Users\\J\u00f6rg"


@pytest.mark.parametrize("path", [r"C:\Users\me", r"D:\models\mine.pt"])
def test_a_path_with_backslashes_in_double_quotes_is_told_with_its_cure(path: str) -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 2.*; a path with \\ stands in '"):
        parse(f'name = "a"\nrun_dir = "{path}"\n')
    assert parse(f"name = \"a\"\nrun_dir = '{path}'\n").run_dir == path


def test_an_installed_package_has_the_configs_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    assert "configs" in wheel["only-include"]
    inside = tmp_path / wheel["sources"]["configs"]
    inside.mkdir(parents=True)
    (inside / "mine.toml").touch()
    monkeypatch.setattr(config, "__file__", str(tmp_path / "hgr_stream" / "config.py"))
    assert shipped() == {"mine": inside / "mine.toml"}


def test_shipped_configs_are_listed_shown_and_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["config", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    listed = told().splitlines()
    assert [line.split()[0] for line in listed] == list(shipped())
    assert "leap       A Leap Motion or Ultraleap sensor." in listed
    assert all(line.endswith(".") and "Run it" not in line for line in listed)
    original = (ROOT / "configs/leap.toml").read_text()
    assert told("leap") == original
    copy = tmp_path / "my.toml"
    told("leap", "-o", str(copy))
    assert copy.read_text() == original
    copy.write_text("changed")
    assert "my.toml exists" in told("leap", "-o", str(copy), code=1)
    assert copy.read_text() == "changed"
    assert "shipped are azure, camera" in told("laep", code=2)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    new = tmp_path / "new.toml"
    assert told("leap", "-o", str(new), code=1) == f"Error: {new}: No space left on device\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[gateway]\nprot = 1", "unknown key `prot`"),
        ("[gatway]\nport = 1", "unknown key `gatway`"),
        ('[gateway]\nport = "6450"', "port"),
        ("[gateway]\nport = 70000", "port"),
        ("[gateway]\nqueue = 5_000_000_000", "queue"),
        ('[gateway]\nhost = "0.0.0.0"', "not on loopback"),
        ('[gateway]\nhost = "192.168.1.5"', "ssh -L 6450:127.0.0.1:6450 -L 6451"),
        ("[recognition]\nthreshold = { V = 2.0 }", "threshold"),
        ("[segmentation]\nmax_gap_s = 0", "max_gap_s"),
        ("[segmentation]\nmax_gap_s = nan", "max_gap_s"),
        ('name = "my daemon"', "a name of letters, digits and _.- that begins"),
        ('[devices."a/b"]', "digit, at most 64 long - at the key 'a/b' in `.devices`"),
        ("[devices]\nleap = 3", "`.devices.leap`"),
        (
            "[recognition]\nthreshold = { V = 0.5, LEFT = 3 }",
            "<= 1.0 - at `.recognition.threshold.LEFT`",
        ),
        ("[gateway", "not valid TOML"),
    ],
)
def test_faults_are_named(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml: ")
    assert fault in message
    assert "\n" not in message
    assert "regex" not in message


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({}, 'driver = "leap"'),
        ({"driver": "leep"}, "'leep'; known: azure"),
        ({"driver": "leap", "urll": "x"}, "unknown key `urll`"),
        ({"driver": "synthetic", "fps": "fast"}, "fps"),
        ({"driver": "replay", "file": "a.mcap", "start_s": float("inf")}, "start_s"),
        ({"driver": "vmc", "heading_deg": float("nan")}, "heading_deg"),
        ({"driver": "program", "endpoint": "localhost:6460"}, 'like "tcp://127.0.0.1:6460" or'),
    ],
)
def test_a_device_table_is_checked_by_its_driver(table: dict, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.check(Config(devices={"mine": table}))
    assert "[devices.mine]" in str(caught.value)
    assert fault in str(caught.value)


@pytest.mark.parametrize("name", ["../a", "a/b", "a b", "a\n", ".a", "", "a" * 65])
def test_what_is_no_name_is_none_in_the_config_and_on_the_command_line(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(ConfigError, match="name"):
        convert({"name": name}, Config, "my.toml")
    assert is_name("Left-hand_2.b")
    for command in (["replay", "x.mcap", "--device", name], ["stop", "--name", name]):
        if name:
            done = CliRunner().invoke(cli, command)
            assert (done.exit_code, "is no name" in done.output) == (2, True)


def test_daemons_of_different_names_have_different_directories(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HGR_RUN_DIR", str(tmp_path))
    assert [run_dir(Config(name=name)) for name in "ab"] == [tmp_path / "a", tmp_path / "b"]
    assert run_dir(Config(name="a", run_dir="/x")) == Path("/x")


def test_a_path_in_a_config_may_begin_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_dir(Config(run_dir="~/run")) == tmp_path / "run"
    (tmp_path / "mine.pt").touch()
    assert resolve("~/mine.pt") == tmp_path / "mine.pt"
    Writer(tmp_path / "empty.mcap").close()
    with pytest.raises(DeviceError, match="holds no frames"):
        ReplayDriver(ReplayOptions(file="~/empty.mcap")).check()


def test_a_daemon_is_named_once(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[gateway]\nport = 7000\n")
    for command in (["stop", "--name", "a"], ["status", "--connect", "tcp://127.0.0.1:9"]):
        done = CliRunner().invoke(cli, [*command, "--config", str(file)])
        assert (done.exit_code, f"--config or {command[1]}, not both" in done.output) == (2, True)


def test_a_config_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="no device"):
        registry.check(Config())
