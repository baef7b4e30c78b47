"""Datasets: from a source folder to a manifest with its media, and the command that does it.

Readers give rows of a source folder; `build` checks and copies their media, drops what cannot be used,
splits by content and writes a manifest folder with its report. Media's headers are asked first, so that
a picture of a billion pixels or a film of three hours costs nothing.
Run as `anytoany data READER SOURCE OUT`; SOURCE and OUT may be URLs (see `remote`).
"""

import errno
import hashlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from anytoany_lib.data.formats.folders import read_folder, read_shards
from anytoany_lib.data.formats.instructions import is_file, read_instructions
from anytoany_lib.data.formats.parquet import read_parquet
from anytoany_lib.data.formats.published import (
    NEXTGPT,
    read_audiocaps,
    read_clotho,
    read_clotho_aqa,
    read_coco,
    read_msrvtt,
    read_music_avqa,
    read_nextgpt,
    read_prepared,
    read_wavcaps,
)
from anytoany_lib.data.formats.webdataset import unpacked
from anytoany_lib.data.ledger import DiskSet, Files, Splits
from anytoany_lib.data.manifests import (
    SCHEMA,
    SPLITS,
    RowWriter,
    StoredRow,
    read_manifest,
    splits_in,
    stored_row,
)
from anytoany_lib.data.reports import Measured, Report
from anytoany_lib.data.rows import DataError, Row, map_media, media_in, media_path
from anytoany_lib.media import media_files, senses
from anytoany_lib.media.clips import video_header
from anytoany_lib.media.containers import MediaError, decoding, existing_file
from anytoany_lib.media.segments import MAX_SECONDS, cut, name_of_cut, segment_in
from anytoany_lib.media.sounds import sound_header
from anytoany_lib.system import terminal
from anytoany_lib.system.files import appearing_whole, copy_or_link
from anytoany_lib.system.prefetch import in_order
from anytoany_lib.system.remote import is_url, local, published

MEDIA_FOLDER = "media"
SILENCE = 1e-4  # of full scale, -80 dB: less is the noise of an empty recording
# Kept rows until the splits are drawn: as they are stored, with the number of their first medium's source and its rank there.
_SPOOL = pa.schema(
    [*SCHEMA, ("captioned", pa.bool_()), ("number", pa.int32()), ("rank", pa.int64())]
)
_SPOOL_ROWS = 4096


class Seen(NamedTuple):
    """What a row's medium is: where its file lies, its path below MEDIA_FOLDER, its content key, and what it measures."""

    path: Path
    name: str
    key: str
    measured: Measured


# One function a format, from a source folder to neutral rows: it yields a row for each usable record, whose media are POSIX
# paths relative to the source, and tells the report what it dropped and why.
READERS: dict[str, Callable[[Path, Report], Iterator[Row]]] = {
    **{name: partial(read_prepared, dataset=name) for name in NEXTGPT},
    "nextgpt": read_nextgpt,
    "instructions": read_instructions,
    "folder": read_folder,
    "coco": read_coco,
    "clotho": read_clotho,
    "audiocaps": read_audiocaps,
    "wavcaps": read_wavcaps,
    "msrvtt": read_msrvtt,
    "clotho-aqa": read_clotho_aqa,
    "music-avqa": read_music_avqa,
}
# Readers of media that are no files of their own: they write them into a folder, to which the rows' paths are relative.
UNPACKING: dict[str, Callable[[Path, Path, Report], Iterator[Row]]] = {
    "webdataset": lambda source, target, log: read_shards(unpacked(source, target, log), log),
    "parquet": read_parquet,
}
ALL_READERS = READERS | dict.fromkeys(UNPACKING, read_folder)


def build(
    reader: str,
    source: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
    link: bool = False,
    overwrite: bool = False,
) -> Report:
    """Read a source folder into the manifest folder OUT, whole or not at all, and return its report.

    Media are copied (with `link` hard-linked where the disk allows) below OUT/media. The fractions
    go to validation and test, of every source at least one medium; rows of one medium stay together.
    DataError if nothing can be kept, or if OUT holds anything (`overwrite` replaces a manifest).
    """
    source, out, started = Path(source), Path(out).resolve(), time.perf_counter()
    fractions = (validation_fraction, test_fraction)
    _check_given(reader, source, out, fractions)
    check_target(out, overwrite)
    with appearing_whole(out) as work:
        scratch = work / "scratch"
        scratch.mkdir()
        with Files(scratch / "files") as files, Splits(scratch / "splits", seed) as splits:
            report, folder = Report(files), source
            if reader in UNPACKING:
                # What was unpacked is nobody else's: its files can be linked.
                folder, link = scratch / "unpacked" / source.resolve().name, True
                folder.mkdir(parents=True)
                rows = UNPACKING[reader](source, folder, report)
            else:
                rows = ALL_READERS[reader](source, report)
            _spool(_kept(rows, folder, work, link, report, splits), scratch / "rows")
            report.count_files(source, without=work)
            if reader == "webdataset":
                report.count_files(folder)  # the members of its shards
            if not report.kept_rows:
                raise DataError(f"{source}: nothing could be kept. {report}")
            splits.choose(*fractions)
            report.splits = _distribute(scratch / "rows", splits, work)
        shutil.rmtree(scratch)
        report.files, report.seconds = None, time.perf_counter() - started
        report.save(work / "report.json")
    return report


