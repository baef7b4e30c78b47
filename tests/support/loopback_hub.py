"""A model hub on this machine: speaks what `huggingface_hub` asks, and serves folders as repositories.

    with Hub({"Qwen/Qwen3-8B": folder}, {"imagebind_huge.pth": file}) as hub:
        os.environ["HF_ENDPOINT"] = hub.url  # of the process that fetches

Large files are answered by a redirect to another host name with ETag, size and ranges, small ones directly. `asked` records
every file of which bytes were sent; the other attributes make things go wrong. With a folder for `uploads`, repositories
can be made and written too, large files by git-lfs.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

NOWHERE = "http://127.0.0.1:9"
_LARGE = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".model")
_PIECE = 2**20
TOKEN = "hf_writes"  # of an account that may write; any other may not


def point(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Has the hub's client of this process ask there."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextmanager
def writable_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """A hub below a folder with an empty cache, which the client of this process asks, and the token of an account that may write."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with Hub({}, uploads=folder / "hub") as found:
        point(monkeypatch, found.url)
        yield found


@cache
def _sums(path: Path, size: int, changed: int) -> tuple[str, str]:
    """sha256 of a file, and its id in git."""
    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
    return hashlib.sha256(content).hexdigest(), git


def sums(path: Path) -> tuple[str, str]:
    """sha256 of a file, and its id in git; computed once."""
    state = path.stat()
    return _sums(path, state.st_size, state.st_mtime_ns)


