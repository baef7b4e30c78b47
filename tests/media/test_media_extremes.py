"""Media at the edges of what there is: thin, long, deep, out of phase, moving; and files whose length is stated wrongly."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image, features

from anytoany_lib.data.building import inspect
from anytoany_lib.encoders import imagebind_inputs
from anytoany_lib.encoders.imagebind_inputs import HUGE, prepare_image, prepare_video
from anytoany_lib.media import containers, file_types, media_files, pictures, sounds
from anytoany_lib.media.containers import MediaError
from anytoany_lib.media.file_types import SUFFIXES

RATE = 16000


def tone(pitch: float, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def loudness(samples: np.ndarray, pitch: float) -> float:
    """Amplitude of a pitch in a second of sound."""
    return 2 * abs(np.fft.rfft(samples[:RATE])[int(pitch)]) / RATE


def greys(count: int) -> np.ndarray:
    """Frame n is grey of level 4 n + 8."""
    levels = (8 + 4 * np.arange(count) % 240).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, 48, 64, 3)).copy()


def film(path: Path, frames: np.ndarray, begin: int = 0, sound: float = 0, codec: str = "") -> Path:
    """Four frames a second (25 with a `codec`), the first at `begin` quarters, beside so many seconds of sound."""
    with av.open(str(path), "w") as container:
        # AVI knows no time of showing: frames that are stored in another order have none there.
        more = {"bf": "0"} if path.suffix == ".avi" else {}
        stream = container.add_stream(codec or "libx264", rate=25 if codec else 4, options=more)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        heard = container.add_stream("aac", rate=RATE, layout="mono") if sound else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = begin + number, Fraction(1, 4 if not codec else 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if heard:
            frame = av.AudioFrame.from_ndarray(tone(440, sound)[None], format="fltp", layout="mono")
            frame.rate = RATE
            container.mux([*heard.encode(frame), *heard.encode()])
    return path


# --- channels ---


def test_channels_of_opposite_sign_are_heard(tmp_path):
    high = tone(1000)
    soundfile.write(tmp_path / "a.wav", np.stack([high, -high], axis=1), RATE)
    samples, _ = media_files.load_audio(tmp_path / "a.wav")
    assert loudness(samples, 1000) == pytest.approx(0.4, rel=0.01)
    assert inspect("audio", tmp_path / "a.wav").seconds == 1
    in_memory, _ = media_files.as_audio((np.stack([high, -high]), RATE))
    assert loudness(in_memory, 1000) == pytest.approx(0.4, rel=0.01)


def test_what_cancels_beside_what_does_not_is_heard(tmp_path):
    both, opposed = tone(300), tone(2000) * 0.3
    soundfile.write(tmp_path / "a.flac", np.stack([both + opposed, both - opposed], axis=1), RATE)
    samples, _ = media_files.load_audio(tmp_path / "a.flac")
    assert loudness(samples, 300) > 0.2 and loudness(samples, 2000) > 0.05


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_ordinary_channels_are_their_mean_to_the_bit(tmp_path, channels):
    rng = np.random.default_rng(0)
    many = rng.uniform(-0.5, 0.5, (300_000, channels)).astype(np.float32)
    many[:, 0] += np.sin(np.arange(300_000) / 20) * 0.2
    soundfile.write(tmp_path / "a.wav", many, RATE, subtype="FLOAT")
    samples, _ = media_files.load_audio(tmp_path / "a.wav")
    assert np.array_equal(samples, many.mean(axis=1))
    one = np.zeros((RATE, 6), np.float32)
    one[:, 2] = tone(500)
    soundfile.write(tmp_path / "b.wav", one, RATE, subtype="FLOAT")
    assert np.array_equal(media_files.load_audio(tmp_path / "b.wav")[0], one.mean(axis=1))


# --- lengths ---


@pytest.mark.parametrize("stated", [0, 100, 2**31 - 1, 2**32 - 1])
def test_all_samples_are_read_whatever_size_is_stated(tmp_path, stated):
    soundfile.write(tmp_path / "a.wav", tone(440), RATE)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", stated)
    (tmp_path / "b.wav").write_bytes(data)
    whole, _ = media_files.load_audio(tmp_path / "a.wav")
    assert np.array_equal(media_files.load_audio(tmp_path / "b.wav")[0], whole)


@pytest.mark.parametrize("seconds", [0.2, 0.5, 3])
@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "aiff", "au"])
def test_ordinary_sounds_are_what_libsndfile_reads(tmp_path, suffix, rate, seconds):
    soundfile.write(tmp_path / f"a.{suffix}", tone(440, seconds), rate)
    samples, found = soundfile.read(tmp_path / f"a.{suffix}", dtype="float32")
    read, known = media_files.load_audio(tmp_path / f"a.{suffix}")
    # mpg123 itself differs by a bit between two readings of one file.
    assert known == found == rate and len(read) == len(samples)
    assert np.abs(read - samples).max() <= (1e-6 if suffix == "mp3" else 0)


@pytest.mark.parametrize("stated", [0, 100, 8000, 2**36 - 1])
def test_all_samples_of_a_flac_are_read(tmp_path, stated):
    soundfile.write(tmp_path / "a.flac", tone(440), RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    told = struct.unpack(">Q", data[18:26])[0]
    data[18:26] = struct.pack(">Q", told >> 36 << 36 | stated)
    (tmp_path / "b.flac").write_bytes(data)
    whole, _ = media_files.load_audio(tmp_path / "a.flac")
    assert np.array_equal(media_files.load_audio(tmp_path / "b.flac")[0], whole)
    assert inspect("audio", tmp_path / "b.flac").seconds == 1


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov", "a.ts", "a.flv", "a.avi"])
@pytest.mark.parametrize(("begin", "sound"), [(0, 0), (0, 25), (20, 0)])
def test_lengths_and_beginnings_are_those_of_the_frames(tmp_path, name, begin, sound):
    path = film(tmp_path / name, greys(48), begin, sound)
    some, fps = media_files.load_video(path, num_frames=4)
    every, rate = media_files.load_video(path)
    assert len(every) == 48 and rate == pytest.approx(4, rel=0.05)
    assert fps == pytest.approx(4 / 12, rel=0.05)
    assert some[:, 24, 32, 0] == pytest.approx([8 + 4 * n for n in (6, 18, 30, 42)], abs=5)
    assert inspect("video", path).seconds == pytest.approx(12, rel=0.05)


@pytest.mark.parametrize("name", ["a.ts", "a.flv", "a.wmv", "a.mpg", "a.avi", "a.m4v", "a.ogv"])
def test_a_minute_in_every_form_is_sampled_to_its_end(tmp_path, name):
    codec = {"a.wmv": "wmv2", "a.mpg": "mpeg2video", "a.ogv": "libtheora"}.get(name, "mpeg4")
    codec = "flv1" if name == "a.flv" else codec
    frames = np.repeat(greys(60), 25, axis=0)
    try:
        path = film(tmp_path / name, frames, codec=codec)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this FFmpeg does not write {name} with {codec}: {error}")
    some, fps = media_files.load_video(path, num_frames=4)
    assert fps == pytest.approx(4 / 60, rel=0.05)
    assert some[:, 24, 32, 0] == pytest.approx([8 + 4 * n for n in (7, 22, 37, 52)], abs=8)
    assert media_files.kind_in(path) == "video" and path.suffix in SUFFIXES["video"]


def test_a_cover_is_no_film_and_the_first_real_track_is_read(tmp_path):
    cover = np.full((48, 64, 3), 200, np.uint8)
    with av.open(str(tmp_path / "a.mp3"), "w") as container:
        heard = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        shown = container.add_stream("mjpeg")
        shown.width, shown.height, shown.pix_fmt = 64, 48, "yuvj420p"
        shown.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(cover, format="rgb24")
        container.mux([*shown.encode(picture), *shown.encode()])
        frame = av.AudioFrame.from_ndarray(tone(440)[None], format="fltp", layout="mono")
        frame.rate = RATE
        container.mux([*heard.encode(frame), *heard.encode()])
    assert media_files.kind_in(tmp_path / "a.mp3") == "audio"
    assert loudness(media_files.load_audio(tmp_path / "a.mp3")[0], 440) > 0.3
    with pytest.raises(MediaError, match="holds no video"):
        media_files.load_video(tmp_path / "a.mp3")


def test_no_pixel_is_as_wide_as_a_damaged_number_says(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(60_000, 1)
        for pixels in greys(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    assert media_files.load_video(path)[0].shape == (8, 48, 64, 3)


# --- pictures ---


@pytest.mark.parametrize("size", [(1, 200_000), (200_000, 1), (3, 4000)])
def test_a_thin_picture_is_cut_before_it_is_scaled(size):
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 2, width // 2] = 255  # its middle
    prepared = prepare_image(HUGE, Image.fromarray(pixels))
    assert prepared.shape == (3, 224, 224) and prepared.max() > 1
    frames = np.zeros((4, min(height, 4000), min(width, 4000), 3), np.uint8)
    assert prepare_video(HUGE, frames, 4.0).shape == (15, 3, 2, 224, 224)


def test_cutting_first_gives_what_cutting_afterwards_gave(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (360, 40, 3), np.uint8)
    for picture in (Image.fromarray(pixels), Image.fromarray(pixels.swapaxes(0, 1).copy())):
        cut = prepare_image(HUGE, picture)
        monkeypatch.setattr(imagebind_inputs, "NARROWEST", 100)
        assert torch.allclose(cut, prepare_image(HUGE, picture), atol=0.02)
        monkeypatch.undo()


def test_sixteen_bits_with_a_transparent_grey(tmp_path):
    values = np.full((4, 4), 257 * 100, np.uint16)
    values[0, 0] = 257 * 30
    Image.fromarray(values).save(tmp_path / "a.png", transparency=257 * 30)
    shown = media_files.load_image(tmp_path / "a.png")
    assert shown.getpixel((0, 0)) == (255, 255, 255) and shown.getpixel((2, 2)) == (100, 100, 100)
    (tmp_path / "a.pgm").write_bytes(b"P5\n8 8\n65535\n" + np.full((8, 8), 25700, ">u2").tobytes())
    assert media_files.load_image(tmp_path / "a.pgm").getpixel((0, 0)) == (100, 100, 100)


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_what_is_clear_in_an_animation_is_white(tmp_path, suffix):
    frames = [Image.new("RGBA", (16, 16), (0, 0, 0, 0)) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.paste((0, 0, 250, 255), (4 * number, 0, 4 * number + 4, 16))
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, disposal=2)
    read, _ = media_files.load_video(path)
    assert len(read) == 3
    assert tuple(read[0, 8, 12]) == (255, 255, 255) and tuple(read[0, 8, 1]) == (0, 0, 250)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
@pytest.mark.parametrize("kind", [1, 2, 4, 5, 99])
def test_an_orientation_that_is_none_leaves_the_picture_as_it_is(value, kind):
    entry = struct.pack("<HHIHH", 0x0112, kind, 1, value, 0)
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + bytes(4)
    assert pictures.orientation_in_exif(exif) is None
    for cut in range(len(exif)):
        assert pictures.orientation_in_exif(exif[:cut]) is None


def test_wrong_exif_beside_a_right_orientation(tmp_path):
    entries = [
        struct.pack("<HHI", 0x100, 2, 4) + b"abc\0",
        struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0),
    ]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(entries) + bytes(4)
    Image.new("RGB", (60, 40)).save(tmp_path / "a.jpg", exif=exif)
    assert media_files.load_image(tmp_path / "a.jpg").size == (40, 60)
    assert media_files.as_image(Image.open(tmp_path / "a.jpg")).size == (40, 60)


# --- what is read, and what is not ---


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.avif")
    assert media_files.load_image(tmp_path / "a.avif").getpixel((9, 9))[0] > 200


def test_a_form_that_is_not_read_is_named(tmp_path):
    path = tmp_path / "b.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(200))
    for look in (media_files.load_image, media_files.kind_in):
        with pytest.raises(MediaError, match="HEIC photograph.*save it as JPEG"):
            look(path)


def test_every_ending_has_one_kind_and_one_type():
    endings = [ending for kind in SUFFIXES.values() for ending in kind]
    assert len(endings) == len(set(endings)) == len(file_types.MIME_OF)
    for kind, wanted in {
        "image": (".jpg", ".tif", ".tiff", ".jfif", ".avif"),
        "audio": (".wav", ".aiff", ".aac", ".opus"),
        "video": (".mp4", ".m4v", ".mpg", ".ts", ".flv", ".wmv", ".gif"),
    }.items():
        assert set(wanted) <= set(SUFFIXES[kind])
        assert file_types.kind_by_name("A B.c" + wanted[0].upper()) == kind
    assert file_types.kind_by_name("a.txt") is None


# --- bounds ---

_MEASURE = """
import resource, sys
from anytoany_lib import media
from anytoany_lib.media.media_files import MediaError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try: media.load(sys.argv[1], sys.argv[2])
except MediaError as error: print(error.reason)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


