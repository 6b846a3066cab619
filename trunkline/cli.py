"""The command line. Commands import what they need when they run: `--help` and `up` must start fast."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from trunkline.errors import StartError

EXIT_START = 2
EXIT_INTERRUPTED = 130

RedisUrl = Annotated[str | None, typer.Option(help="Default: TRUNKLINE_REDIS_URL, else that of a running `up`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")]
DataDir = Annotated[Path | None, typer.Option(help="Default: TRUNKLINE_DATA_DIR, else .trunkline.")]
Org = Annotated[str, typer.Argument(metavar="ORG")]
Lane = Annotated[str, typer.Argument(metavar="LANE", help="As `trunkline park` lists it.")]
Host = Annotated[str | None, typer.Option(help="Default: TRUNKLINE_HOST, else 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Default: TRUNKLINE_PORT, else 8000; 0 takes any.")]


def application() -> typer.Typer:
    app = typer.Typer(
        help="The log under a customer-conversation platform.", no_args_is_help=True, add_completion=False
    )
    for command in (up, edge, worker, tail, doctor, park, redrive, drop):
        app.command()(command)
    org = typer.Typer(help="Organizations.", no_args_is_help=True)
    org.command("create")(org_create)
    org.command("list")(org_list)
    org.command("show")(org_show)
    org.command("set")(org_set)
    org.command("callback-secret")(org_callback_secret)
    number = typer.Typer(help="Telephone numbers that lead to an organization.", no_args_is_help=True)
    number.command("add")(org_number_add)
    org.add_typer(number, name="number")
    app.add_typer(org, name="org")
    key = typer.Typer(help="API keys.", no_args_is_help=True)
    key.command("create")(key_create)
    key.command("revoke")(key_revoke)
    app.add_typer(key, name="key")
    webhook = typer.Typer(help="Paths that other systems post to.", no_args_is_help=True)
    webhook.command("add")(webhook_add)
    webhook.command("list")(webhook_list)
    webhook.command("remove")(webhook_remove)
    app.add_typer(webhook, name="webhook")
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
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve the worker's /metrics and /health/* here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start everything on this machine: Redis, an edge, a worker."""
    from trunkline.up import run_up

    raise typer.Exit(run_up(host, port, data_dir, as_json=as_json, metrics_port=metrics_port))


def edge(
    redis_url: RedisUrl = None,
    host: Host = None,
    port: Port = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes that share the port.")] = 1,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve /metrics and /health/* here, the next process on the next port."),
    ] = None,
) -> None:
    """Serve the API and its streams.

    Another edge of the same user on this port is joined without a word (SO_REUSEPORT), whichever Redis it has.
    """
    from trunkline.edge import run_edge

    raise typer.Exit(run_edge(redis_url, host, port, processes, metrics_port))


def worker(
    redis_url: RedisUrl = None,
    data_dir: DataDir = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve /metrics and /health/* here.")
    ] = None,
    shards: Annotated[str | None, typer.Option(metavar="A-B", help="Serve only these shards of 0-63.")] = None,
    callback_allow: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Do the work that events ask for."""
    from trunkline.worker import run_worker

    raise typer.Exit(run_worker(redis_url, data_dir, metrics_port, _shards(shards), callback_allow))


def tail(
    organization: Org,
    redis_url: RedisUrl = None,
    after: Annotated[str, typer.Option(help="A position, 0 or now.")] = "now",
    as_json: AsJson = False,
) -> None:
    """Show an organization's events as they happen."""
    from trunkline.tail import run_tail

    raise typer.Exit(run_tail(organization, redis_url, after, as_json=as_json))


def doctor(
    organization: Annotated[str | None, typer.Argument(metavar="[ORG]", help="Default: the default one.")] = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show what is configured, reachable and missing; exit code 1 if something does not work."""
    from trunkline.doctor import run_doctor

    raise typer.Exit(run_doctor(redis_url, organization, as_json=as_json))


def park(
    organization: Org,
    lane: Annotated[str | None, typer.Argument(metavar="[LANE]", help="Show one and what waits behind it.")] = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show work that could not be done and waits for a person."""
    from trunkline import parked

    work = partial(parked.inspect, lane=lane) if lane is not None else parked.list_lanes
    raise typer.Exit(parked.run_parked(redis_url, organization, work, as_json=as_json))


def redrive(organization: Org, lane: Lane, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Set a parked lane going again, from the item at which it stopped."""
    from trunkline import parked

    decision = partial(parked.decide, lane=lane, decision="redrive")
    raise typer.Exit(parked.run_parked(redis_url, organization, decision, as_json=as_json))


def drop(organization: Org, lane: Lane, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Give up the item at which a lane is parked: its run ends, and the lane goes on with the next one."""
    from trunkline import parked

    decision = partial(parked.decide, lane=lane, decision="drop")
    raise typer.Exit(parked.run_parked(redis_url, organization, decision, as_json=as_json))


def org_create(name: str, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Create an organization; its id is made from its name. The secret of its callbacks is shown now only."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.create_organization, name))


def org_list(redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """List organizations."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.list_organizations))


def org_show(organization: Org, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Show what an organization has, without secrets."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.show_organization, organization))


def org_set(
    organization: Org,
    pairs: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="KEY= forgets.")],
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give an organization its own access to vendors: TWILIO_AUTH_TOKEN and the like, encrypted at rest."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.change_settings, organization, pairs))


def org_callback_secret(organization: Org, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Replace the secret that callbacks are signed with. It is shown now only."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.replace_callback_secret, organization))


def org_number_add(
    organization: Org,
    number: Annotated[str, typer.Argument(metavar="+1555…")],
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Lead calls and messages to a number to an organization."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.add_number, organization, number))


def key_create(
    organization: Org,
    scope: Annotated[list[str] | None, typer.Option(help="Repeat for several; default: all.")] = None,
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key. It is shown now and never again."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.create_key, organization, scope or []))


def key_revoke(
    organization: Org,
    key: Annotated[str, typer.Argument(help="The key or its id.")],
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a key. Its open streams end within seconds."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.revoke_key, organization, key))


def webhook_add(organization: Org, name: str, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Make a path that a producer can post to, signed by Standard Webhooks. The secret is shown now only."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.add_webhook, organization, name))


def webhook_list(organization: Org, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """List an organization's webhooks."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.list_webhooks, organization))


def webhook_remove(organization: Org, name: str, redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """Remove a webhook: its path answers 404 from now on."""
    from trunkline import admin

    raise typer.Exit(admin.show(redis_url, as_json, admin.remove_webhook, organization, name))


def _shards(text: str | None) -> range | None:
    if text is None:
        return None
    from eventstore.keys import SHARDS

    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < SHARDS):
        raise StartError(f"--shards is {text!r}: expected A-B with 0 <= A <= B < {SHARDS}")
    return range(int(first), int(last) + 1)
