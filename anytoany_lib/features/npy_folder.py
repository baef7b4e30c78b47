"""Caption embeddings as NExT-GPT's own script leaves them: a folder with one `MEDIUM.npy` for each caption.

MEDIUM is the media file's name with its extension (`001312382.jpg.npy`), fp16 without a batch axis. A captioned row's
medium names its file; instruction data names it in the record, which the reader keeps in the row's meta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from anytoany_lib.data.rows import Row, media_in
from anytoany_lib.modalities import MEDIA_KINDS

_COMPARED, _ALIKE = 4, 0.9


def _named(row: Row) -> Iterator[tuple[str, str, str]]:
    """(kind, caption, file name) of each caption embedding that a row may have."""
    if "caption" in row.meta:
        medium = PurePosixPath(media_in(row.messages)[0][1]).name
        yield row.meta["kind"], row.meta["caption"], f"{medium}.npy"
    yield from (tuple(one) for one in row.meta.get("embeddings", []))


def files_of(rows: Iterable[Row], folder: Path) -> dict[str, dict[str, Path]]:
    """kind -> caption -> its file, for those captions that have one in the folder.

    A file that several captions have, as media of the same name in two folders do, is nobody's. FileNotFoundError if no
    caption has one: the folder is another dataset's, or none of this sort.
    """
    there = {path.name for path in folder.glob("*.npy")}
    claims: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        for kind, caption, name in _named(row):
            if name in there:
                claims.setdefault(name, set()).add((kind, caption))
    files: dict[str, dict[str, Path]] = {kind: {} for kind in MEDIA_KINDS}
    for name, claimed in claims.items():
        if len(claimed) == 1:
            kind, caption = claimed.pop()
            files[kind].setdefault(caption, folder / name)
    if not any(files.values()):
        raise FileNotFoundError(
            f"{folder}: expected files named like a medium of the data with .npy behind it, found {len(there)} .npy "
            "files of other or ambiguous names; name the folder that holds the caption embeddings, or leave out --npy"
        )
    return files


def read(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The caption embedding in a file, `shape`. ValueError if it has another one or cannot be read."""
    try:
        row = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{file} is no readable .npy file ({error}): get it again, or delete it and it is computed"
        ) from error
    if row.shape != shape:
        raise ValueError(
            f"{file} is {row.shape}, the profile's decoder is told by {shape}: these files were made for another "
            "decoder; leave out --npy, or name the decoder they were made for in the profile"
        )
    return row


def check_model(
    files: dict[str, Path], shape: tuple[int, ...], encode: Callable[[Sequence[str]], np.ndarray]
) -> None:
    """ValueError unless a few of the files (caption -> file) hold what the decoder's own text encoder gives."""
    captions = list(files)[:_COMPARED]
    rows = [read(files[caption], shape) for caption in captions]
    for caption, row, own in zip(captions, rows, encode(captions), strict=True):
        row = row.astype(np.float32)
        cosine = float((row * own).sum() / (np.linalg.norm(row) * np.linalg.norm(own)))
        if not cosine >= _ALIKE:
            raise ValueError(
                f"{files[caption]} is not what the decoder's text encoder gives for {caption!r} (cosine {cosine:.2f}, "
                f"expected {_ALIKE} or more): these files were made for another decoder; leave out --npy"
            )
