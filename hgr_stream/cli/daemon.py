"""``hgr run``, ``config``, ``status``, ``stop``: the daemon and what is asked of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from ..client import request, snapshot
from ..config import (
    Config,
    ConfigError,
    default_run_dir,
    is_name,
    load,
    path_of,
    run_dir,
    shipped,
)
from ..messages import Status, decode
from ..stream.bus import BusError, read_daemon_file
from ..stream.clock import monotonic_ns
from .errors import errors_told

F = TypeVar("F", bound=Callable[..., Any])
#: Each stage is heard every second, through the supervisor; one that is not for so long may hang.
SILENT_S: Final = 5.0


def checked_name(_: click.Context, __: click.Parameter, name: str) -> str:
    """An option's name of a daemon or a device, empty if it was not given."""
    if name and not is_name(name):
        raise click.BadParameter(f"{name!r} is no name: letters and digits, with _ . - between")
    return name


# -- which daemon: commands that ask its gateway take --connect, those that ask the supervisor or
# feed frames --name; both take its config instead, which tells either.

_CONFIG: Final = f"{__name__}.config"


def _loaded(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    context.meta[_CONFIG] = None if path is None else load(path)


def _given_config(
    context: click.Context, parameter: click.Parameter, other: str | None
) -> Config | None:
    """The config that was given instead of the option ``other``, if one was."""
    config: Config | None = context.meta[_CONFIG]
    if config is not None and other:
        raise click.UsageError(f"give --config or {parameter.opts[0]}, not both: it tells that too")
    return config


def _run_dir(context: click.Context, parameter: click.Parameter, name: str) -> Path:
    config = _given_config(context, parameter, checked_name(context, parameter, name))
    return default_run_dir(name or Config().name) if config is None else run_dir(config)


def _endpoint(
    context: click.Context, parameter: click.Parameter, endpoint: str | None
) -> str | None:
    config = _given_config(context, parameter, endpoint)
    return endpoint if config is None else config.gateway.endpoint


_config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    is_eager=True,  # before the options that it stands for
    expose_value=False,
    callback=_loaded,
    help="The daemon's config, which says where it is.",
)


def daemon_option(command: F) -> F:
    """``--name`` and ``--config`` of the daemon to ask, as one argument: its run directory."""
    name = click.option(
        "--name",
        "daemon",
        default="",
        callback=_run_dir,
        help="Of the daemon, as in its config.  [default: default]",
    )
    return name(_config_option(command))


def connect_option(command: F) -> F:
    """``--connect`` and ``--config`` of the gateway, as one argument: its public socket, or None
    for the default."""
    connect = click.option(
        "--connect",
        metavar="ENDPOINT",
        default=None,
        callback=_endpoint,
        help="The gateway's public socket. [default: $HGR_ENDPOINT or tcp://127.0.0.1:6450]",
    )
    return connect(_config_option(command))


@click.command(
    epilog="""\b
Examples:
  hgr run synthetic
  hgr run leap --model my-model.pt
  hgr run my.toml --check
"""
)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--model", help="A shipped model's name or a file, instead of the config's.")
@click.option("--port", type=click.IntRange(1, 65534), help="The gateway's, instead of config's.")
@click.option("--check", is_flag=True, help="Check whether this can run here, and end.")
@click.option("--attached", is_flag=True,
              help="End with the program that started it: when standard input ends.")  # fmt: skip
def run(
    config: Path | None, model: str | None, port: int | None, check: bool, attached: bool
) -> None:
    """Run the daemon in the foreground until Ctrl-C.

    CONFIG is a TOML file, or the name of a shipped one (hgr config lists them). Without it, the
    first Leap Motion service on this machine is used.

    --check opens no device: it looks at the config, the model, each driver's options, packages
    and files, addresses used twice, and the recording's path. A line a fault, and exit code 1.
    """
    from hgr_drivers import registry

    from ..daemon.shell import set_up_logging, wait_for_end_of_stdin
    from ..daemon.supervisor import Supervisor, handle_signals
    from ..recognition.bundle import ModelError

    settings = load(config) if config else Config(devices={"leap": {"driver": "leap"}})
    if model:
        settings.model.use = model
    if port:
        settings.gateway.port = port
    registry.check(settings)
    name = config or "defaults"
    if check and (found := _faults(settings)):
        for fault in found:
            click.echo(f"Error: {name}: {fault}", err=True)
        raise SystemExit(1)
    log = set_up_logging("supervisor")
    try:
        supervisor = Supervisor(settings)
    except ModelError as error:
        raise click.ClickException(f"{name}: {error}") from None
    metadata = supervisor.metadata
    if check:
        click.echo(
            f"{name}: devices {', '.join(settings.devices)}; "
            f"model {metadata.name}, {len(metadata.labels)} gestures. All is well. "
            "Not checked: devices were not opened, nor ports."
        )
        return
    handle_signals(supervisor)
    if attached:

        def end_with_stdin() -> None:
            wait_for_end_of_stdin()
            supervisor.stop()

        threading.Thread(target=end_with_stdin, daemon=True).start()

    def ready() -> None:
        log.info(
            "up: %s; model %s (%d gestures); subscribe at %s; end with Ctrl-C",
            ", ".join(settings.devices),
            metadata.name,
            len(metadata.labels),
            supervisor.info.public,
        )

    code = supervisor.run(ready)
    log.info("stopped")
    raise SystemExit(code)


