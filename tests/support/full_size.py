"""The full-size profiles narrowed until they run here, with a hub on this machine that has everything they fetch.

    with narrowed("nextgpt-7b", folder) as small:
        subprocess.run([..., "--profile", str(small.profile)], env=os.environ | small.environment)

Layout, formats and tensor names are the published ones; widths are divided, media are small and steps few. Where real
small files are at hand (../shared/published beside the repository) tokenizers and settings are those.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from loopback_hub import Hub, sums

from anytoany_lib.config import DecoderConfig, Profile, licences

REPOSITORY = Path(__file__).resolve().parents[2]
PUBLISHED = REPOSITORY.parent / "shared" / "published"
sys.path.append(str(REPOSITORY / "bench"))

from recent_layouts import stable_audio, wan  # noqa: E402
from replicas import REPOSITORIES, narrowed_config, replica  # noqa: E402
from towers import write_siglip, write_whisper  # noqa: E402

ENCODER = "imagebind_huge.pth"
# Of these there are no replicas but small models in their layout; decoders say how a profile names them.
WRITERS: dict[str, Callable[[Path], Path | DecoderConfig]] = {
    "google/siglip2-base-patch16-384": write_siglip,
    "openai/whisper-small": write_whisper,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": wan,
    "stabilityai/stable-audio-open-1.0": stable_audio,
}
_SMALL = {"epochs": None, "steps": 2, "batch_size": 2, "accumulation": 1}
_OPTIONS: dict[str, dict[str, float]] = {
    "image": {"height": 64, "width": 64},
    "audio": {"audio_length_in_s": 1.0},
    "video": {"num_frames": 4, "height": 64, "width": 64},
}


@dataclass(frozen=True)
class Narrowed:
    """A narrowed profile's YAML file, the hub that serves it, and the variables of a process that is to use both."""

    profile: Path
    hub: Hub
    environment: dict[str, str]
    replicas: dict[str, Path]


def assembled(repo: str, folder: Path) -> Path | None:
    """A repository's real small files in their layout, None where there are none at hand."""
    short = repo.rpartition("/")[2].removesuffix(".pth")
    if not (PUBLISHED / short).is_dir():
        return None
    command = [sys.executable, str(PUBLISHED / "assemble.py"), short, str(folder), "--inferred"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(folder / "beside", ignore_errors=True)  # not in the repository
    return folder


@cache
def written(repo: str, folder: Path) -> Path | DecoderConfig:
    """A small model in the layout of a repository of `WRITERS`, written once."""
    return WRITERS[repo](folder)


def replicas_of(
    profile: Profile, folder: Path, narrow: int, everything: bool = True
) -> dict[str, Path]:
    """The repositories that a profile fetches and the run that it imports, narrowed: {name: folder or file}."""
    found = [source for _, source in licences.sources(profile)]
    named = [name for s in found for name in (s.hub, s.difference_to) if name]
    made = {}
    for repo in [*named, *([ENCODER] if _reads_imagebind(profile) else [])]:
        short = repo.rpartition("/")[2]
        if repo in WRITERS:
            made[repo] = folder / "hub" / short
            written(repo, made[repo])
            continue
        real = assembled(repo, folder / "real" / short)
        made[repo] = replica(repo, folder / "hub" / short, narrow, real, everything)
    return made


def _reads_imagebind(profile: Profile) -> bool:
    return profile.encoder.model == "imagebind"


def settings_of(name: str, narrow: int, hub: Hub) -> dict[str, Any]:
    """A profile like `name` whose sizes are those of its narrowed replicas."""
    full = Profile.load(name)

    def config(repo: str | None, folder: str) -> dict[str, Any]:
        parts = REPOSITORIES[str(repo)].parts
        return narrowed_config(next(part for part in parts if part.folder == folder), narrow)

    decoders = {}
    for kind, decoder in full.decoders.items():
        repo = str(decoder.source and decoder.source.hub)
        if repo in WRITERS:
            small = written(repo, hub.repositories[repo])
            assert isinstance(small, DecoderConfig)
            decoders[kind] = small.model_dump(mode="json", exclude_unset=True, exclude={"folder"})
            continue
        words = config(decoder.source and decoder.source.hub, "text_encoder")
        width = words["projection_dim" if kind == "audio" else "hidden_size"]
        condition = [*decoder.condition[:-1], width]
        decoders[kind] = {"condition": condition, "steps": 2, "options": _OPTIONS[kind]}
    language = config(full.llm.source and full.llm.source.hub, "")
    kept = ("model_type", *(full.llm.architecture or {}))
    return {
        "name": f"{name}-narrowed",
        "like": name,
        "llm": {
            "architecture": {key: language[key] for key in kept if key in language},
            "max_new_tokens": 48,
        },
        **_reading(full, narrow, hub),
        "decoders": decoders,
        "projection": {
            "width": max(32, 512 // narrow),
            "heads": max(1, 4 // narrow),
            "feed_forward": 2048 // narrow,
        },
        "stages": {
            number: _SMALL | _fits(stage.fit_after.steps) | {"optimiser": "adamw"}
            for number, stage in full.stages.items()
        },
    }


def _reading(full: Profile, narrow: int, hub: Hub) -> dict[str, Any]:
    """Settings of the narrowed encoder and of what reads it."""
    if not _reads_imagebind(full):
        small = {"embedding": 16 + 12, "length": 8, "soft_tokens": 4}  # of `towers`
        return {"encoder": small, "input_projection": {"width": 32, "heads": 4, "layers": 1}}
    (part,) = REPOSITORIES[ENCODER].parts
    encoder = narrowed_config(part, narrow)
    source = {"url": f"{hub.url}/plain/{ENCODER}", "sha256": sums(hub.plain[ENCODER])[0]}
    source["licence"] = "none, random numbers"
    sizes = {"embedding": encoder["embed_dim"], "architecture": encoder, "source": source}
    return {"encoder": sizes}


def _fits(steps: int) -> dict[str, Any]:
    return {"fit_after": {"rows": 8, "steps": 4, "batch_size": 4}} if steps else {}


@contextmanager
def narrowed(
    name: str, folder: Path, narrow: int = 16, everything: bool = True
) -> Iterator[Narrowed]:
    """Replicas, hub and profile below `folder`, while it lasts. What is fetched goes to `folder`/home."""
    folder.mkdir(parents=True, exist_ok=True)
    made = replicas_of(Profile.load(name), folder, narrow, everything)
    repositories = {repo: path for repo, path in made.items() if repo != ENCODER}
    plain = {ENCODER: made[ENCODER]} if ENCODER in made else {}
    with Hub(repositories, plain) as hub:
        file = folder / f"{name}-narrowed.yaml"
        file.write_text(yaml.safe_dump(settings_of(name, narrow, hub)), encoding="utf-8")
        (folder / "home" / "ckpt").mkdir(parents=True, exist_ok=True)
        environment = {
            "HF_ENDPOINT": hub.url,
            "ANYTOANY_LOOPBACK_HTTP": "1",
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "ANYTOANY_HOME": str(folder / "home"),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        yield Narrowed(file, hub, environment, made)


def read(file: Path) -> Any:
    """What a JSON file says."""
    return json.loads(file.read_text(encoding="utf-8"))
