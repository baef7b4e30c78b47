"""Opens sounds, in blocks of bounded memory, and believes no length that a header states.

libsndfile reads what it can, FFmpeg the rest. What a file says of its own length is compared with what is in it: sizes in
RIFF, AIFF and AU files with the file's, the samples of compressed files with their packets.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import soundfile

from anytoany_lib.media.containers import MediaError, open_container, stream_of, stream_span
from anytoany_lib.media.downmixing import downmix

MAX_SAMPLES = 600 * 192_000  # of one channel: 460 MB
_BLOCK = 2**19  # samples of all channels together
_TAG = 128  # bytes at the end that are no samples: an ID3 tag, or padding
_SLACK = 4000  # samples by which MP3 decoders differ at the ends of a sound


def read_mono(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    """The first `max_seconds` of a sound as float32 mono (N,) and its rate in Hz; the decoders' own errors come through."""
    try:
        mono, rate, packed = _by_libsndfile(path, max_seconds)
    except soundfile.LibsndfileError:
        return _by_ffmpeg(path, max_seconds)
    if packed and len(mono) < int(max_seconds * rate):
        there = _packet_seconds(path)
        if there is not None and min(there, max_seconds) > (1.02 * len(mono) + _SLACK) / rate:
            return _by_ffmpeg(path, max_seconds)
    return mono, rate


def sound_header(path: Path) -> float:
    """Seconds of sound in the file, found without decoding it."""
    try:
        with _libsndfile(path) as file:
            stated = file.frames / file.samplerate
            if not _is_packed(file):
                return stated
    except soundfile.LibsndfileError:
        return stream_span(path, "audio")[1]
    there = _packet_seconds(path)
    return stated if there is None else there


def by_libsndfile_alone(path: Path) -> bool:
    """Whether a file is of a form that holds nothing but sound: WAV, AIFF, AU or FLAC."""
    try:
        with _libsndfile(path) as file:
            return file.format in ("WAV", "WAVEX", "AIFF", "AU", "FLAC", "RF64", "W64", "CAF")
    except soundfile.LibsndfileError:
        return False


