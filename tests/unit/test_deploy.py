"""What is shipped besides the code fits it: image, compose file, nginx, Prometheus' rules, Grafana's dashboard."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import AliasChoices

from edges.webhooks.elevenlabs import MAX_AUDIO_BYTES
from trunkline.cli import application
from trunkline.docs import labels_of, metrics
from trunkline.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
Service = dict[str, Any]

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Service] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "trunkline"}
NGINX = (DEPLOY / "nginx.conf").read_text()
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "trunkline.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
SCRAPES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    parts = [line.partition(" ") for line in text.splitlines() if line]
    return [(name, rest.strip()) for name, _, rest in parts]


def parsed(command: list[str]) -> dict[str, Any]:
    """A `trunkline` command's parameters; fails if the command line would refuse it."""
    program = typer.main.get_command(application())
    assert isinstance(program, typer.core.TyperGroup)
    found = program.commands[command[0]]
    return found.make_context(command[0], command[1:]).params


def variables() -> set[str]:
    """Every variable of our own that `Settings` reads."""
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    return {str(name) for alias in aliases if isinstance(alias, AliasChoices) for name in alias.choices}


def test_the_image_holds_the_packages_and_starts_a_command() -> None:
    steps = instructions()
    copied = {rest.split()[0] for name, rest in steps if name == "COPY" and not rest.startswith("--from")}
    assert {"eventstore", "projections", "edges", "workers", "trunkline", "pyproject.toml"} == copied
    assert all((ROOT / path).exists() for path in copied)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert copied == {entry[1:] for entry in ignored if entry.startswith("!")}
    settled = dict(steps)
    assert json.loads(settled["ENTRYPOINT"]) == ["trunkline"], "its own process 1, so that signals reach it"
    parsed(json.loads(settled["CMD"]))
    assert settled["USER"] == "trunkline"
    assert settled["STOPSIGNAL"] == "SIGTERM"


def test_the_image_and_the_services_set_only_what_is_read() -> None:
    image = re.findall(r"TRUNKLINE_\w+", next(rest for name, rest in instructions()[::-1] if name == "ENV"))
    services = [name for service in OURS.values() for name in service["environment"]]
    assert set(image) | set(services) <= variables()
    assert Settings.model_validate({name: str(value) for name, value in OURS["edge-1"]["environment"].items()})


def test_every_service_of_ours_runs_a_command_there_is() -> None:
    assert sorted(OURS) == ["edge-1", "edge-2", "worker"]
    for name, service in OURS.items():
        command = shlex.split(service["command"])
        params = parsed(command)
        assert command[0] in name
        assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
        if command[0] == "worker":
            assert str(params["metrics_port"]) == service["environment"]["TRUNKLINE_PORT"], (
                "the health check asks there"
            )
    assert OURS["worker"]["deploy"]["replicas"] == 2


def test_redis_keeps_what_it_has_acknowledged_and_evicts_nothing() -> None:
    command = shlex.split(SERVICES["redis"]["command"])
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options == {"--appendonly": "yes", "--appendfsync": "everysec", "--maxmemory-policy": "noeviction"}
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def test_services_name_files_volumes_and_services_that_exist() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= SERVICES.keys()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_nginx_and_prometheus_ask_the_services_where_they_listen() -> None:
    edges = [f"{name}:{OURS[name]['environment']['TRUNKLINE_PORT']}" for name in ("edge-1", "edge-2")]
    assert re.findall(r"server (edge-\d:\d+)", NGINX) == edges * 4, "of both upstreams, and as backups"
    assert re.findall(r"listen (\d+);", NGINX) == [SERVICES["nginx"]["ports"][0].split(":")[1]]
    edge, worker = SCRAPES
    assert edge["static_configs"][0]["targets"] == edges
    assert worker["dns_sd_configs"] == [{"names": ["worker"], "type": "A", "port": 9100}]


def test_nginx_takes_the_largest_body_that_a_route_takes() -> None:
    [limit] = re.findall(r"client_max_body_size (\d+)m;", NGINX)
    assert int(limit) * 1024 * 1024 > MAX_AUDIO_BYTES


def samples() -> dict[str, set[str]]:
    """Every sample that `/metrics` shows, with the labels it has."""
    found: dict[str, set[str]] = {"up": {"job", "instance"}}
    for metric in metrics():
        [family] = metric.describe()
        labels = set(labels_of(metric))
        match family.type:
            case "histogram":
                found |= {f"{family.name}_{part}": labels for part in ("count", "sum")}
                found[f"{family.name}_bucket"] = labels | {"le"}
            case "counter":
                found[f"{family.name}_total"] = labels
            case _:
                found[family.name] = labels
    return found


def expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in ALERTS["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_every_metric_and_label_of_dashboard_and_alerts_exists() -> None:
    known = samples()
    for expression in expressions():
        names = re.findall(r"\b(?:trunkline_\w+|up)\b", expression)
        assert names, expression
        assert set(names) <= known.keys(), expression
        of_them = set().union(*(known[name] for name in names))
        grouped = [label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")]
        asked = re.findall(r"[{,]\s*(\w+)=", expression)
        assert {*grouped, *asked} <= of_them, expression


def test_the_dashboard_uses_the_provisioned_source_and_lies_where_grafana_looks() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "trunkline.yml").read_text())["providers"]
    mounts = [volume.split(":") for volume in SERVICES["grafana"]["volumes"]]
    assert ["./deploy/grafana/dashboards", provider["options"]["path"], "ro"] in mounts
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "deploy/prometheus.yml"), ("test", "rules", "tests/fixtures/alerts.test.yml")],
    ids=["configuration", "alerts"],
)
def test_prometheus_accepts_its_configuration_and_alerts_fire_when_they_should(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool on PATH (Debian: package prometheus)")
    done = subprocess.run([promtool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test() -> None:
    tested = (ROOT / "tests" / "fixtures" / "alerts.test.yml").read_text()
    assert [rule["alert"] for rule in ALERTS["groups"][0]["rules"] if rule["alert"] not in tested] == []