@dataclass
class Hub:
    """See the module's docstring. `repositories` is {owner/name: folder}, `plain` {name: file} below /plain/."""

    repositories: dict[str, Path]
    plain: Mapping[str, Path] = field(default_factory=dict)
    gated: dict[str, int] = field(default_factory=dict)
    """owner/name -> 401 or 403, which files of it are answered with."""
    cut: dict[str, int] = field(default_factory=dict)
    """File name -> bytes after which its next answer breaks off."""
    spoilt: set[str] = field(default_factory=set)
    """Files that are sent with another last byte than their checksum is of."""
    revisions: tuple[str, ...] = ("main",)
    gone: set[str] = field(default_factory=set)
    """Files that are in the list and are not found."""
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    """(name, first byte, bytes sent) of every answer with a file's bytes."""
    uploads: Path | None = None
    """Where repositories are that are made here."""
    private: set[str] = field(default_factory=set)
    """Repositories that are there only for who sends TOKEN."""
    commits: list[tuple[str, str]] = field(default_factory=list)
    """(owner/name, file that was written or, behind a "-", deleted), commit by commit."""
    sizes: dict[str, int] = field(default_factory=dict)
    """File -> what its list says of its size, in the place of the truth."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """sha256 -> large file that was sent."""

    def __enter__(self) -> Hub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where the hub is."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def far(self) -> str:
        """Where its large files are: another host to a client, as at the real one."""
        return f"http://localhost:{self._server.server_port}"

    def files(self, repository: str) -> dict[str, Path]:
        """A repository's files by their names in it."""
        root = self.repositories[repository]
        return {
            path.relative_to(root).as_posix(): path
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def commit(self, repository: str) -> str:
        """Changes with any file."""
        told = [(name, sums(path)[1]) for name, path in self.files(repository).items()]
        return hashlib.sha1(json.dumps(told).encode()).hexdigest()

    def sent(self) -> Counter[str]:
        """Bytes that were sent of each file."""
        count: Counter[str] = Counter()
        for name, _, size in self.asked:
            count[name] += size
        return count


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        found = re.fullmatch(r"/lfs/([0-9a-f]{64})", self.path)
        content = self._content()
        if not found or hashlib.sha256(content).hexdigest() != found[1]:
            return self._refuse(400, "BadRequest", "not what was announced")
        self.hub.objects[found[1]] = content
        return self._tell({})

    def do_POST(self) -> None:
        path, content = unquote(urlsplit(self.path).path), self._content()
        if path == "/api/validate-yaml":
            return self._tell({"errors": [], "warnings": []})
        if self.hub.uploads is None or not self._trusted():
            return self._refuse(403, "Forbidden", "you have no right to write here")
        if path == "/api/repos/create":
            return self._create(json.loads(content))
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._tell({"objects": list(map(self._place, json.loads(content)["objects"]))})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if found and found[2] == "preupload":
            files = [file["path"] for file in json.loads(content)["files"]]
            modes = {True: "lfs", False: "regular"}
            told = [
                {"path": name, "uploadMode": modes[name.endswith(_LARGE)], "shouldIgnore": False}
                for name in files
            ]
            return self._tell({"files": told})
        if found and found[1] in self.hub.repositories:
            return self._commit(found[1], [json.loads(line) for line in content.splitlines()])
        return self._refuse(404, "EntryNotFound", "no such page")

    def _trusted(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _content(self) -> bytes:
        """What was sent, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.repositories:
            there = {
                "error": "You already created this model repo",
                "url": f"{self.hub.url}/{name}",
            }
            return self._tell(there, 409)
        assert self.hub.uploads is not None
        self.hub.repositories[name] = self.hub.uploads / name
        (self.hub.uploads / name).mkdir(parents=True)
        self.hub.private |= {name} if wanted.get("visibility") == "private" else set()
        return self._tell({"url": f"{self.hub.url}/{name}", "name": name})

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where a large file is to be sent."""
        upload = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
        return {"oid": asked["oid"], "size": asked["size"], "actions": upload}

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        root = self.hub.repositories[repository]
        for line in lines:
            kind, value = line["key"], line["value"]
            if kind == "header":
                continue
            file = root / value["path"]
            if kind == "deletedFile":
                file.unlink()
                self.hub.commits.append((repository, f"-{value['path']}"))
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                file.write_bytes(base64.b64decode(value["content"]))
            else:
                file.write_bytes(self.hub.objects[value["oid"]])
            self.hub.commits.append((repository, value["path"]))
        commit = self.hub.commit(repository)
        self._tell(
            {"commitUrl": f"{self.hub.url}/{repository}/commit/{commit}", "commitOid": commit}
        )

    def _head(self, status: int, headers: Mapping[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._head(status, {"Content-Length": 0, "X-Error-Code": code, "X-Error-Message": message})

    def _tell(self, content: Any, status: int = 200) -> None:
        told = json.dumps(content).encode()
        self._head(status, {"Content-Type": "application/json", "Content-Length": len(told)})
        if self.command != "HEAD":
            self.wfile.write(told)

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/plain/(.+)", path):
            return self._file(found[1], self.hub.plain.get(found[1]))
        if found := re.fullmatch(r"/far/([^/]+/[^/]+)/(.+)", path):
            return self._file(f"{found[1]}/{found[2]}", self.hub.files(found[1]).get(found[2]))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
        if api:
            return self._api(*api.groups())
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*found.groups())
        return self._refuse(404, "EntryNotFound", "no such page")

    def _known(self, repository: str, revision: str | None) -> bool:
        """Whether there is such a thing; answers if not."""
        hidden = repository in self.hub.private and not self._trusted()
        if repository not in self.hub.repositories or hidden:
            self._refuse(401, "RepoNotFound", "Repository not found")
            return False
        known = (*self.hub.revisions, self.hub.commit(repository), None)
        if revision not in known:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return False
        return True

    def _api(self, repository: str, what: str | None, revision: str | None) -> None:
        if not self._known(repository, revision):
            return None
        entries = []
        for name, path in self.hub.files(repository).items():
            size, (sha256, git) = self.hub.sizes.get(name, path.stat().st_size), sums(path)
            entry = {"path": name, "rfilename": name, "type": "file", "size": size}
            entry |= {"oid": git, "blobId": git}
            if name.endswith(_LARGE) or size > 2**20:
                entry["lfs"] = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": 134}
            entries.append(entry)
        if what == "tree":
            return self._tell(entries)
        commit = self.hub.commit(repository)
        return self._tell({"id": repository, "sha": commit, "siblings": entries})

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        if not self._known(repository, revision):
            return None
        if status := self.hub.gated.get(repository):
            return self._refuse(status, "GatedRepo", "Access to this model is restricted")
        path = self.hub.files(repository).get(name)
        if path is None or name in self.hub.gone:
            return self._refuse(404, "EntryNotFound", f"{name} is not in this repository")
        commit = {"X-Repo-Commit": self.hub.commit(repository)}
        if not name.endswith(_LARGE) and path.stat().st_size <= 2**20:
            return self._file(f"{repository}/{name}", path, commit | {"ETag": f'"{sums(path)[1]}"'})
        linked = {"X-Linked-Size": path.stat().st_size, "X-Linked-Etag": f'"{sums(path)[0]}"'}
        there = {"Location": f"{self.hub.far}/far/{repository}/{name}", "Content-Length": 0}
        return self._head(302, commit | linked | there)

    def _file(self, name: str, path: Path | None, headers: Mapping[str, Any] | None = None) -> None:
        """A file's bytes, or from where a Range says if it still is the If-Range that was meant."""
        if path is None:
            return self._refuse(404, "EntryNotFound", f"no {name}")
        etag = f'"{sums(path)[0]}"'
        size, sent = path.stat().st_size, {"ETag": etag, "Accept-Ranges": "bytes"}
        sent |= headers or {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", etag) == etag
        start = int(asked[1]) if asked and same else 0
        if start >= size > 0:
            return self._head(416, sent | {"Content-Range": f"bytes */{size}", "Content-Length": 0})
        end = min(size, int(asked[2]) + 1) if asked and asked[2] and same else size
        if asked and same:
            sent |= {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
        self._head(206 if asked and same else 200, sent | {"Content-Length": end - start})
        if self.command == "GET":
            self._send(name, path, start, end)
        return None

    def _send(self, name: str, path: Path, start: int, end: int) -> None:
        short = name.rpartition("/")[2]
        stop = min(end, start + self.hub.cut.pop(short, end - start))
        with path.open("rb") as opened:
            opened.seek(start)
            left = stop - start
            while left:
                piece = opened.read(min(_PIECE, left))
                left -= len(piece)
                if short in self.hub.spoilt and opened.tell() == path.stat().st_size:
                    piece = piece[:-1] + bytes([piece[-1] ^ 1])
                try:
                    self.wfile.write(piece)
                except ConnectionError:
                    break
        self.hub.asked.append((name, start, stop - start))
        if stop < end:
            self.close_connection = True
