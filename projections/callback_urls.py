"""Where callbacks may go: never to this machine, its network, or the addresses from which clouds tell their secrets.

Edges ask before they accept a URL, workers ask again for the address that they are about to connect to.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_LENGTH = 2_048
EVERYWHERE = ("0.0.0.0/0", "::/0")
"""What development mode allows."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_UNICAST = IPv6Network("2000::/3")
"""All that is assigned. What only wraps an IPv4 address lies outside it, or is named below: a gateway unwraps it."""
_SPECIAL: tuple[Network, ...] = (
    IPv4Network("192.0.0.0/24"),  # with Oracle's metadata
    IPv4Network("168.63.129.16/32"),  # Azure's host, under every machine there
    IPv6Network("2001::/23"),  # with Teredo
    IPv6Network("2002::/16"),  # 6to4
    IPv6Network("3fff::/20"),
)


class Allowed(NamedTuple):
    """What the installation excepts: names of hosts and networks."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Allowed:
        """Raises ValueError, with the entry, for what is neither."""
        hosts, networks = set[str](), list[Network]()
        for entry in entries:
            try:
                networks.append(ip_network(entry, strict=False))
            except ValueError:
                if not entry or any(character in entry for character in "/:@?#"):
                    raise ValueError(f"expected a host or a network such as 10.0.0.0/8, got {entry!r}") from None
                hosts.add(entry.lower())
        return cls(frozenset(hosts), tuple(networks))


def fault(url: str, allowed: Allowed) -> str | None:
    """What is wrong with a URL as far as that shows without resolving its host; None if nothing is."""
    if len(url) > MAX_LENGTH or not url.isprintable() or " " in url:
        return f"expected a URL of at most {MAX_LENGTH} printable characters"
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return "expected a URL"
    if parts.scheme not in ("https", "http") or not host:
        return "expected a URL that begins with https:// or http://"
    if parts.username is not None or parts.password is not None:
        return "expected a URL without a name or password: the signature tells who sends"
    address = _literal(host)
    if address is not None and not may_connect(address, host, allowed):
        return f"{host[:80]} is not a public address"
    return None


def may_connect(address: Address, host: str, allowed: Allowed) -> bool:
    """Whether the address, which `host` has at this moment, may be connected to."""
    if host.lower() in allowed.hosts:
        return True
    return _is_public(address) or any(
        address in network for network in allowed.networks if network.version == address.version
    )


def _is_public(address: Address) -> bool:
    if any(address in network for network in _SPECIAL if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and (isinstance(address, IPv4Address) or address in _UNICAST)


def _literal(host: str) -> Address | None:
    """The address that a host spells out, in the old ways too that resolvers understand (`127.1`, `0x7f000001`)."""
    if host == "localhost" or host.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None
