"""The configuration: one TOML file, typed; unknown keys and wrong types are refused by name.

Every table below is a struct whose fields are the keys, with their units in the names and their
defaults beside them; ``configs/`` holds a commented file for each device, which goes by its name,
too (``shipped``). A device's own options are checked by its driver (``hgr_drivers.registry``),
since only the driver knows them.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

DEFAULT_PORT: Final = 6450
DEFAULT_ENDPOINT: Final = f"tcp://127.0.0.1:{DEFAULT_PORT}"
#: Addresses that only this machine reaches, as a regular expression.
LOOPBACK: Final = r"127\.\d{1,3}\.\d{1,3}\.\d{1,3}"
T = TypeVar("T")

_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

ENDPOINT_VARIABLE: Final = "HGR_ENDPOINT"
RUN_DIR_VARIABLE: Final = "HGR_RUN_DIR"

Positive = Annotated[float, Meta(gt=0, le=86_400)]  # TOML knows inf, and no clock does
Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0, le=86_400)]
#: A string's pattern -> what it wants, in words: msgspec's errors would show the pattern.
_WORDS: Final[dict[str, str]] = {}


def worded(pattern: str, words: str) -> Meta:
    """A pattern for a string, and what is wanted in words, for whoever has written another."""
    _WORDS[pattern] = words
    return Meta(pattern=pattern)


_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z"
#: What a daemon or a device is called: it becomes a directory, and a word of topics.
Name = Annotated[
    str,
    worded(
        _NAME,
        "a name of letters, digits and _.- that begins with a letter or a digit, at most 64 long",
    ),
]


class ConfigError(ValueError):
    """The configuration is wrong; the text names file, key and fault in one line."""


class _Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: unknown keys are refused."""


class Segmentation(_Table):
    """How hand frames become windows (rate, size and hop come from the model)."""

    max_gap_s: Positive = 0.6  #: longer without the hand: its track ends; shorter: interpolated
    max_jump_m: Positive = 0.6  #: a palm that jumps farther in one frame is a glitch
    max_age_s: Positive = 1.0  #: live frames older than this on arrival are dropped, and counted
    max_hands: Annotated[int, Meta(ge=1, le=256)] = 64


class Model(_Table):
    """Which model runs: the name of a shipped one, or the path of a file."""

    use: str = "leap"
    threads: Annotated[int, Meta(ge=1, le=64)] = 1


class Recognition(_Table):
    """What of the model's gestures is told, and when. Gestures by the model's own names."""

    allow: list[str] = []  #: only these are told; empty: all
    ignore: list[str] = []  #: these are never told
    threshold: dict[str, Share] = {}  #: gesture -> least confidence; "*" is every other gesture
    early: bool = True  #: tell a label as soon as it is sure, before the gesture's end
    refractory_s: NotNegative | None = None  #: quiet after a gesture; None: as the model says
    idle: Share | None = None  #: idle is when all gestures together are less likely; None: model

    def __post_init__(self) -> None:
        if both := sorted(set(self.allow) & set(self.ignore)):
            raise ValueError(f"{both[0]!r} is in allow and in ignore")


class Gateway(_Table):
    """The public socket that applications subscribe to. Its port + 1 answers requests."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65534)] = DEFAULT_PORT
    #: Messages kept for a slow subscriber, then dropped.
    queue: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 4096

    def __post_init__(self) -> None:
        # The public socket is not encrypted: it must not be reachable from another machine.
        if not re.fullmatch(LOOPBACK, self.host):
            raise ValueError(
                f"host {self.host!r} is not on loopback; the socket is not encrypted, "
                "so only 127.0.0.1 and its like are allowed. From another machine: "
                f"ssh -L {self.port}:127.0.0.1:{self.port} "
                f"-L {self.port + 1}:127.0.0.1:{self.port + 1} THIS_MACHINE"
            )

    @property
    def endpoint(self) -> str:
        """Where subscribers connect to."""
        return f"tcp://{self.host}:{self.port}"


class Supervisor(_Table):
    """When a process counts as dead, and how often it may be started again."""

    heartbeat_timeout_s: Positive = 5.0
    start_timeout_s: Positive = 60.0
    backoff_s: Positive = 0.5  #: doubled at each restart, up to backoff_max_s
    backoff_max_s: Positive = 30.0
    max_restarts: Annotated[int, Meta(ge=0)] = 10  #: within window_s; then it gives up, and says so
    window_s: Positive = 300.0
    retry_s: Positive = 600.0  #: one that was given up for its falls is tried once more, each time


class Record(_Table):
    """Record all topics from the start of the daemon, a file an hour; an empty path: do not."""

    path: str = ""


class Config(_Table):
    """The whole file. ``devices`` maps a device's name on the stream to its table."""

    name: Name = "default"  #: of this daemon; daemons of different names run side by side
    devices: dict[Name, dict[str, Any]] = {}
    segmentation: Segmentation = msgspec.field(default_factory=Segmentation)
    model: Model = msgspec.field(default_factory=Model)
    recognition: Recognition = msgspec.field(default_factory=Recognition)
    gateway: Gateway = msgspec.field(default_factory=Gateway)
    supervisor: Supervisor = msgspec.field(default_factory=Supervisor)
    record: Record = msgspec.field(default_factory=Record)
    run_dir: str = ""  #: where the private sockets live; empty: see ``default_run_dir``


