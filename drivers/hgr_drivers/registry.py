"""Which drivers there are: those shipped here, and any in the entry-point group below.

A driver package of somebody else's needs this in its ``pyproject.toml``, and nothing else:

    [project.entry-points."hgr_stream.drivers"]
    mydevice = "mypackage.module:MyDriver"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any
from urllib.parse import urlsplit

from hgr_stream.config import Config, ConfigError, convert

from .base import DeviceError, Driver, Options

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


def faults(config: Config) -> list[str]:
    """What keeps the devices of a checked config from running on this machine, each in one line
    with its cure, as far as it shows with no device opened and no socket bound."""
    found = []
    gateway = config.gateway
    taken = {
        f"tcp://{gateway.host}:{port}": "[gateway] port"
        for port in (gateway.port, gateway.port + 1)
    }
    for device, table in config.devices.items():
        where = f"[devices.{device}]"
        kind, options = configured(device, table)
        if missing := kind.missing():
            found.append(f"{where}: {missing}")
            continue
        try:
            driver = kind(options)
            driver.check()
        except DeviceError as error:
            found.append(f"{where}: {error.told()}")
            continue
        if address := driver.listens_at():
            others = [who for other, who in taken.items() if _same(address, other)]
            if others:
                found.append(f"{where}: {address} is taken by {others[0]}; set another for one")
            taken.setdefault(address, where)
    return found


def _same(a: str, b: str) -> bool:
    """Whether two addresses cannot both be bound."""
    if a == b:
        return True
    one, other = urlsplit(a), urlsplit(b)
    every = {"0.0.0.0", "::"}
    return (
        one.scheme == other.scheme != "ipc"
        and one.netloc.rpartition(":")[2] == other.netloc.rpartition(":")[2]
        and bool({one.hostname, other.hostname} & every)
    )
