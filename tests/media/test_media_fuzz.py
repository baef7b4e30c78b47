"""Small valid files with one field of their metadata damaged: they are read as if it were whole, or refused by a MediaError."""

from __future__ import annotations

import io
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image, PngImagePlugin, TiffImagePlugin, features

from anytoany_lib.data.building import inspect
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError

RNG = np.random.default_rng(0)
GRID = RNG.integers(0, 255, (6, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)  # (48, 64, 3)
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)).astype(np.float32)
FILM = np.stack([np.roll(GRID, 8 * n, axis=1) for n in range(12)])


@dataclass
class Field:
    """Bytes of a file in which metadata stand; `free` if nothing that is seen or heard depends on them."""

    begin: int
    end: int
    free: bool = True
    mended: Callable[[bytearray], bytes] = bytes
    """Puts checksums right again."""


@dataclass
class File:
    kind: str
    data: bytes
    fields: list[Field]
    turns: bool = False
    """A damaged field may say that the picture is to be turned."""


def after(data: bytes, name: bytes, begin: int, end: int, **more) -> Field:
    """The bytes `begin` to `end` behind the first `name` in a file."""
    at = data.index(name)
    return Field(at + begin, at + end, **more)


def exif() -> Image.Exif:
    told = Image.Exif()
    told[0x010E], told[0x0110], told[0x0131], told[0x8769] = (
        "a bell",
        "camera",
        "kit",
        {36867: "2020"},
    )
    return told


def jpeg() -> File:
    file = io.BytesIO()
    more = {"exif": exif(), "icc_profile": bytes(200), "comment": b"a comment", "quality": 95}
    Image.fromarray(GRID).save(file, "JPEG", **more)
    data, fields, at = file.getvalue(), [], 2
    while data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] in (0xE1, 0xE2, 0xFE):
            fields.append(Field(at + 4, at + 2 + length))
        at += 2 + length
    return File("image", data, fields, turns=True)


def with_crc(begin: int) -> Callable[[bytearray], bytes]:
    """Puts the checksum of the PNG chunk at `begin` right."""

    def mended(data: bytearray) -> bytes:
        end = begin + 8 + int.from_bytes(data[begin : begin + 4], "big")
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[begin + 4 : end]))
        return bytes(data)

    return mended


def png() -> File:
    told = PngImagePlugin.PngInfo()
    told.add_text("Title", "a bell " * 4)
    told.add_text("Comment", "a bell " * 20, zip=True)
    told.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>a bell</x:xmpmeta>")
    file = io.BytesIO()
    more = {"pnginfo": told, "exif": exif(), "icc_profile": bytes(100), "dpi": (72, 72)}
    Image.fromarray(GRID).save(file, "PNG", **more)
    data, fields, at = file.getvalue(), [], 8
    while at < len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name not in (b"IHDR", b"IDAT", b"IEND", b"PLTE"):
            fields.append(Field(at + 8, at + 8 + length, mended=with_crc(at)))
            fields.append(Field(at + 8, at + 12 + length))
        at += 12 + length
    return File("image", data, fields, turns=True)