def cost(kind: str, path: Path) -> tuple[list[str], float]:
    """(reason it was refused for, if it was; MiB that reading it took)."""
    *reason, used = subprocess.run(
        [sys.executable, "-c", _MEASURE, kind, str(path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")[:-1]
    return reason, float(used)


def test_samples_channels_and_rate_are_bounded_before_they_are_decoded(tmp_path):
    """Three minutes of eight channels at FLAC's highest rate: 3.5 GiB as float32, a few MB on the disk."""
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 655_350, 8, format="FLAC") as file:
        for _ in range(180):
            file.write(np.zeros((655_350, 8), np.int16))
    reason, used = cost("audio", path)
    assert reason == ["too large"] and used < 100


def test_many_channels_are_mixed_in_bounded_memory(tmp_path):
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 48_000, 8, format="FLAC") as file:
        for _ in range(120):
            file.write(np.zeros((48_000, 8), np.int16))
    reason, used = cost("audio", path)  # 184 MB in all channels, 23 MB mixed
    assert not reason and used < 150


def test_a_transparent_picture_of_many_pixels_takes_little_more_than_itself(tmp_path):
    Image.new("RGBA", (6000, 5000), (9, 9, 9, 100)).save(tmp_path / "a.png", compress_level=1)
    _, used = cost("image", tmp_path / "a.png")  # 114 MiB as RGBA, as much as RGB
    assert used < 320


def test_decoders_share_what_memory_there_is(monkeypatch):
    monkeypatch.setattr(containers, "MAX_HELD_BYTES", 100)
    room, most, there, guard = containers._Room(), 0, 0, threading.Lock()

    def work() -> None:
        nonlocal most, there
        with room.taken(40):
            with guard:
                there += 1
                most = max(most, there)
            threading.Event().wait(0.02)
            with guard:
                there -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
    with room.taken(1000):  # alone
        pass


def test_the_bound_of_samples_holds_for_films_too(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", greys(8), sound=2)
    monkeypatch.setattr(sounds, "MAX_SAMPLES", 10_000)
    with pytest.raises(MediaError, match="too large"):
        media_files.load_audio(path)
