"""The installation's secret key: that of the settings, else the one that `up` made in its data directory."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from eventstore.connection import Pipe
from eventstore.embedded import data_dir_of
from trunkline.settings import Settings

FILE = "secret_key"


async def with_secret_key(settings: Settings, url: str, pipe: Pipe) -> Settings:
    """For a process that works on the store at `url`: the server that `up` keeps there knows its data directory."""
    if settings.secret_key is not None:
        return settings
    for directory in (await data_dir_of(url, pipe), settings.data_dir):
        if directory is not None and (key := _read(directory)) is not None:
            return _with(settings, key)
    return settings


def with_made_secret_key(settings: Settings) -> Settings:
    """For a developer's `up`, so that organizations can entrust something to it: made once, readable by its owner."""
    if settings.secret_key is not None:
        return settings
    if (key := _read(settings.data_dir)) is None:
        key = secrets.token_urlsafe(32)
        descriptor = os.open(settings.data_dir / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key + "\n")
    return _with(settings, key)


def _with(settings: Settings, key: str) -> Settings:
    return settings.model_copy(update={"secret_key": SecretStr(key)})


def _read(directory: Path) -> str | None:
    try:
        return (directory / FILE).read_text().strip() or None
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None
