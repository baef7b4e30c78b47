"""The gate of addresses in messages: the public network over https, so many bytes, and nothing of this machine or behind it."""

from __future__ import annotations

import socket
import urllib.error
from collections.abc import Iterator

import pytest
from loopback_pages import pages

from anytoany_lib.gates import addresses
from anytoany_lib.gates.addresses import TooLarge, check_address, read_public
from anytoany_lib.gates.sources import LOOPBACK, NotTrusted


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of this machine, which the tests' variable lets through."""
    monkeypatch.setenv(LOOPBACK, "1")
    with pages({"a.txt": b"a medium"}) as address:
        yield address


@pytest.mark.parametrize(
    "found",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fd00::1"),
        *("fe80::1%eth0", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::"),
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)
def test_addresses_of_this_machine_and_of_private_networks_are_refused(found: str):
    with pytest.raises(NotTrusted, match=r"h\.invalid is .*private network.*as a file"):
        check_address("h.invalid", found)


@pytest.mark.parametrize("found", ["93.184.215.14", "2606:2800:21f:cb07::1", "::ffff:8.8.8.8"])
def test_public_addresses_are_let_through(found: str):
    assert check_address("h.invalid", found) == found


@pytest.mark.parametrize(
    "url",
    ["http://example.com/a", "file:///etc/passwd", "ftp://example.com/a", "https://u:p@e.com/"],
)
def test_other_kinds_of_addresses_are_refused(url: str):
    with pytest.raises(NotTrusted):
        read_public(url, 100)


def test_a_name_that_leads_to_this_machine_is_refused(monkeypatch: pytest.MonkeyPatch):
    """One private address among others is enough: which is taken is not for the name's owner to say."""
    answers = [(socket.AF_INET, 1, 6, "", (one, 443)) for one in ("93.184.215.14", "10.0.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(NotTrusted, match=r"rebinding\.invalid is 10\.0\.0\.7"):
        read_public("https://rebinding.invalid/a.png", 100)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch):
    """A name that is public when it is checked is not asked for again."""
    asked: list[str] = []

    def resolved(host: str, *_: object, **__: object) -> list:
        asked.append(host)
        return [(socket.AF_INET, 1, 6, "", ("93.184.215.14", 443))]

    def connect(address: tuple[str, int], *_: object) -> socket.socket:
        raise ConnectionRefusedError(f"to {address[0]}")

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(urllib.error.URLError, match=r"to 93\.184\.215\.14"):
        read_public("https://once.invalid/a.png", 100)
    assert asked == ["once.invalid"]


def test_what_is_there_is_read(served: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which would see nothing of the checks
    assert read_public(f"{served}/a.txt", 100) == b"a medium"
    assert read_public(f"{served}/to?u={served}/a.txt", 100) == b"a medium"


@pytest.mark.parametrize(
    "target", ["http://10.0.0.1/a", "https://10.0.0.1/a", "file:///etc/passwd"]
)
def test_a_redirect_passes_the_same_gate(served: str, target: str):
    with pytest.raises((NotTrusted, urllib.error.HTTPError)):
        read_public(f"{served}/to?u={target}", 100)


def test_no_more_than_the_limit_is_read(served: str):
    with pytest.raises(TooLarge, match="more than 1 MB"):
        read_public(f"{served}/endless", 2**20)


def test_an_answer_that_breaks_off_or_takes_too_long_is_none(served: str, monkeypatch):
    with pytest.raises(ConnectionError, match="broke off 996 bytes before its end"):
        read_public(f"{served}/short", 2000)
    monkeypatch.setattr(addresses, "SECONDS", 0.3)
    with pytest.raises(TimeoutError, match="within 0.3 s"):
        read_public(f"{served}/slow", 2000)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        read_public(f"{served}/gone", 2000)
