"""Chats that are served to others: who comes in, how much a visitor may ask for, and the options of such a server.

A visitor talks, attaches files through the page, and downloads. There are no paths, no runs to switch to, and nothing is
saved on the server. `Gate` looks at every request before anything else does, `Limits` at everything a visitor asks for.
"""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import logging
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from anytoany_lib.checkpoints import fetching, publishing
from anytoany_lib.config import Profile, portable, resolve
from anytoany_lib.gates.sources import how_to_get
from anytoany_lib.generation.events import Events
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.system import terminal
from anytoany_lib.system.runs import newest_run, profile_of, read_record

_PLACE = re.compile(r"(?<![\w:/])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\:'\"]+)+[/\\]?")
# A folder of the hub client's cache.
_FETCHED = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/[^/]+$")
_TOKEN_IN_URL = re.compile(r"([?&]token=)(?!\[hidden\])[^&\s'\"()]+")

RUN_HELP = "a run: folder, URL, or OWNER/NAME on the hub (default: the newest of profile tiny)"


@dataclass(frozen=True)
class Limits:
    """What one visitor of a served chat may ask for, and how many there may be."""

    steps: int = 100
    max_new_tokens: int = 1024
    frames: int = 64
    seconds: float = 30.0
    characters: int = 20_000
    turns: int = 200
    reply_seconds: float = 300.0
    file_bytes: int = 64 * 2**20
    quota_bytes: int = 256 * 2**20
    visitors: int = 4
    waiting: int = 8
    idle_seconds: int = 1200

    def check(self, sampling: Sampling) -> Sampling:
        """The sampling, if it asks for no more than is allowed. ValueError names what does."""
        for name in ("steps", "max_new_tokens", "frames", "seconds"):
            value, limit = getattr(sampling, name), getattr(self, name)
            if value is not None and value > limit:
                raise ValueError(f"{name} may be {limit:g} at most on this page, found {value:g}")
        return sampling

    def check_text(self, text: str, turns: int) -> None:
        """ValueError if a message is too long, or the conversation before it."""
        if len(text) > self.characters:
            raise ValueError(
                f"the message has {len(text):,} characters, {self.characters:,} may be sent"
            )
        if turns >= 2 * self.turns:
            raise ValueError(f"the conversation has {self.turns} turns: Clear begins another one")

    def within(self, events: Events, stop: Callable[[], None]) -> Events:
        """The events of a reply, which is stopped when its time is over."""
        end, stopped = monotonic() + self.reply_seconds, False
        try:
            for event in events:
                yield event
                if not stopped and monotonic() > end:
                    stopped = True
                    stop()
        finally:
            events.close()


def without_places(text: str) -> str:
    """A text for a visitor: of each path of the server the last name alone."""
    return _PLACE.sub(lambda path: re.split(r"[/\\]", path[0].rstrip("/\\"))[-1], text)


