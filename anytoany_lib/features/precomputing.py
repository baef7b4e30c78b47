"""What the frozen models make of a dataset, computed once: encoder embeddings of its media, of each caption the condition
that a decoder's own text encoder gives, and, if a stage of the profile has a denoising term, the decoders' latents of the
media that are to be generated.

    anytoany features --profile P --data OUT [--plan] [--npy FOLDER]

fills the caches (see `cache`) below OUT/features, `accelerate launch -m anytoany_lib.features ...` with several processes;
begun again it goes on where it was. `--plan` only says what that would cost. OUT may be a URL (see `remote`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from anytoany_lib.config import Profile, resolve
from anytoany_lib.features import npy_folder
from anytoany_lib.features.cache import SAVE_EVERY, processes
from anytoany_lib.features.contents import contents_to_embed, rows_to_embed
from anytoany_lib.features.costs import estimate_costs
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.frozen_models import FrozenModels
from anytoany_lib.llm import pick_device
from anytoany_lib.system import terminal
from anytoany_lib.system.files import alone
from anytoany_lib.system.remote import published


def precompute(
    profile: Profile,
    data: str | Path,
    npy: str | Path | None = None,
    save_every: float = SAVE_EVERY,
) -> dict[str, int]:
    """Fills the caches of a dataset for its training and validation rows; returns the number of new rows of each sort.

    Interrupted work goes on where it was: what is cached is not computed again, and a kill loses `save_every` seconds.
    `npy` is a folder of caption embeddings that NExT-GPT made: those are taken over, and the others computed. A second
    call from elsewhere waits for the first. What `data` names by a URL is uploaded at the end, however it ends.
    """
    with published(data) as folder, _alone(folder):
        return _precomputed(profile, folder, npy, save_every)


def _alone(data: Path) -> AbstractContextManager[None]:
    """Waits until no other run fills the features of a dataset; the processes of one launch share the work."""
    if not processes().is_main_process or not data.is_dir():
        return nullcontext()
    return alone(data / "features.lock", f"computes the features of {data}")


def _precomputed(
    profile: Profile, data: Path, npy: str | Path | None, save_every: float
) -> dict[str, int]:
    state = processes()
    with state.main_process_first():
        store = DatasetFeatures(profile, data, repair=state.is_main_process)
    needed = contents_to_embed(profile, store.data)
    models = FrozenModels(profile, pick_device())
    added = {"media": 0, "captions": 0}
    if npy is not None:
        files = npy_folder.files_of(rows_to_embed(store.data), resolve(npy))
        added["npy"] = sum(
            store.take_over(kind, named, models, save_every)
            for kind, named in files.items()
            if named
        )
    for kind, paths in needed.media.items():
        added["media"] += store.fill_media(kind, paths, models, save_every)
    for kind, texts in needed.captions.items():
        models.release()  # one after the other: together they fill a card
        if texts:
            added["captions"] += store.fill_captions(kind, texts, models, save_every)
    for kind in store.latents:
        models.release()
        new = store.fill_latents(kind, needed.targets[kind], models, save_every)
        added["latents"] = added.get("latents", 0) + new
    return added


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: fill the caches of a dataset, or say what that would cost."""
    parser = terminal.parser(
        "features",
        "Fill the caches of a dataset, or say what that would cost.",
        "--profile tiny --data data/toy --plan",
    )
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--data", required=True, help="folder or URL with the manifests")
    parser.add_argument("--plan", action="store_true", help="only print what it would cost")
    parser.add_argument("--npy", help="folder of caption embeddings (MEDIUM.npy) to take over")
    parser.add_argument(
        "--save-every", type=float, default=SAVE_EVERY, help="seconds of work that a kill may lose"
    )
    given = parser.parse_args(arguments)
    profile = Profile.load(given.profile)
    if given.plan:
        print(estimate_costs(profile, given.data))
        return
    added = precompute(profile, given.data, given.npy, save_every=given.save_every)
    if processes().is_main_process:
        print(json.dumps(added))