@click.command(
    "config",
    epilog="\b\nExamples:\n  hgr config\n  hgr config leap\n  hgr config leap -o my.toml\n",
)
@click.argument("name", required=False)
@click.option(
    "-o", "--output", "out", type=click.Path(path_type=Path), help="Write it there instead."
)
def config_command(name: str | None, out: Path | None) -> None:
    """Print the shipped config NAME, or without it list what there is.

    hgr run NAME runs it as it is; for other settings change a copy.
    """
    known = shipped()
    if name is None:
        for each, path in known.items():
            about = path.read_text(encoding="utf-8").split("\n#\n")[0].replace("\n#", "")
            click.echo(f"{each:10} {about.removeprefix('# ').partition(' Run it with')[0]}")
    elif name not in known:
        raise click.BadParameter(f"{name!r}: shipped are {', '.join(known)}", param_hint="NAME")
    elif out is None:
        click.echo(known[name].read_text(encoding="utf-8"), nl=False)
    elif out.exists():
        raise click.ClickException(f"{out} exists: name another file, or remove it")
    else:
        with errors_told(written=out):
            out.write_bytes(known[name].read_bytes())


def _faults(settings: Config) -> list[str]:
    """What keeps a daemon with this config from running here, each in one line with its cure."""
    from hgr_drivers import registry

    from ..daemon.recorder import check_path
    from ..daemon.supervisor import Supervisor
    from ..recognition.bundle import ModelError
    from ..recognition.bundle import load as load_model

    found = []
    try:
        Supervisor(settings)
        load_model(settings.model.use, settings.model.threads)
    except ModelError as error:
        found.append(str(error))
    found += registry.faults(settings)
    try:
        if settings.record.path:
            check_path(path_of(settings.record.path))
    except ConfigError as error:
        found.append(str(error))
    return found


@click.command(epilog="\b\nExamples:\n  hgr status\n  hgr status --json | jq .segmenter.counts\n")
@connect_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, a key a stage.")
def status(connect: str | None, as_json: bool) -> None:
    """What the running daemon's processes do, count and lose.

    Exit code 0 when every stage is up and was heard just now, 1 when one is not.
    """
    rows = [decode(Status, one.payload) for one in snapshot(connect, "status/")]
    rows.sort(key=lambda row: row.stage)
    now_ns = monotonic_ns()  # not the wall clock, which may be set
    ages_s = {row.stage: (now_ns - row.host_ns) / 1e9 for row in rows}
    bad = [
        row.stage
        for row in rows
        if row.state != "stopped" and (row.state != "up" or ages_s[row.stage] > SILENT_S)
    ]
    if as_json:
        click.echo(json.dumps({row.stage: msgspec.structs.asdict(row) for row in rows}))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table()
        table.add_column("stage", overflow="fold")  # a name that is cut is no name
        for title in ("state", "heard"):
            table.add_column(title, no_wrap=True)
        table.add_column("what it says, counts and measures")
        for row in rows:
            shown = [f"{k} {v:,}" for k, v in row.counts.items() if v]
            shown += [f"{k} {v:.4g}" for k, v in row.gauges.items()]
            age = f"{ages_s[row.stage]:.1f} s ago"
            said = "\n".join(filter(None, (row.message, ", ".join(shown))))
            style = "red" if row.stage in bad else None
            table.add_row(row.stage, row.state, age, said, style=style)
        Console(markup=False).print(table)
    if bad or not rows:
        raise SystemExit(1)


def control(daemon: Path, message: dict[str, Any], timeout_s: float) -> str:
    """Ask the supervisor of a run directory; its answer, or ClickException with what it said."""
    socket = read_daemon_file(daemon).sockets["control"]
    reply = msgspec.msgpack.decode(request(socket, message, timeout_s))
    if not reply["ok"]:
        raise click.ClickException(reply["text"])
    text: str = reply["text"]
    return text


@click.command(epilog="\b\nExamples:\n  hgr stop\n  hgr stop --config my.toml\n")
@daemon_option
def stop(daemon: Path) -> None:
    """Stop the running daemon, cleanly."""
    pid = read_daemon_file(daemon).pid
    control(daemon, {"op": "stop"}, 2.0)
    deadline_s = time.monotonic() + 5.0
    while time.monotonic() < deadline_s:
        try:
            if read_daemon_file(daemon).pid != pid:
                return
        except BusError:
            click.echo("stopped")
            return
        time.sleep(0.05)
    raise click.ClickException(f"the daemon (process {pid}) is still stopping")
