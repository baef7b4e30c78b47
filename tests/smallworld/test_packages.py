"""Packages of the small world: fetched by their clients, checked, unpacked as far as needed. Small ones of the same form stand in."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from anytoany_lib.smallworld import packages
from anytoany_lib.smallworld.packages import PACKAGES, check_sum, download, fetch
from anytoany_lib.smallworld.things import TABLE

FOLDERS = (packages.PICTURES, packages.LOOPS)


def tarball(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def debian(path: Path, members: dict[str, bytes]) -> Path:
    root = path.with_suffix("")
    control = (
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.invalid>\nDescription: x\n"
    )
    for name, data in (members | {"DEBIAN/control": control.encode()}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    subprocess.run(["dpkg-deb", "--build", str(root), str(path)], check=True, capture_output=True)
    return path


def stand_ins(folder: Path) -> dict[str, Path]:
    """A file for each package, with what is taken of it and more."""
    files = {}
    for number, package in enumerate(PACKAGES):
        members = {
            (f"{inside}/{TABLE[number].code}.webp" if name in FOLDERS else inside): (
                package.name.encode()
            )
            for inside, name in package.members
        }
        members[f"{package.members[0][0].rpartition('/')[0]}/other.txt"] = b"not needed"
        if package.licence_file:
            members[package.licence_file] = b"Permission is granted."
        make = tarball if package.client == "npm" else debian
        files[package.name] = make(
            folder / f"{number}.{'tgz' if make is tarball else 'deb'}", members
        )
    return files


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb")
def test_what_is_needed_is_kept_with_its_licences(tmp_path):
    files, asked = stand_ins(tmp_path), []

    def get(package: packages.Package, folder: Path) -> Path:
        asked.append(package.name)
        return Path(shutil.copy(files[package.name], folder))

    folder = fetch(tmp_path / "there", PACKAGES, get)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert found == {
        *(packages.LABELS, packages.INSTRUMENTS, packages.MANIFEST, packages.LICENCES),
        f"pictures/{TABLE[0].code}.webp",
        *(f"loops/{TABLE[number].code}.webp" for number in range(2, 6)),
    }
    assert (folder / "instruments.sf2").read_bytes() == b"fluid-soundfont-gm"
    listed = json.loads((folder / "manifest.json").read_text())["packages"]
    assert [one["name"] for one in listed] == asked == [one.name for one in PACKAGES]
    licences = (folder / "LICENCES.md").read_text()
    assert licences.count("\n## ") == 7 and licences.count("Permission is granted.") == 2
    assert fetch(folder, PACKAGES, get) == folder and len(asked) == 7, "once is enough"


def test_a_file_that_is_another_is_not_used(tmp_path):
    file = tmp_path / "x.tgz"
    file.write_bytes(b"something")
    right = replace(PACKAGES[0], sha256=hashlib.sha256(b"something").hexdigest())
    check_sum(right, file)
    with pytest.raises(ValueError, match=r"x\.tgz: expected @lobehub/fluent-emoji-3d 1\.1\.0 with"):
        check_sum(PACKAGES[0], file)


def test_a_client_that_is_missing_or_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="comes by npm, which is not installed"):
        download(PACKAGES[0], tmp_path)
    failing = tmp_path / "npm"
    failing.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    failing.chmod(0o755)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError, match=r"fluent-emoji-3d@1\.1\.0` brought 0 files.*no network"):
        download(PACKAGES[0], tmp_path / "empty")