def webp() -> File:
    file = io.BytesIO()
    more = {"exif": exif(), "icc_profile": bytes(100), "xmp": b"<x:xmpmeta/>" * 4, "lossless": True}
    Image.fromarray(GRID).save(file, "WEBP", **more)
    data, fields = file.getvalue(), []
    for name in (b"ICCP", b"EXIF", b"XMP "):
        at = data.index(name, 30)
        fields.append(Field(at + 8, at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")))
    return File("image", data, fields, turns=True)


def tiff(compression: str | None) -> File:
    told = TiffImagePlugin.ImageFileDirectory_v2()
    told[270], told[305], told[306], told[315] = (
        "a bell",
        "the kit",
        "2020:01:01 00:00:00",
        "someone",
    )
    file = io.BytesIO()
    Image.fromarray(GRID).save(file, "TIFF", tiffinfo=told, compression=compression)
    data, fields = file.getvalue(), []
    at = int.from_bytes(data[4:8], "little")
    for entry in range(int.from_bytes(data[at : at + 2], "little")):
        begin = at + 2 + 12 * entry
        if int.from_bytes(data[begin : begin + 2], "little") in (270, 305, 306, 315):
            fields.append(Field(begin + 2, begin + 12, free=False))
            place = int.from_bytes(data[begin + 8 : begin + 12], "little")
            fields.append(Field(place, place + 6))
    return File("image", data, fields)


def gif() -> File:
    file = io.BytesIO()
    Image.fromarray(GRID).quantize(16).save(file, "GIF", comment=b"a bell, a car and a train")
    data = file.getvalue()
    return File("image", data, [after(data, b"a bell", 0, 20)])


def avif() -> File:
    file = io.BytesIO()
    Image.fromarray(GRID).save(file, "AVIF", exif=exif(), icc_profile=bytes(100), quality=90)
    return File("image", file.getvalue(), [Field(4, 300, free=False)])


def sound(form: str, subtype: str | None = None) -> File:
    file = io.BytesIO()
    soundfile.write(file, TONE, 16000, format=form, subtype=subtype)
    data = file.getvalue()
    fields = {
        "WAV": lambda: [after(data, b"RIFF", 4, 8), after(data, b"data", 4, 8)],
        "AIFF": lambda: [after(data, b"FORM", 4, 8), after(data, b"COMM", 10, 14)],
        "AU": lambda: [Field(8, 12)],
        "FLAC": lambda: [Field(8, 18, free=False), Field(22, 26), Field(26, 42)],
        "MP3": lambda: [
            after(data, b"Xing", 4, 16, free=False),
            after(data, b"Xing", 16, 140, free=False),
        ],
        "OGG": lambda: [Field(0, 100, free=False), Field(100, 300, free=False)],
    }[form]()
    return File("audio", data, fields)


def tagged_wav() -> File:
    whole = sound("WAV").data
    info = (
        b"INFO"
        + b"INAM"
        + struct.pack("<I", 8)
        + b"a bell\0\0"
        + b"ICMT"
        + struct.pack("<I", 8)
        + b"comment\0"
    )
    data = (
        whole
        + b"LIST"
        + struct.pack("<I", len(info))
        + info
        + b"id3 "
        + struct.pack("<I", 20)
        + b"ID3\3"
        + bytes(16)
    )
    begin = len(whole)
    return File(
        "audio",
        data,
        [Field(begin + 8, begin + 8 + len(info)), Field(4, 8), Field(len(data) - 20, len(data))],
    )


def id3_mp3() -> File:
    """A sound with a cover in front of it."""
    cover = b"\0image/png\0\3\0" + png().data
    frame = b"APIC" + struct.pack(">I", len(cover)) + b"\0\0" + cover
    title = b"TIT2" + struct.pack(">I", 7) + b"\0\0" + b"\0a bell"
    body = title + frame + bytes(64)
    size = bytes((len(body) >> shift) & 127 for shift in (21, 14, 7, 0))
    data = b"ID3\3\0\0" + size + body + sound("MP3").data
    return File("audio", data, [Field(10, 10 + len(body)), Field(3, 6, free=False)])


def film(form: str, codec: str, sounds: bool, cover: bool = False) -> File:
    file = Path(tempfile.mkdtemp()) / "a"
    options = {"movflags": "faststart"} if form == "mp4" else {}
    with av.open(str(file), "w", format=form, options=options) as container:
        container.metadata.update(title="a bell and a car", comment="made for a test")
        stream = container.add_stream(
            codec, rate=4, options={"crf": "10"} if "x264" in codec else {}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["title"] = "a track"
        heard = (
            container.add_stream("aac" if form != "webm" else "libopus", rate=48000, layout="mono")
            if sounds
            else None
        )
        for number, pixels in enumerate(FILM):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 4)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if heard:
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 96000), np.float32), format="fltp", layout="mono"
            )
            frame.rate = 48000
            fit = av.AudioResampler(heard.codec_context.format.name, "mono", 48000)
            for part in fit.resample(frame):
                container.mux(heard.encode(part))
            container.mux(heard.encode())
    data = file.read_bytes()
    shutil.rmtree(file.parent)
    if form == "mp4":
        return File("video", data, fields_of_mp4(data))
    title = after(data, b"a bell", 0, 16)
    if form == "avi":
        return File(
            "video",
            data,
            [title, after(data, b"avih", 24, 28), after(data, b"strh", 40, 44, free=False)],
        )
    length = data.index(b"\x44\x89\x88") + 3
    return File("video", data, [title, Field(length, length + 8, free=False)])


def fields_of_mp4(data: bytes) -> list[Field]:
    return [
        after(data, b"mvhd", 8, 16, free=False),  # dates
        after(data, b"mvhd", 20, 24),  # how long it is said to last
        after(data, b"tkhd", 8, 16),
        after(data, b"tkhd", 24, 28),
        after(data, b"mdhd", 20, 24),
        after(data, b"elst", 8, 24, free=False),
        after(data, b"hdlr", 28, 40),
        after(data, b"a bell", 0, 16),
        after(data, b"meta", 0, 40, free=False),
    ]


