"""The replies that an evaluation draws, kept as they come, so that an interrupted one goes on where it was.

RUN/.evaluation/key.json                 all that the replies depend on
RUN/.evaluation/NAME-000064.safetensors  the replies from row 64 on: parts as JSON, conditions and media as tensors

Files appear whole, one for a few batches, and hold media without loss: what is read is what was drawn, to the last bit.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from anytoany_lib.config import Profile, resolve
from anytoany_lib.data.manifests import dataset_fingerprint
from anytoany_lib.data.rows import media_in
from anytoany_lib.features.dataset_features import fingerprint
from anytoany_lib.generation.decoding import Draft
from anytoany_lib.generation.events import PartialReply
from anytoany_lib.generation.replies import draw_all, render_all
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.messages import Message
from anytoany_lib.model import AnyToAny
from anytoany_lib.system import runs
from anytoany_lib.system.files import appearing_file, write_json

FOLDER, KEY = ".evaluation", "key.json"
_BATCHES = 4  # in one file; replies of like length among them share a batch
_UNREADABLE = [{"role": "user", "content": "-"}]

Parts = list[dict[str, Any]]


def key_of(
    run: Path, profile: Profile, data: Path, requests: Sequence[list[Message]], **settings: Any
) -> dict[str, str]:
    """What the replies to these requests depend on, each by name: weights, profile, frozen models, data, code and settings."""
    folders = [profile.encoder.folder, *(c.folder for c in profile.decoders.values())]
    frozen = [
        file
        for place in map(resolve, folders)
        for file in ([place] if place.is_file() else sorted(place.rglob("*.safetensors")))
    ]
    # Not all below the run folder: the replies themselves are there.
    trained = [*run.glob("*.safetensors"), *(run / runs.ADAPTER).glob("*.safetensors")]
    asked = json.dumps(requests, default=str)
    return {
        "run": fingerprint(sorted(trained)),
        "profile": hashlib.blake2b(str(profile).encode(), digest_size=8).hexdigest(),
        "frozen models": fingerprint(frozen),
        "data": dataset_fingerprint(data),
        "requests": hashlib.blake2b(asked.encode(), digest_size=8).hexdigest(),
        "code": json.dumps(runs.provenance()),
        **{name: str(value) for name, value in settings.items()},
    }


@contextmanager
def replies_folder(run: Path) -> Iterator[Path]:
    """The folder that keeps the replies of a run: in its own, or a temporary one where that cannot be written."""
    if os.access(run, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        yield run / FOLDER
        return
    with tempfile.TemporaryDirectory(prefix="anytoany-evaluation-") as folder:
        yield Path(folder) / FOLDER


def open_folder(folder: Path, key: dict[str, str]) -> Path:
    """The folder of kept replies; emptied, with the reason printed, if what it holds was drawn under another key."""
    old_key = json.loads((folder / KEY).read_text()) if (folder / KEY).is_file() else None
    if old_key == key:
        print(f"going on with the replies in {folder}")
        return folder
    if old_key is not None:
        other = [name for name in key | old_key if key.get(name) != old_key.get(name)]
        print(f"the replies in {folder} are not of this evaluation ({', '.join(other)}): anew")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / KEY, key, indent=1)
    return folder


def _write(path: Path, replies: Sequence[Parts]) -> None:
    """Parts of replies as one file; tensors are named by reply, part and key."""
    tensors: dict[str, torch.Tensor] = {}
    plain: list[Parts] = []
    for at, parts in enumerate(replies):
        plain.append([])
        for place, part in enumerate(parts):
            held = {
                key: torch.as_tensor(np.array(value) if key == "image" else value).contiguous()
                for key, value in part.items()
                if isinstance(value, Image.Image | np.ndarray | torch.Tensor)
            }
            tensors |= {f"{at} {place} {key}": tensor for key, tensor in held.items()}
            plain[-1].append({key: value for key, value in part.items() if key not in held})
    with appearing_file(path) as beside:
        save_file(tensors, beside, metadata={"replies": json.dumps(plain)})


def _read(path: Path) -> list[Parts]:
    """What `_write` wrote."""
    with safe_open(path, "pt") as file:
        replies = json.loads(file.metadata()["replies"])
        for name in file.keys():  # noqa: SIM118  it is no mapping
            at, place, key = name.split()
            value = file.get_tensor(name)
            if key != "condition":
                value = value.numpy()
            replies[int(at)][int(place)][key] = Image.fromarray(value) if key == "image" else value
    return replies


def read_or_draw(path: Path, draw_file: Callable[[], list[Parts]]) -> list[Parts]:
    """The replies in a file; drawn and written if there is none."""
    if not path.is_file():
        _write(path, draw_file())
    return _read(path)


def message_of(parts: Parts) -> Message:
    """Parts as an assistant message; what failed stands beside its content: "failed", a list of reasons."""
    reasons = [f"{part['type']}: {part['failed']}" for part in parts if "failed" in part]
    return PartialReply(parts).message() | ({"failed": reasons} if reasons else {})


def _why_unreadable(messages: list[Message]) -> str:
    """The reason why a medium of a request cannot be read, "" if all can."""
    for kind, medium in media_in(messages):
        try:
            media_files.as_media(kind, medium)
        except MediaError as error:
            return str(error)
    return ""


def draw(
    model: AnyToAny,
    prompts: Sequence[list[Message]],
    seed: int,
    sampling: Sampling,
    batch_size: int,
) -> list[Parts]:
    """The parts of replies, media included; a request with a medium that cannot be read has an empty reply that says so."""
    reasons = [""] * len(prompts)
    try:
        drafts = draw_all(model, prompts, seed, sampling, batch_size)
    except MediaError:
        reasons = [_why_unreadable(messages) for messages in prompts]
        readable = [_UNREADABLE if r else p for p, r in zip(prompts, reasons, strict=True)]
        drafts = draw_all(model, readable, seed, sampling, batch_size)
    for draft, reason in zip(drafts, reasons, strict=True):
        if reason:
            draft.parts = [{"type": "text", "text": "", "failed": reason}]
    render_all(model, drafts, seed, sampling, batch_size)
    return [draft.parts for draft in drafts]


def _in_files(
    folder: Path,
    name: str,
    count: int,
    batch_size: int,
    draw_group: Callable[[int, int], list[Parts]],
) -> list[Message]:
    """The replies 0 to `count`, read from the files of a folder; `draw_group(start, end)` draws those of a file that is missing."""
    replies, step = [], _BATCHES * batch_size
    for start in tqdm(range(0, count, step), desc=name):
        draw_file = partial(draw_group, start, start + step)
        replies += read_or_draw(folder / f"{name}-{start:06d}.safetensors", draw_file)
    return [message_of(parts) for parts in replies]


def reply_to(
    model: AnyToAny,
    prompts: Sequence[list[Message]],
    folder: Path,
    name: str,
    seed: int = 0,
    sampling: Sampling | None = None,
    batch_size: int = 16,
) -> list[Message]:
    """The replies to requests, `name` in the progress bar; those in the folder are read instead of drawn.

    The seeds of a reply and of each of its media are `seed` and their places among the requests alone. What shares a batch
    with it changes how sums are rounded, and nothing more; the same requests, batch size and number of threads share the same
    batches, interrupted or not, and give the same replies to the last bit.
    """

    def draw_group(start: int, end: int) -> list[Parts]:
        return draw(model, prompts[start:end], seed + start, sampling or Sampling(), batch_size)

    return _in_files(folder, name, len(prompts), batch_size, draw_group)


class Drawing(NamedTuple):
    """What several sets of replies are drawn with: the model, the folder that keeps them, the seed, and requests at once."""

    model: AnyToAny
    folder: Path
    seed: int
    batch_size: int

    def replies(
        self, prompts: Sequence[list[Message]], name: str, sampling: Sampling | None = None
    ) -> list[Message]:
        """The replies to requests; see `reply_to`."""
        return reply_to(
            self.model, prompts, self.folder, name, self.seed, sampling, self.batch_size
        )

    def media(self, kind: str, conditions: torch.Tensor, name: str) -> list[Message]:
        """As `replies`, for media of conditions (N, *condition) that no language model chose, each the only part of a reply."""

        def draw_group(start: int, end: int) -> list[Parts]:
            drafts = [Draft([{"type": kind, "condition": one}]) for one in conditions[start:end]]
            render_all(self.model, drafts, self.seed + start, None, self.batch_size)
            return [draft.parts for draft in drafts]

        return _in_files(self.folder, name, len(conditions), self.batch_size, draw_group)
