"""`trunkline up` as a command: what it prints, refuses, keeps and leaves behind."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tests.support.product import Command, Up, environment, free_port, post_sms, twilio_sms, wait_until_serving
from trunkline.cli import application

METRICS_PORT = free_port()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """As on a server, where it is reached from outside and observed."""
    env = {"TRUNKLINE_PUBLIC_BASE_URL": "https://acme.example"}
    up = Up(tmp_path_factory.mktemp("deployed") / "data", "--metrics-port", str(METRICS_PORT), env=env)
    yield up
    assert up.stop() == 0, up.stderr


def test_one_line_of_json_says_what_is_needed(product: Up) -> None:
    """Its end is that of the fixture: clean, and without another line."""
    assert set(product.facts) == {"url", "organization", "api_key", "console", "redis_url"}
    assert httpx.get(f"{product.url}/api/health").json()["status"] == "ok"


def test_the_same_directory_gives_the_same_organization_key_and_data(data_dir: Path) -> None:
    first = Up(data_dir)
    made = httpx.post(f"{first.url}/v1/events", json={"events": [{"type": "custom.kept", "data": {"x": 1}}]})
    assert first.stop() == 0, first.stderr
    second = Up(data_dir, env={"DEFAULT_ORGANIZATION_NAME": "Bici"})
    try:
        assert httpx.get(f"{second.url}/api/ai/get_location").json()["data"]["name"] == "Bici"
        page = httpx.get(f"{second.url}/v1/events?types=custom.kept").json()
        assert [event["id"] for event in page["events"]] == made.json()["positions"]
        assert (second.facts["organization"], second.facts["api_key"]) == (
            first.facts["organization"],
            first.facts["api_key"],
        )
    finally:
        assert second.stop() == 0, second.stderr


@pytest.mark.parametrize(
    ("unreadable", "name"),
    [
        (b"GET /?ticket=tl_secret HTTP/9.9\r\nX-Tenant-API-Key: tl_secret\x01\r\n\r\n", "BadStatusLine"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"tl_secret" * 1_000), "LineTooLong"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: tl_secret\r\n\r\n", "BadHttpMessage"),
    ],
)
def test_what_cannot_be_read_of_a_request_is_a_warning_that_does_not_quote_it(
    product: Up, unreadable: bytes, name: str
) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(product.url).port or 0)) as connection:
        connection.sendall(unreadable)
        assert connection.recv(4096).startswith(b"HTTP/1.0 400 ")
    told = [json.loads(line) for line in product.stderr.splitlines() if f"could not be read: {name}" in line]
    assert [line["level"] for line in told] == ["warning"]
    assert "tl_secret" not in product.stderr


def test_a_second_up_on_the_directory_is_refused_in_one_line(product: Up) -> None:
    second = Command("up", "--json", "--port", "0", "--data-dir", str(product.data_dir))
    assert second.wait() == 2
    assert second.stdout == ""
    assert len(second.stderr.strip().splitlines()) == 1


def test_a_busy_port_is_refused_in_one_line(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        up = Command("up", "--port", str(taken.getsockname()[1]), "--data-dir", str(data_dir))
        assert up.wait() == 2
    assert len(up.stderr.strip().splitlines()) == 1


def test_an_unreachable_redis_is_refused_in_one_line(data_dir: Path) -> None:
    env = {"TRUNKLINE_REDIS_URL": "redis://:hidden@127.0.0.1:1/0"}
    up = Command("up", "--port", "0", "--data-dir", str(data_dir), env=env)
    assert up.wait() == 2
    assert len(up.stderr.strip().splitlines()) == 1
    assert "hidden" not in up.stderr


def test_replicas_are_wanted_of_a_redis_that_has_them(data_dir: Path) -> None:
    command = Command("up", "--data-dir", str(data_dir), env={"TRUNKLINE_DURABILITY": "replica"})
    assert command.wait() == 2
    assert "TRUNKLINE_REDIS_URL" in command.stderr
    assert command.stderr.count("\n") == 1


def test_the_workers_metrics_are_shown_on_a_port_of_their_own(deployed: Up) -> None:
    """What waits for a person is counted by workers: edges do not show it."""
    key = {"X-Tenant-API-Key": deployed.facts["api_key"]}
    httpx.post(f"{deployed.url}/api/ai/get_location", headers=key).raise_for_status()
    shown = httpx.get(f"http://127.0.0.1:{METRICS_PORT}/metrics").text
    assert 'trunkline_work_items_total{handler="tool.requested",outcome="done"} 1.0' in shown
    assert "trunkline_parked_lanes 0.0" in shown
    assert "trunkline_parked" not in httpx.get(f"{deployed.url}/metrics").text


def test_nothing_is_left_running_when_up_is_killed(data_dir: Path) -> None:
    up = Up(data_dir)
    children = Path(f"/proc/{up.process.pid}/task/{up.process.pid}/children").read_text().split()
    assert len(children) == 2
    up.kill()
    again = Up(data_dir)  # waits for, or ends, what the first one left
    try:
        assert not [pid for pid in children if _runs(pid)]
    finally:
        assert again.stop() == 0, again.stderr


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_edge_is_a_command_of_its_own_and_asks_for_keys(product: Up) -> None:
    port = free_port()
    edge = Command(
        "edge", "--port", str(port), "--processes", "2", env={"TRUNKLINE_REDIS_URL": product.facts["redis_url"]}
    )
    try:
        wait_until_serving(f"http://127.0.0.1:{port}")
        key = {"X-Tenant-API-Key": product.facts["api_key"]}
        assert httpx.get(f"http://127.0.0.1:{port}/v1/events", headers=key).status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/v1/events").status_code == 401
    finally:
        assert edge.stop() == 0, edge.stderr


def test_the_tail_command_prints_what_happens(product: Up) -> None:
    tail = Command("tail", "demo", "--json", "--after", "0", "--redis-url", product.facts["redis_url"])
    try:
        httpx.post(f"{product.url}/v1/events", json={"events": [{"type": "custom.seen"}]}).raise_for_status()
        types = []
        while "custom.seen" not in types:
            types.append(json.loads(tail.line())["type"])
    finally:
        tail.stop()


Said = Callable[..., dict[str, Any]]


@pytest.fixture
def said(product: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """What a command prints with --json. It runs in this process: its work is the same, and a start costs a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trunkline.logging.configure", lambda: None)  # for good, and to what is stderr just now
    for name in os.environ.keys() - environment({}).keys():
        monkeypatch.delenv(name)

    def run(*arguments: str) -> dict[str, Any]:
        options = ("--json", "--redis-url", product.facts["redis_url"])
        result = CliRunner().invoke(application(), [*arguments, *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        facts: dict[str, Any] = json.loads(result.stdout)
        return facts

    return run


def test_organizations_and_keys_are_made_and_revoked_by_command(product: Up, said: Said) -> None:
    assert said("org", "create", "Acme Bikes")["organization"] == "acme-bikes"
    assert said("org", "number", "add", "acme-bikes", "+15550100199")
    key = said("key", "create", "acme-bikes", "--scope", "events:read")["api_key"]
    header = {"X-Tenant-API-Key": key}
    assert httpx.get(f"{product.url}/v1/events", headers=header).json() == {"events": []}
    forbidden = httpx.post(f"{product.url}/v1/events", json={"events": [{"type": "custom.x"}]}, headers=header)
    assert forbidden.status_code == 403
    revoked = Command("key", "revoke", "acme-bikes", key, "--redis-url", product.facts["redis_url"])
    assert revoked.wait() == 0, revoked.stderr
    deadline = time.monotonic() + 5
    while httpx.get(f"{product.url}/v1/events", headers=header).status_code != 401:
        assert time.monotonic() < deadline


def test_an_organization_is_given_its_own_access_to_vendors_by_command(product: Up, said: Said) -> None:
    """In development the secret key is made by `up`, and found through the store: nothing has to be configured."""
    created = said("org", "create", "Acme")
    assert created["callback_secret"].startswith("whsec_")
    own = ("TWILIO_AUTH_TOKEN=of-acme", "TWILIO_PHONE_NUMBER=(415) 555-0155", "OPENAI_API_KEY=sk-1")
    assert said("org", "set", "acme", *own)["forgotten"] == []
    assert said("org", "set", "acme", "OPENAI_API_KEY=")["forgotten"] == ["OPENAI_API_KEY"]
    webhook = said("webhook", "add", "acme", "shop")
    shown = said("org", "show", "acme")
    assert shown["settings"] == {"TWILIO_AUTH_TOKEN": "set", "TWILIO_PHONE_NUMBER": "+14155550155"}
    assert shown["numbers"] == ["+14155550155"]
    assert shown["webhooks"] == {"shop": webhook["path"]}
    form = twilio_sms("hello", sid="SM1", to="+14155550155")
    assert post_sms(product.url, form, token="of-acme").status_code == 200
    assert post_sms(product.url, {**form, "MessageSid": "SM2"}, token="of-demo").status_code == 401
    assert said("webhook", "remove", "acme", "shop") == {
        "organization": "acme", "removed": "shop",
    }  # fmt: skip
    assert (product.data_dir / "secret_key").stat().st_mode & 0o777 == 0o600


def test_without_a_secret_key_nothing_is_entrusted_to_the_store(deployed: Up) -> None:
    refused = Command("org", "set", "demo", "OPENAI_API_KEY=sk-1", "--redis-url", deployed.facts["redis_url"])
    assert refused.wait() == 2
    assert "TRUNKLINE_SECRET_KEY" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