@dataclass(frozen=True)
class Answer:
    """The HTTP answer of the gate itself to a request: a status, a plain text, and further headers."""

    status: int
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """Who is let in: the Hosts a request may be for, and the token it has to bring, "" if there is none.

    The token comes in the printed link; a cookie of this page alone brings it from then on. Names have to be on the list of
    hosts, since a name can be made to lead here by anybody (DNS rebinding); an address cannot.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    hosts: frozenset[str] = frozenset()
    cookie: str = field(default_factory=lambda: f"anytoany-{secrets.token_hex(4)}")

    @classmethod
    def of(cls, token: str | None, hosts: Iterable[str]) -> Gate:
        """A gate for these names beside the machine's own; a token of None is drawn."""
        own = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}
        return cls(hosts=frozenset(own)) if token is None else cls(token, frozenset(own))

    def knows(self, host: str) -> bool:
        """Whether a Host, or the host of an Origin, is this server."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self.hosts
        return True

    def answer(self, target: str, headers: Mapping[str, str]) -> Answer | None:
        """What to answer a request for `target` (path?query) with these headers; None lets it in.

        Who came by the link is sent on to the same page, with a cookie and without the token in the address.
        """
        if refusal := self.refusal(target, headers):
            return refusal
        path, query = urlsplit(target).path, urlsplit(target).query
        if not self.token or path != "/" or "token" not in parse_qs(query):
            return None
        kept = urlencode([(name, value) for name, value in parse_qsl(query) if name != "token"])
        cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"
        return Answer(302, "", {"Location": f"/?{kept}" if kept else "/", "Set-Cookie": cookie})

    def refusal(self, target: str, headers: Mapping[str, str]) -> Answer | None:
        """Why a request is not let in, None if it is."""
        if not self.knows(headers.get("Host", "")):
            return Answer(403, "this page is not served under that name: see --allow-host")
        origin = headers.get("Origin")
        if origin and origin != "null" and not self.knows(urlsplit(origin).netloc):
            return Answer(403, "another site's page may not use this one")
        if origin == "null":
            return Answer(403, "a page without an origin may not use this one")
        if self.token and not any(map(self._is_token, self._tokens(target, headers))):
            return Answer(401, "open the link that the server printed: it ends with its token")
        return None

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self.token.encode())

    def _tokens(self, target: str, headers: Mapping[str, str]) -> Iterable[str]:
        """What a request brings in the place of a token: in its address, its headers, its cookie."""
        yield from parse_qs(urlsplit(target).query).get("token", [])
        yield headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            kept = SimpleCookie(headers.get("Cookie", "")).get(self.cookie)
        except CookieError:
            kept = None
        if kept:
            yield kept.value

    def keep_out_of_logs(self) -> None:
        """Hides the token in all logs of this process: servers log the addresses of requests that were refused or broke."""
        make = logging.getLogRecordFactory()

        def make_record(*arguments: Any, **more: Any) -> logging.LogRecord:
            """A record without the token, in its message and in its traceback."""
            record = make(*arguments, **more)
            if isinstance(record.args, tuple):  # which some formatters read one by one
                record.args = tuple(
                    self._hidden(a) if isinstance(a, str) else a for a in record.args
                )
            try:
                message = record.getMessage()
            except (TypeError, ValueError):  # the format and its arguments do not fit
                message = f"{record.msg} {record.args}"
            if message != self._hidden(message):
                record.msg, record.args = self._hidden(message), ()
            if record.exc_info and record.exc_info[0]:
                record.exc_text = self._hidden(logging.Formatter().formatException(record.exc_info))
            return record

        logging.setLogRecordFactory(make_record)

    def _hidden(self, text: str) -> str:
        kept = _TOKEN_IN_URL.sub(r"\1[hidden]", text)
        return kept.replace(self.token, "[hidden]") if self.token else kept

    def link(self, host: str, port: int) -> str:
        """The link to print."""
        shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
        shown = f"[{shown}]" if ":" in shown else shown
        return f"http://{shown}:{port}/" + (f"?token={self.token}" if self.token else "")


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder, those that vanish meanwhile aside."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


# --- the command line: which run talks and, for a page, where it is served and to whom ---


def parser(command: str, description: str, port: int) -> argparse.ArgumentParser:
    """The options of a page's server: for this machine alone, and for whoever has the token, unless they say otherwise."""
    options = terminal.parser(command, description, "--run ckpt/runs/tiny/stage3")
    options.add_argument("--run", help=RUN_HELP)
    options.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: this one)"
    )
    options.add_argument("--port", type=int, default=port)
    options.add_argument("--token", help="what the link ends with (default: drawn anew)")
    options.add_argument(
        "--no-token", action="store_true", help="let in whoever reaches the port, without a token"
    )
    options.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that this page is visited under, beside localhost and this machine's own",
    )
    return options


def gate_of(options: argparse.Namespace) -> Gate:
    """The gate that the command line asks for; its token is in no log of this process."""
    gate = Gate.of("" if options.no_token else options.token, options.allow_host)
    gate.keep_out_of_logs()
    return gate


def check_port(host: str, port: int) -> None:
    """OSError or ValueError if a page cannot be served there: found before a model is loaded, which takes longer."""
    if not 0 < port < 2**16:
        raise ValueError(f"expected a port from 1 to 65535, found {port}; name one with --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
            probe.bind(address)
    except OSError as error:
        raise OSError(
            f"the page cannot be served at {host}, port {port}: {error}; name another one with --port, or --host"
        ) from error


def shown_name(run: Path) -> str:
    """The name of a run for visitors, without the folders of this machine that it lies in: OWNER/NAME of one from the hub."""
    if fetched := _FETCHED.search(run.as_posix()):
        return "/".join(fetched.groups())
    name = portable(run)
    return run.name if Path(name).is_absolute() else name


def run_named(name: str | None) -> Path:
    """The folder of the run that was named (a path, a URL, or OWNER/NAME on the hub), with all its models there; else the newest of
    profile tiny, whose models are fetched.

    For a run that was named no model is fetched: whoever wrote it may be anybody. FileNotFoundError if there is no such run,
    or if models of it are missing: it says what fetches them; else what `publishing.run_folder` raises.
    """
    if name is None:
        fetching.fetch(Profile.load("tiny"))
    run = publishing.run_folder(name) if name else newest_run("tiny")
    run = run or resolve("ckpt/runs")  # of which it is said what is missing, and how to make it
    profile = profile_of(read_record(run), run)
    if absent := fetching.missing_models(profile):
        remedies = "; ".join(
            f"{what} in {folder}: {how_to_get(what, folder)}" for what, folder in absent.items()
        )
        raise FileNotFoundError(f"{run} needs models that are not there: {remedies}")
    fetching.verify_models(profile)
    return run