def _check_given(reader: str, source: Path, out: Path, fractions: tuple[float, float]) -> None:
    if reader not in ALL_READERS:
        raise DataError(f"unknown reader {reader!r}: expected one of {', '.join(ALL_READERS)}")
    if min(fractions) < 0 or sum(fractions) >= 1:
        raise DataError("validation and test fractions are at least 0 and add up to less than 1")
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if source.resolve().is_relative_to(out):
        raise DataError(f"{out}: holds the source {source}; choose another OUT")


def check_target(out: Path, overwrite: bool) -> None:
    """DataError unless a manifest may be put at OUT: nothing is there, or a manifest that may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "report.json").is_file() or not splits_in(out):
        raise DataError(f"{out}: exists and is not a manifest folder; choose another OUT")
    if not overwrite:
        raise DataError(f"{out}: exists; choose another OUT, or overwrite it (--overwrite)")


def _kept(
    rows: Iterable[Row], source: Path, work: Path, link: bool, report: Report, splits: Splits
) -> Generator[tuple, None, None]:
    """Rows whose media are usable, not seen before and now below `work`, as the spool has them."""
    scratch, copies = work / "scratch", work / MEDIA_FOLDER
    look = partial(_examine, source=source, cuts=scratch / "segments")
    examined = in_order(
        lambda row: (row, look(row)), rows, worth=lambda row: bool(media_in(row.messages))
    )
    with DiskSet(scratch / "contents") as seen, DiskSet(scratch / "ids") as ids, closing(examined):
        for row, found in tqdm(examined, desc="rows", unit="row"):
            names = (name for _, name in media_in(row.messages))
            # Of a segment the file that it is of.
            files = [source / (segment[0] if (segment := segment_in(n)) else n) for n in names]
            if isinstance(found, MediaError):
                report.drop(found.reason, str(found.path), files)
                continue
            first = next(iter(found.values()), None)
            stored = stored_row(_moved(row, found))
            if not seen.add(_content(row, stored, found)):
                report.drop("duplicate", next(iter(found), row.id), files)
                continue
            try:
                shown = found.values()
                added = [one for one in shown if copy_or_link(one.path, copies / one.name, link)]
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                report.drop("name too long", row.id, files)
                continue
            for file in files:
                report.read_file(file)
            report.kept(row, [one.measured for one in added])
            place = splits.add(
                row.source, first.key if first else row.id, row.meta.get("split", "")
            )
            yield _unused(row.id, ids), *stored[1:], *place


def _content(row: Row, stored: StoredRow, found: dict[str, Seen]) -> bytes:
    """What the row says and shows, wherever its media lie: 16 bytes."""
    text = stored.messages
    if found:
        text = json.dumps(map_media(row.messages, lambda _, name: found[name].key))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _spool(kept: Generator[tuple, None, None], path: Path) -> None:
    """Writes kept rows to a file, some thousand at a time."""
    with (
        closing(kept),  # the threads behind it end before the folder that they write into goes
        pq.ParquetWriter(path, _SPOOL, compression="zstd", write_statistics=False) as writer,
    ):
        while some := list(islice(kept, _SPOOL_ROWS)):
            columns = zip(zip(*some, strict=True), _SPOOL, strict=True)
            arrays = [pa.array(column, field.type) for column, field in columns]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_SPOOL))


def _distribute(spool: Path, splits: Splits, folder: Path) -> dict[str, int]:
    """Writes every spooled row to the file of its split, in the order they came; the rows of each."""
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(RowWriter(folder / f"{split}.parquet")) for split in SPLITS
        }
        file = stack.enter_context(pq.ParquetFile(spool))
        # One group at a time: an iterator over batches keeps what it has read.
        for group in range(file.num_row_groups):
            columns = (column.to_pylist() for column in file.read_row_group(group).columns)
            for *stored, number, rank in zip(*columns, strict=True):
                writers[splits.of(number, rank)].add(StoredRow(*stored))
    for split, writer in writers.items():
        if not writer.rows:
            (folder / f"{split}.parquet").unlink()
    return {split: writer.rows for split, writer in writers.items()}


def _examine(row: Row, source: Path, cuts: Path) -> dict[str, Seen] | MediaError:
    """Opens every medium of a row, by the names it has there; a segment is cut first, into a file in `cuts`."""
    found = {}
    for kind, name in media_in(row.messages):
        try:
            stored = name
            segment = segment_in(name) if isinstance(name, str) else None
            if segment is None or is_file(source / name):
                path = media_path(source, name)
            else:
                stored = name_of_cut(name, kind)
                path = cuts / PurePosixPath(stored).name
                cut(kind, media_path(source, segment[0]), *segment[1:], path)
            measured = inspect(kind, path)
            found[name] = Seen(path, stored, media_files.content_key(kind, path), measured)
        except MediaError as error:
            return MediaError(error.reason, error.detail, name)
    return found


def inspect(kind: str, path: str | Path) -> Measured:
    """Opens a medium as training will, and measures it. MediaError if it cannot be decoded, is "too large" (long) or "silent"."""
    path = existing_file(path)
    if kind in senses.FORMS:
        values = senses.FORMS[kind](path)
        return Measured(kind, path.stat().st_size, min(values.shape) if kind != "imu" else 0)
    look = {"image": _inspect_image, "audio": _inspect_sound, "video": _inspect_clip}
    with decoding(path):
        return look[media_files.check_kind(kind)](path, path.stat().st_size)


def _inspect_image(path: Path, size: int) -> Measured:
    return Measured("image", size, short_side=min(media_files.load_image(path).size))


def _inspect_sound(path: Path, size: int) -> Measured:
    stated = _bounded(sound_header(path), path)
    samples, rate = media_files.load_audio(path)
    if np.abs(samples).max() < SILENCE:
        raise MediaError("silent", f"no sample reaches {SILENCE:g} of full scale", path)
    read = len(samples) / rate
    return Measured("audio", size, seconds=read if read < media_files.MAX_AUDIO_SECONDS else stated)


def _inspect_clip(path: Path, size: int) -> Measured:
    seconds, width, height = video_header(path)
    _bounded(seconds, path)
    # Three frames show that a clip opens and reaches its end, at a fraction of the cost.
    media_files.load_video(path, num_frames=3, short_side=64)
    return Measured("video", size, min(width, height), seconds)


def _bounded(seconds: float, path: Path) -> float:
    if seconds > MAX_SECONDS:
        raise MediaError("too large", f"{seconds:,.0f} s, over {MAX_SECONDS:,.0f} s", path)
    return seconds


def _unused(name: str, used: DiskSet) -> str:
    """`name`, numbered if it is among the used ones; it is used from now on."""
    number, unused = 1, name
    while not used.add(unused):
        number += 1
        unused = f"{name}#{number}"
    return unused


def _moved(row: Row, found: dict[str, Seen]) -> Row:
    """The row as the manifest has it: media below MEDIA_FOLDER, their content keys in its meta."""
    messages = row.messages
    if found:
        messages = map_media(messages, lambda _, name: f"{MEDIA_FOLDER}/{found[name].name}")
    content = {f"{MEDIA_FOLDER}/{one.name}": one.key for one in found.values()}
    return Row(row.id, row.source, messages, {**row.meta, "content": content})


def _place(text: str) -> str | Path:
    """A folder or URL on the command line."""
    return text if is_url(text) else Path(text).absolute()


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: build a dataset, and say what became of its rows."""
    parser = terminal.parser(
        "data",
        "Turn a dataset's own files into a manifest.",
        "folder path/to/media data/mine",
        "nextgpt path/to/T-X_pair_data data/nextgpt --link",
    )
    parser.add_argument(
        "reader", metavar="READER", choices=ALL_READERS, help=", ".join(ALL_READERS)
    )
    parser.add_argument(
        "source", metavar="SOURCE", type=_place, help="folder or URL with the dataset's files"
    )
    parser.add_argument("out", metavar="OUT", type=_place, help="folder or URL to make")
    parser.add_argument("--seed", type=int, default=0, help="draws the splits (default: 0)")
    part: dict[str, Any] = {"type": float, "default": 0.05, "help": "its part (default: 0.05)"}
    parser.add_argument("--validation", dest="validation_fraction", **part)
    parser.add_argument("--test", dest="test_fraction", **part)
    parser.add_argument("--link", action="store_true", help="hard-link media instead of copying")
    parser.add_argument("--overwrite", action="store_true", help="replace the manifest in OUT")
    given = vars(parser.parse_args(arguments))
    reader, source, target = (given.pop(name) for name in ("reader", "source", "out"))
    # Ends through `build`'s own clearing up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with published(target) as out:
        report = build(reader, local(source), out, **given)
    print(report)
    sizes = (f"{split} {len(read_manifest(out, split))}" for split in splits_in(out))
    print(f"{target}: {', '.join(sizes)}")
