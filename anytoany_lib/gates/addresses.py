"""The gate of addresses that a message names: over https, from machines of the public network, no more than so many bytes.

Whoever writes a message may be anybody, and the machine that reads it may see a network that they do not. An address can lead there
by its name, by a redirect, or by a name that has another answer the second time it is asked for (DNS rebinding): so every
connection goes to the very IP address that was checked. Proxies are not used, since nobody here sees where they connect to.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
import urllib.request
from time import monotonic
from typing import Any

from anytoany_lib.gates.sources import LOOPBACK, CheckedRedirects, NotTrusted, check_url

SECONDS = 60.0  # for all of an answer: a server may send a byte at a time
_BLOCK = 2**16
# IPv6 addresses that stand for one of IPv4, which may be a private one (NAT64, 6to4, Teredo).
_TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "2002::/16", "2001::/32")))


class TooLarge(ValueError):
    """An answer has more bytes than are read; the message says how many those are."""


def check_address(host: str, found: str) -> str:
    """The IP address `found` for a host, if it is a public one. NotTrusted if it is of this machine or a private network."""
    address = ipaddress.ip_address(found.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback and os.environ.get(LOOPBACK) == "1":
        return found
    translated = any(address in network for network in _TRANSLATED)
    if not address.is_global or address.is_multicast or translated:
        raise NotTrusted(
            f"{host} is {found}, an address of this machine or of a private network, which a message may not read from: save what "
            "is there as a file, and name that"
        )
    return found


def _connected(host: str, port: int, timeout: Any) -> socket.socket:
    """A connection to a host, at an address that was checked."""
    there = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    checked = [check_address(host, str(one[4][0])) for one in there]
    return socket.create_connection((checked[0], port), timeout)


class _Plain(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = _connected(self.host, self.port, self.timeout)


class _Secure(http.client.HTTPSConnection):
    def connect(self) -> None:
        plain = _connected(self.host, self.port, self.timeout)
        # Of the host that was named, whatever address it has: that is what its certificate is for.
        self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Plain, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Secure, req)


def read_public(url: str, limit: int) -> bytes:
    """The bytes at a public https address, at most `limit` of them, whatever the server says how many there are.

    NotTrusted if the address, or one that it redirects to, is none that a message may name, TooLarge if there are more bytes,
    OSError (TimeoutError after a minute) or http.client.HTTPException if they do not come.
    """
    check_url(url)
    direct = urllib.request.ProxyHandler({})
    opener = urllib.request.build_opener(direct, CheckedRedirects, _Http, _Https)
    request = urllib.request.Request(url, headers={"User-Agent": "anytoany"})
    end, content = monotonic() + SECONDS, bytearray()
    with opener.open(request, timeout=SECONDS / 2) as answer:
        while block := answer.read1(_BLOCK):
            content += block
            if len(content) > limit:
                raise TooLarge(f"there are more than {limit / 2**20:g} MB")
            if monotonic() > end:
                raise TimeoutError(f"it did not come whole within {SECONDS:g} s")
        if answer.length:
            raise ConnectionError(f"the answer broke off {answer.length:,} bytes before its end")
    return bytes(content)