def _by_libsndfile(path: Path, max_seconds: float) -> tuple[np.ndarray, int, bool]:
    """(mono, rate, whether it is compressed, so that its stated length stands alone)."""
    with _libsndfile(path) as file:
        rate, channels, packed = file.samplerate, file.channels, _is_packed(file)
        limit = int(max_seconds * rate)
        _bounded(min(limit, file.frames), path)

    def blocks() -> Iterator[np.ndarray]:
        with _libsndfile(path) as file:
            left = limit
            while left > 0:
                size = min(left, max(1, _BLOCK // channels))
                block = file.read(size, dtype="float32", always_2d=True)
                if not len(block):
                    return
                yield block
                left -= len(block)

    return downmix(blocks), rate, packed


def _by_ffmpeg(path: Path, max_seconds: float) -> tuple[np.ndarray, int]:
    found = _decoded(path, max_seconds, {})
    if len(found[0]):
        return found
    # A damaged edit list can hide all that there is.
    return _decoded(path, max_seconds, {"ignore_editlist": "1"})


def _decoded(path: Path, max_seconds: float, options: dict[str, str]) -> tuple[np.ndarray, int]:
    """The first sound track by FFmpeg: mono (N,) and its rate."""
    with open_container(path, options) as container:
        rate = int(stream_of(container, "audio", path).rate or 0)
    if rate <= 0:
        raise MediaError("unreadable", f"the sampling rate is {rate}", path)

    def blocks() -> Iterator[np.ndarray]:
        with open_container(path, options) as container:
            stream = stream_of(container, "audio", path)
            resampler = av.AudioResampler(format="fltp", rate=rate)
            left, read = int(max_seconds * rate), 0
            for frame in container.decode(stream):
                for part in resampler.resample(frame):
                    block = part.to_ndarray().T[: left - read]
                    read += len(block)
                    _bounded(read, path)
                    yield block
                if read >= left:
                    return

    return downmix(lambda: _gathered(blocks())), rate


def _gathered(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples in fewer, larger blocks: a codec's frames are too short to look at their spectrum."""
    held: list[np.ndarray] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += block.size
        if size >= _BLOCK:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


def _bounded(samples: int, path: Path) -> None:
    if samples > MAX_SAMPLES:
        raise MediaError("too large", f"over {MAX_SAMPLES:,} samples a channel", path)


def _is_packed(file: soundfile.SoundFile) -> bool:
    # The pages of an Ogg have checksums: what they state is whole, or the file is refused.
    return file.format in ("FLAC", "MP3", "MPEG")


def _packet_seconds(path: Path) -> float | None:
    """Seconds of the packets in a compressed file, undecoded; None if FFmpeg does not open it."""
    try:
        with open_container(path) as container:
            stream = stream_of(container, "audio", path)
            ticks = sum(packet.duration or 0 for packet in container.demux(stream))
            return float(ticks * stream.time_base)
    except (MediaError, av.FFmpegError):  # libsndfile has read it: that stands
        return None


def _libsndfile(path: Path) -> soundfile.SoundFile:
    """The sound as libsndfile opens it, with a wrong size in its header put right."""
    mended = _mended_size(path)
    return soundfile.SoundFile(path if mended is None else _Mended(path, *mended))


class _Mended(io.FileIO):
    """A file of which a few bytes read otherwise than they stand on the disk."""

    def __init__(self, path: Path, at: int, content: bytes):
        super().__init__(path)
        self._at, self._content = at, content

    def readinto(self, buffer: Any) -> int:
        """Reads as a file does, and lays the mended bytes over what was read."""
        start = self.tell()
        view = memoryview(buffer).cast("B")
        count = super().readinto(view) or 0
        first, last = max(start, self._at), min(start + count, self._at + len(self._content))
        if first < last:
            view[first - start : last - start] = self._content[first - self._at : last - self._at]
        return count

    def read(self, size: int | None = -1) -> bytes:
        """The same for those who want new bytes."""
        left = os.fstat(self.fileno()).st_size - self.tell()
        found = bytearray(left if size is None or size < 0 else size)
        return bytes(found[: self.readinto(found)])


def _mended_size(path: Path) -> tuple[int, bytes] | None:
    """(place, bytes) where a header states fewer samples than there are; None if it is right or of no such form."""
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b".snd":
            begins, stated = (int.from_bytes(head[at : at + 4], "big") for at in (4, 8))
            return None if 0 <= length - begins - stated <= _TAG else (8, b"\xff" * 4)
        if head[:4] in (b"RIFF", b"RIFX") and head[8:] == b"WAVE":
            return _short_chunk(file, length, b"data", "big" if head[3:4] == b"X" else "little")
        if head[:4] == b"FORM" and head[8:11] == b"AIF":
            return _short_chunk(file, length, b"SSND", "big")
    return None


def _short_chunk(
    file: io.BufferedReader, length: int, name: bytes, order: Literal["little", "big"]
) -> tuple[int, bytes] | None:
    """Where the size of the samples' chunk stands, and what it is, if neither a chunk nor the end comes behind it."""
    at = 12
    while at + 8 <= length:
        file.seek(at)
        found, size = file.read(4), int.from_bytes(file.read(4), order)
        if found == name:
            behind = at + 8 + size + size % 2
            if behind + _TAG >= length:
                return None
            file.seek(behind)
            following, room = file.read(4), int.from_bytes(file.read(4), order)
            a_chunk = following.isascii() and following.decode("ascii").isprintable()
            if a_chunk and behind + 8 + room <= length + 1:
                return None
            return at + 4, min(length - at - 8, 2**32 - 1).to_bytes(4, order)
        at += 8 + size + size % 2
    return None
