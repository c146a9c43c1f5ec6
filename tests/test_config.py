"""The configuration is refused by name, and every file that we ship is right."""

from __future__ import annotations

import pytest
from hgr_drivers import registry

from hgr_stream.config import Config, ConfigError, load, parse
from tests.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_shipped_configs_are_right(path) -> None:
    config = load(path)
    registry.check(config)
    assert config.devices


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[gateway]\nprot = 1", "unknown key `prot`"),
        ("[gatway]\nport = 1", "unknown key `gatway`"),
        ('[gateway]\nport = "6450"', "port"),
        ("[gateway]\nport = 70000", "port"),
        ('[gateway]\nhost = "0.0.0.0"', "not on loopback"),
        ('[gateway]\nhost = "192.168.1.5"', "not on loopback"),
        ("[recognition]\nthreshold = { V = 2.0 }", "threshold"),
        ("[segmentation]\nmax_gap_s = 0", "max_gap_s"),
        ("[segmentation]\nmax_gap_s = nan", "max_gap_s"),
        ('name = "a/b"', "name"),
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


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({}, 'driver = "leap"'),
        ({"driver": "leep"}, "'leep'; known: azure"),
        ({"driver": "leap", "urll": "x"}, "unknown key `urll`"),
        ({"driver": "synthetic", "fps": "fast"}, "fps"),
    ],
)
def test_a_device_table_is_checked_by_its_driver(table: dict, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.check(Config(devices={"mine": table}))
    assert "[devices.mine]" in str(caught.value)
    assert fault in str(caught.value)


def test_a_config_that_is_not_there(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="no device"):
        registry.check(Config())