def is_name(text: str) -> bool:
    """Whether a daemon or a device may be called so (``Name``)."""
    return re.match(_NAME, text) is not None


def parse(text: str, source: str = "config") -> Config:
    """TOML text -> Config; raises ConfigError naming the key and the fault."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"line (\d+)", str(error))
        line = text.split("\n")[int(place[1]) - 1] if place else ""
        cure = "; a path with \\ stands in '...', or is written with /" if "\\" in line else ""
        raise ConfigError(f"{source}: not valid TOML: {error}{cure}") from None
    return convert(data, Config, source)


def convert(data: object, kind: type[T], source: str) -> T:
    """Plain data -> a checked struct; raises ConfigError with the key's path in the file."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        text = str(error).replace("Object contains unknown field", "unknown key")
        for pattern, words in _WORDS.items():
            text = text.replace(f"`str` matching regex {pattern!r}", words)
        text = _item_named(text, str(error), data, kind)
        raise ConfigError(f"{source}: {text.replace('`$', '`')}") from None


def _item_named(text: str, error: str, data: Any, kind: type[T]) -> str:
    """``text`` with the key of the item that it is about: of a table without fixed keys, msgspec
    tells only that one of its items is wrong. Each is tried alone."""
    place = re.search(r"`key` in `\$([\w.]*)`|\$([\w.]*)\[\.\.\.\]", text)
    if place is None:
        return text
    path = (place[1] or place[2] or "").split(".")[1:]
    table = data
    for name in path:
        table = table[name]
    for key in table:
        try:
            msgspec.convert(_alone(data, path, key), kind)
        except msgspec.ValidationError as alone:
            if str(alone) == error:
                return text.replace("`key` in", f"the key {key!r} in").replace("[...]", f".{key}")
    return text


def _alone(data: dict[str, Any], path: list[str], key: str) -> dict[str, Any]:
    """``data`` with ``key`` as the only one in the table at ``path``."""
    if not path:
        return {key: data[key]}
    return {**data, path[0]: _alone(data[path[0]], path[1:], key)}


def shipped() -> dict[str, Path]:
    """The shipped configs, name -> file: in an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside, beside = package / "configs", package.parent / "configs"
    folder = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(path: Path) -> Config:
    """Read and check a TOML file, or the shipped one of that name ("leap"); raises ConfigError."""
    found = path if path.is_file() else shipped().get(str(path), path)
    try:
        data = found.read_bytes()
        # Windows: its editors mark UTF-8, and "hgr config leap > my.toml" is UTF-16 in PowerShell.
        text = data.decode("utf-16" if data[:2] in _UTF_16 else "utf-8-sig")
    except FileNotFoundError:
        known = path.stem in shipped()
        cure = (
            f"the shipped one is called {path.stem}" if known else "hgr config lists those shipped"
        )
        raise ConfigError(f"{path}: no such file; {cure}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder; name the config file in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def default_run_dir(name: str = "default") -> Path:
    """The private directory of a daemon's sockets, one for each name: in $HGR_RUN_DIR, in the
    user's runtime directory, or in one under the temporary directory that is this user's."""
    if given := os.environ.get(RUN_DIR_VARIABLE):
        return Path(given) / name
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "hgr-stream" / name
    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"hgr-stream-{user}" / name


def run_dir(config: Config) -> Path:
    """Where this daemon's private sockets live."""
    return path_of(config.run_dir) if config.run_dir else default_run_dir(config.name)


def path_of(text: str) -> Path:
    """A path as a config has it: "~" is the home directory, which no shell has put there."""
    return Path(os.path.expanduser(text))


def default_endpoint() -> str:
    """The public socket that clients connect to: $HGR_ENDPOINT or loopback's default port."""
    return os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT  # an empty one is none


def has_ipc() -> bool:
    """Whether ZeroMQ's ipc transport is there (not on Windows)."""
    return sys.platform != "win32"