def animation(form: str) -> File:
    file = io.BytesIO()
    first, *others = map(Image.fromarray, FILM[:6])
    more = {"lossless": True, "exif": exif().tobytes()} if form == "WEBP" else {"loop": 0}
    first.save(file, form, save_all=True, append_images=others, duration=100, **more)
    data = file.getvalue()
    fields = {
        "GIF": lambda: [after(data, b"NETSCAPE2.0", 12, 15, free=False)],
        "WEBP": lambda: [after(data, b"EXIF", 8, 40), after(data, b"ANIM", 8, 14)],
        "PNG": lambda: [after(data, b"acTL", 8, 12, mended=with_crc(data.index(b"acTL") - 4))],
    }[form]()
    return File("video", data, fields)


FILES: dict[str, Callable[[], File]] = {
    "a.jpg": jpeg,
    "a.png": png,
    "a.webp": webp,
    "a.tif": lambda: tiff(None),
    "b.tif": lambda: tiff("tiff_lzw"),
    "a.gif": gif,
    "a.wav": lambda: sound("WAV"),
    "f.wav": lambda: sound("WAV", "FLOAT"),
    "t.wav": tagged_wav,
    "a.aiff": lambda: sound("AIFF"),
    "a.au": lambda: sound("AU"),
    "a.flac": lambda: sound("FLAC"),
    "a.mp3": lambda: sound("MP3"),
    "c.mp3": id3_mp3,
    "a.ogg": lambda: sound("OGG"),
    "a.mp4": lambda: film("mp4", "libx264", False),
    "s.mp4": lambda: film("mp4", "libx264", True),
    "a.mkv": lambda: film("matroska", "libx264", False),
    "s.mkv": lambda: film("matroska", "libx264", True),
    "a.webm": lambda: film("webm", "libvpx", True),
    "a.avi": lambda: film("avi", "mpeg4", False),
    "m.gif": lambda: animation("GIF"),
    "m.webp": lambda: animation("WEBP"),
    "m.png": lambda: animation("PNG"),
}
if features.check("avif"):
    FILES["a.avif"] = avif


def same(kind: str, found: object, whole: object, turns: bool) -> bool:
    """Whether a medium is what it was, or a picture turned in one of the eight ways."""
    if kind == "audio":
        (samples, rate), (before, known) = found, whole  # type: ignore[misc]
        common = min(len(samples), len(before))
        longer = len(samples) >= 0.95 * len(before)
        return (
            rate == known
            and longer
            and float(np.abs(samples[:common] - before[:common]).max()) < 0.02
        )
    if kind == "video":
        return np.array_equal(found[0], whole[0])  # type: ignore[index]
    pixels, before = np.asarray(found), np.asarray(whole)
    ways = [np.rot90(flip, n) for flip in (before, before[::-1]) for n in range(4)]
    return any(np.array_equal(pixels, way) for way in (ways if turns else [before]))


def damaged(file: File, rng: np.random.Generator) -> Iterator[tuple[bytes, Field]]:
    """For ever: the file with up to eight bytes of one field changed, often to what is likely to be taken for a number."""
    values = (bytes(8), b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0\0\0\1" * 2, b"\1\0\0\0" * 2)
    while True:
        field = file.fields[rng.integers(len(file.fields))]
        data = bytearray(file.data)
        begin = int(rng.integers(field.begin, field.end))
        end = min(field.end, begin + int(rng.integers(1, 9)))
        chosen = int(rng.integers(2 * len(values)))
        content = values[chosen] if chosen < len(values) else rng.bytes(8)
        data[begin:end] = content[: end - begin]
        yield field.mended(data), field


def tried(name: str, count: int, folder: Path) -> tuple[int, int]:
    """Reads `count` variants of a file; (how many were read, how many refused)."""
    file = FILES[name]()
    path = folder / f"whole{Path(name).suffix}"
    path.write_bytes(file.data)
    whole, read, refused = media_files.load(file.kind, path), 0, 0
    assert media_files.kind_in(path) == file.kind
    variants = damaged(file, np.random.default_rng(zlib.crc32(name.encode())))
    path = folder / f"damaged{Path(name).suffix}"
    for _ in range(count):
        data, field = next(variants)
        path.write_bytes(data)
        try:
            media_files.kind_in(path)
            inspect(file.kind, path)
            found = media_files.load(file.kind, path)
        except MediaError as error:
            assert not field.free, f"{field}: {error}"
            refused += 1
            continue
        read += 1
        assert not field.free or same(file.kind, found, whole, file.turns), str(field)
        path.unlink()
    return read, refused


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_damaged_metadata_decide_nothing(name, tmp_path):
    read, refused = tried(name, 24, tmp_path)
    assert read + refused == 24


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_five_thousand_variants(name, tmp_path):
    count = -(-5000 // len(FILES))
    read, refused = tried(name, count, tmp_path)
    assert read + refused == count
