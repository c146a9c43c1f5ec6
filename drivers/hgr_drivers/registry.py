"""Which drivers there are: those shipped here, and any in the entry-point group below.

A driver package of somebody else's needs this in its ``pyproject.toml``, and nothing else:

    [project.entry-points."hgr_stream.drivers"]
    mydevice = "mypackage.module:MyDriver"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hgr_stream.config import Config, ConfigError, convert

from .base import Driver, Options

GROUP = "hgr_stream.drivers"


def available() -> dict[str, EntryPoint]:
    """Driver names and where they live; nothing is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load(name: str) -> type[Driver]:
    """The driver class of a name; raises ConfigError naming those there are."""
    point = available().get(name)
    if point is None:
        known = ", ".join(sorted(available())) or "none (is hgr-stream installed?)"
        raise ConfigError(f"there is no driver {name!r}; known: {known}")
    driver = point.load()
    if not (isinstance(driver, type) and issubclass(driver, Driver)):
        raise ConfigError(f"driver {name!r} ({point.value}) is no hgr_drivers.base.Driver")
    return driver


def configured(device: str, table: dict[str, Any]) -> tuple[type[Driver], Options]:
    """A device's config table -> its driver class and checked options; raises ConfigError."""
    where = f"[devices.{device}]"
    options = dict(table)
    name = options.pop("driver", None)
    if not isinstance(name, str):
        raise ConfigError(f'{where}: needs a line like driver = "leap"')
    try:
        driver = load(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return driver, convert(options, driver.Options, where)


def check(config: Config) -> None:
    """Raise ConfigError for the first device whose table its driver refuses."""
    if not config.devices:
        raise ConfigError("no device is configured: add a table like [devices.leap]")
    for device, table in config.devices.items():
        configured(device, table)
