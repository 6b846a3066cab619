"""The command line. Commands import what they need when they run: `--help` and `up` must start fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from trunkline.errors import StartError

EXIT_START = 2
EXIT_INTERRUPTED = 130

RedisUrl = Annotated[str | None, typer.Option(help="Default: TRUNKLINE_REDIS_URL, else that of a running `up`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
DataDir = Annotated[Path | None, typer.Option(help="Default: TRUNKLINE_DATA_DIR, else .trunkline.")]
Host = Annotated[str | None, typer.Option(help="Default: TRUNKLINE_HOST, else 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Default: TRUNKLINE_PORT, else 8000; 0 takes any.")]


def application() -> typer.Typer:
    app = typer.Typer(
        help="The log under a customer-conversation platform.", no_args_is_help=True, add_completion=False
    )
    app.command()(up)
    app.command()(edge)
    app.command()(worker)
    app.command()(tail)
    org = typer.Typer(help="Organizations.", no_args_is_help=True)
    org.command("create")(org_create)
    number = typer.Typer(help="Telephone numbers that lead to an organization.", no_args_is_help=True)
    number.command("add")(org_number_add)
    org.add_typer(number, name="number")
    app.add_typer(org, name="org")
    key = typer.Typer(help="API keys.", no_args_is_help=True)
    key.command("create")(key_create)
    key.command("revoke")(key_revoke)
    app.add_typer(key, name="key")
    return app


def main() -> None:
    try:
        application()()
    except StartError as error:
        print(f"trunkline: {error}", file=sys.stderr)
        sys.exit(EXIT_START)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def up(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Start everything on this machine: Redis, an edge, a worker."""
    from trunkline.up import UpOptions, run_up

    raise typer.Exit(run_up(UpOptions(host, port, data_dir, as_json)))


def edge(
    redis_url: RedisUrl = None,
    host: Host = None,
    port: Port = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the port.")] = 1,
) -> None:
    """Serve the API and its streams."""
    from trunkline.edge import EdgeOptions, run_edge

    raise typer.Exit(run_edge(EdgeOptions(redis_url, host, port, processes)))


def worker(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve /metrics and /health/* here.")
    ] = None,
    shards: Annotated[str | None, typer.Option(metavar="A-B", help="Serve only these shards of 0-63.")] = None,
) -> None:
    """Do the work that events ask for."""
    from trunkline.worker import WorkerOptions, run_worker

    raise typer.Exit(run_worker(WorkerOptions(redis_url, data_dir, metrics_port, _shards(shards))))


def tail(
    organization: Annotated[str, typer.Argument(metavar="ORG")],
    redis_url: RedisUrl = None,
    after: Annotated[str, typer.Option(help="A position, 0 or now.")] = "now",
    as_json: AsJson = False,
) -> None:
    """Show an organization's events as they happen."""
    from trunkline.tail import TailOptions, run_tail

    raise typer.Exit(run_tail(TailOptions(organization, redis_url, after, as_json)))


def org_create(name: str, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Create an organization; its id is made from its name."""
    from trunkline import admin

    raise typer.Exit(admin.create_organization(redis_url, name, as_json=as_json))


def org_number_add(
    organization: Annotated[str, typer.Argument(metavar="ORG")],
    number: Annotated[str, typer.Argument(metavar="+1555…")],
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Lead calls and messages to a number to an organization."""
    from trunkline import admin

    raise typer.Exit(admin.add_number(redis_url, organization, number, as_json=as_json))


def key_create(
    organization: Annotated[str, typer.Argument(metavar="ORG")],
    scope: Annotated[list[str] | None, typer.Option(help="Repeat for several; default: all.")] = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key. It is shown now and never again."""
    from trunkline import admin

    raise typer.Exit(admin.create_key(redis_url, organization, scope or [], as_json=as_json))


def key_revoke(
    organization: Annotated[str, typer.Argument(metavar="ORG")],
    key: Annotated[str, typer.Argument(help="The key or its id.")],
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a key. Its open streams end within seconds."""
    from trunkline import admin

    raise typer.Exit(admin.revoke_key(redis_url, organization, key, as_json=as_json))


def _shards(text: str | None) -> range | None:
    if text is None:
        return None
    from eventstore.keys import SHARDS

    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < SHARDS):
        raise StartError(f"--shards is {text!r}: expected A-B with 0 <= A <= B < {SHARDS}")
    return range(int(first), int(last) + 1)
