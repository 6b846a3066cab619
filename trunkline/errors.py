"""What stops a command with one line for the person who typed it."""

from __future__ import annotations


class StartError(Exception):
    """Printed as `trunkline: …`; the exit code is 2."""
