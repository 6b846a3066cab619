"""Where callbacks may go: what is refused before anything is resolved, and which addresses are never connected to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from projections.callback_urls import EVERYWHERE, MAX_LENGTH, Allowed, fault, may_connect

NOTHING = Allowed()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1", "203.0.113.5", "224.0.0.1",
        "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%1", "fd00:ec2::254",
        "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b:1::1", "2002:7f00:1::", "2001:0:53aa:64c:0:fffe:80ff:fffe", "2001:db8::1", "3fff::1",
    ],
)  # fmt: skip
def test_no_address_but_a_public_one_is_connected_to(address: str) -> None:
    assert not may_connect(ip_address(address), "hooks.example.com", NOTHING)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::200e"])
def test_public_addresses_are_connected_to(address: str) -> None:
    assert may_connect(ip_address(address), "hooks.example.com", NOTHING)


def test_networks_and_hosts_may_be_excepted() -> None:
    allowed = Allowed.parse(["10.1.0.0/16", "Hooks.Internal", "fd00::/8"])
    assert may_connect(ip_address("10.1.2.3"), "x", allowed)
    assert may_connect(ip_address("fd00::1"), "x", allowed)
    assert not may_connect(ip_address("10.2.0.1"), "x", allowed)
    assert may_connect(ip_address("10.2.0.1"), "hooks.internal", allowed)
    assert not may_connect(ip_address("10.2.0.1"), "not.hooks.internal", allowed)


def test_development_mode_allows_everything() -> None:
    allowed = Allowed.parse(EVERYWHERE)
    assert all(may_connect(ip_address(address), "x", allowed) for address in ("127.0.0.1", "::1", "10.0.0.1"))


@pytest.mark.parametrize("entry", ["", "http://x", "x:80", "a@b", "10.0.0.0/40"])
def test_an_exception_that_is_neither_host_nor_network_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="expected a host or a network"):
        Allowed.parse([entry])


@pytest.mark.parametrize(
    "url",
    [
        "", "hooks.example.com", "ftp://example.com/", "file:///etc/passwd", "https://", "https:///path",
        "https://user:secret@example.com/", "https://example.com:99999/", "https://exa mple.com/",
        "https://example.com/\nHost: x", "https://[::1", "http://localhost/", "http://LOCALHOST./",
        "http://a.localhost",
        "http://127.0.0.1:8000/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://[::1]/",
        "http://[::ffff:10.0.0.1]/", "http://169.254.169.254/latest/meta-data",
        "https://example.com/" + "x" * MAX_LENGTH,
    ],
)  # fmt: skip
def test_bad_urls_are_recognised_without_resolving_anything(url: str) -> None:
    assert fault(url, NOTHING)


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/a?b=c", "http://example.com:8080", "https://8.8.8.8/", "https://[2606:4700::1]/"]
)
def test_good_urls_have_no_fault(url: str) -> None:
    assert fault(url, NOTHING) is None


def test_a_local_url_is_good_where_it_is_excepted() -> None:
    assert fault("http://127.0.0.1:8000/", Allowed.parse(["127.0.0.0/8"])) is None
