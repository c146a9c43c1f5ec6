"""``hgr run --check``: what keeps a config from running here is told before it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.models import save_palm_model

SYNTHETIC = '[devices.hand]\ndriver = "synthetic"\n'


def check(config: Path, *absent: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which finds no module of the names in ``absent``."""
    code = f"""
import sys
for name in {absent!r}:
    sys.modules[name] = None
from hgr_stream.cli import main
sys.argv = ["hgr", "run", {str(config)!r}, "--check"]
main()
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_palm_model(tmp_path_factory.mktemp("model") / "palm.pt")


def faults(tmp_path: Path, model: Path, config: str, *absent: str) -> list[str]:
    path = tmp_path / "x.toml"
    path.write_text(f'{config}[model]\nuse = "{model}"\n')
    done = check(path, *absent)
    assert done.returncode == 1, done.stdout
    assert "All is well" not in done.stdout
    return done.stderr.splitlines()


def test_what_can_run_is_well_and_what_was_not_looked_at_is_told() -> None:
    done = check(ROOT / "configs" / "synthetic.toml")
    assert done.returncode == 0, done.stderr
    assert "All is well. Not checked: devices were not opened" in done.stdout


@pytest.mark.parametrize(
    ("config", "absent", "fault", "cure"),
    [
        (SYNTHETIC, "torch", "palm.pt needs torch to run", "pip install \"hgr-stream[inference]\""),
        (
            '[devices.cam]\ndriver = "camera"\n', "mediapipe",
            "[devices.cam]: needs mediapipe", "pip install \"hgr-stream[camera]\"",
        ),
        (SYNTHETIC + 'gestures = ["LEFFT"]\n', "", "unknown gesture 'LEFFT'", "choose from"),
        ('[devices.r]\ndriver = "replay"\nfile = "nix.mcap"\n', "", "nix.mcap: no", "hgr info"),
        ('[devices.c]\ndriver = "camera"\nfile = "nix.mp4"\n', "", "nix.mp4: no such", "set file"),
        ('[devices.l]\ndriver = "leap"\nurl = "here:6437"\n', "", "bad url", "must look like"),
        ('[devices.l]\ndriver = "leap"\nurl = "ws://x:99999"\n', "", "bad url: Port", "must look"),
        ('[devices.v]\ndriver = "vmc"\nsenders = ["me"]\n', "", "senders: 'me'", "write addresses"),
        ('[devices.m]\ndriver = "manus"\nfingers = []\n', "", "finger", "write fingers ="),
        (
            SYNTHETIC + '[record]\npath = "{tmp}/x.toml/y.mcap"\n', "",
            "[record] path '{tmp}/x.toml/y.mcap' cannot be written: Not a directory", "set it to a",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_its_cure(
    tmp_path: Path, model: Path, config: str, absent: str, fault: str, cure: str
) -> None:
    config, fault = (text.replace("{tmp}", str(tmp_path)) for text in (config, fault))
    told = faults(tmp_path, model, config, *filter(None, [absent]))
    assert len(told) == 1
    assert told[0].startswith(f"Error: {tmp_path / 'x.toml'}: ")
    assert fault in told[0]
    assert cure in told[0]


@pytest.mark.parametrize(
    ("one", "other", "address"),
    [
        ('driver = "program"', 'driver = "program"', "tcp://127.0.0.1:6460"),
        ('driver = "program"', 'driver = "headset"\nhost = "0.0.0.0"\nport = 6460', "0.0.0.0:6460"),
        ('driver = "vmc"\nport = 9000', 'driver = "quest"', "udp://127.0.0.1:9000"),
        ('driver = "synthetic"', 'driver = "program"\nendpoint = "tcp://127.0.0.1:6451"', "6451"),
    ],
)
def test_an_address_that_is_used_twice_is_told(
    tmp_path: Path, model: Path, one: str, other: str, address: str
) -> None:
    [told] = faults(tmp_path, model, f"[devices.a]\n{one}\n[devices.b]\n{other}\n")
    assert "[devices.b]: " in told
    assert address in told
    assert "is taken by [" in told


def test_every_fault_is_told(tmp_path: Path, model: Path) -> None:
    config = SYNTHETIC + 'gestures = ["A"]\n[devices.r]\ndriver = "replay"\nfile = "nix.mcap"\n'
    told = faults(tmp_path, model, config, "torch")
    assert len(told) == 3
