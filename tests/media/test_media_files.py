"""Media files: what comes back is what was written, and what cannot be used says why."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from anytoany_lib.media import clips, containers, media_files
from anytoany_lib.media.containers import MediaError

LEFT_RED = np.zeros((32, 48, 3), np.uint8)
LEFT_RED[:, :24] = (250, 10, 10)


def reason(kind, medium, **options):
    with pytest.raises(MediaError) as caught:
        media_files.load(kind, medium, **options)
    assert str(medium) in str(caught.value) and str(caught.value.path) == str(medium)
    return caught.value.reason


def tone(seconds=1.0, rate=16000, pitch=440.0):
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(
        np.float32
    )


def numbered_frames(count=12, height=48, width=64):
    """Frame n is grey of level 20 n."""
    levels = np.arange(count, dtype=np.uint8)[:, None, None, None] * 20
    return np.broadcast_to(levels, (count, height, width, 3)).copy()


def save_animation(path, durations):
    """`numbered_frames`, each shown for so many milliseconds."""
    first, *others = map(Image.fromarray, numbered_frames(len(durations)))
    options = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=durations, **options)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_image_round_trip(tmp_path, suffix):
    path = media_files.save_image(tmp_path / f"a.{suffix}", Image.fromarray(LEFT_RED))
    back = media_files.load_image(path)
    assert back.mode == "RGB" and back.size == (48, 32)
    assert np.abs(np.asarray(back)[:, 2:-2].astype(int) - LEFT_RED[:, 2:-2]).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == [f"a.{suffix}"]


def test_exif_orientation_is_applied_to_files_and_images_in_memory(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the red left becomes the top
    Image.fromarray(LEFT_RED).save(tmp_path / "a.jpg", exif=exif, quality=95)
    for medium in (tmp_path / "a.jpg", Image.open(tmp_path / "a.jpg")):
        turned = np.asarray(media_files.as_image(medium))
        assert turned.shape == (48, 32, 3)
        assert turned[4, 16, 0] > 200 and turned[-4, 16, 0] < 60


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_every_exif_orientation(tmp_path, orientation, suffix):
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :24], stored[:16, 24:], stored[16:, :24] = (250, 10, 10), (10, 250, 10), 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    shown = np.asarray(media_files.load_image(tmp_path / f"a.{suffix}")).astype(int)
    expected = TURNS[orientation](stored)
    assert shown.shape == expected.shape and np.abs(shown - expected).mean() < 12


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_picture_is_read(tmp_path, suffix):
    save_animation(tmp_path / f"a.{suffix}", [100] * 4)
    assert media_files.load_image(tmp_path / f"a.{suffix}").getpixel((32, 24)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["P", "L", "1", "LA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    picture = Image.new("RGB", (16, 16), "white")
    picture.paste("black", (8, 0, 16, 16))
    picture.convert(mode).save(tmp_path / f"a.{suffix}")
    back = media_files.load_image(tmp_path / f"a.{suffix}")
    assert back.mode == "RGB"
    assert min(back.getpixel((2, 8))) > 240 and max(back.getpixel((13, 8))) < 50


def test_transparency_palette_and_cmyk(tmp_path):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.putpixel((0, 0), (0, 0, 255, 255))
    clear.save(tmp_path / "a.png")
    clear.convert("P").save(tmp_path / "p.png", transparency=clear.convert("P").getpixel((4, 4)))
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    assert media_files.load_image(tmp_path / "a.png").getpixel((4, 4)) == (255, 255, 255)
    assert media_files.load_image(tmp_path / "a.png").getpixel((0, 0)) == (0, 0, 255)
    assert media_files.load_image(tmp_path / "p.png").getpixel((4, 4)) == (255, 255, 255)
    red = media_files.load_image(tmp_path / "c.jpg").getpixel((4, 4))
    assert red[0] > 200 and max(red[1:]) < 60


def test_sixteen_bit_image_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)).save(tmp_path / "a.png")
    assert media_files.load_image(tmp_path / "a.png").getpixel((0, 0)) == (100, 100, 100)


def test_bad_images(tmp_path, monkeypatch):
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[:1500])
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "script.eps").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    )
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "whole.jpg").write_bytes(whole.getvalue())
    assert reason("image", tmp_path / "cut.jpg") == "unreadable"
    assert reason("image", tmp_path / "zero.jpg") == "empty"
    assert reason("image", tmp_path / "text.png") == "unreadable"
    assert reason("image", tmp_path / "script.eps") == "unreadable"
    assert reason("image", tmp_path / "folder.png") == "unreadable"
    assert reason("image", tmp_path / "none.png") == "missing"
    assert reason("image", tmp_path / ("long" * 100)) == "unreadable"
    monkeypatch.setattr(containers, "MAX_PIXELS", 1000)
    assert reason("image", tmp_path / "whole.jpg") == "too large"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_stereo_files_become_mono(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.stack([tone(), np.zeros(16000)], axis=1), 16000)
    samples, rate = media_files.load_audio(path)
    assert rate == 16000 and samples.dtype == np.float32 and samples.ndim == 1
    assert abs(len(samples) - 16000) < 2400
    assert np.sqrt((samples[2000:14000] ** 2).mean()) == pytest.approx(0.25 / 2**0.5, rel=0.05)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_any_sampling_rate(tmp_path, suffix, rate):
    soundfile.write(tmp_path / f"a.{suffix}", tone(rate=rate), rate)
    samples, found = media_files.load_audio(tmp_path / f"a.{suffix}", rate=16000)
    assert found == 16000 and len(samples) == pytest.approx(16000, abs=2)
    assert np.abs(samples[500:15500] - tone()[500:15500]).max() < 5e-3


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [
        ("a.webm", "libopus", 48000, "mono"),  # what a browser's microphone gives
        ("a.webm", "libopus", 48000, "stereo"),
        ("a.ogg", "libopus", 24000, "mono"),
        ("a.mp3", "libmp3lame", 22050, "stereo"),
        ("a.m4a", "aac", 44100, "stereo"),
    ],
)
def test_compressed_sounds(tmp_path, name, codec, rate, layout):
    channels = 2 if layout == "stereo" else 1
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        samples = np.repeat(tone(rate=rate)[None], channels, axis=0)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.rate = rate
        fit = av.AudioResampler(stream.codec_context.format.name, layout, rate)
        for part in fit.resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    samples, found = media_files.load_audio(tmp_path / name, rate=16000)
    assert found == 16000 and len(samples) == pytest.approx(16000, rel=0.12)
    spectrum = np.abs(np.fft.rfft(samples[2000:14000] * np.hanning(12000)))
    assert spectrum.argmax() * 16000 / 12000 == pytest.approx(440, abs=2)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.1)


def test_audio_round_trip_resampling_and_limit(tmp_path):
    path = media_files.save_audio(tmp_path / "a.wav", tone(rate=44100), 44100)
    samples, rate = media_files.load_audio(path)
    assert rate == 44100 and np.abs(samples - tone(rate=44100)).max() < 1e-4
    low, rate = media_files.load_audio(path, rate=16000)
    assert rate == 16000 and np.abs(low[500:-500] - tone()[500:-500]).max() < 2e-3
    assert len(media_files.load_audio(path, max_seconds=0.25)[0]) == 11025
    assert soundfile.info(path).subtype == "PCM_16"


def test_sound_of_a_film_and_of_aac_is_read(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone()[None], format="fltp", layout="mono")
        frame.rate = 16000
        container.mux([*stream.encode(frame), *stream.encode()])
    samples, rate = media_files.load_audio(path, max_seconds=0.5)
    assert rate == 16000 and len(samples) == 8000
    assert np.abs(samples[4000:]).max() == pytest.approx(0.5, abs=0.1)
    assert reason("video", path) == "unreadable"


def test_bad_audio(tmp_path):
    (tmp_path / "zero.wav").touch()
    (tmp_path / "text.wav").write_text("not a sound" * 50)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "blip.wav", np.zeros(100), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(9000, np.nan), 16000, subtype="FLOAT")
    assert reason("audio", tmp_path / "zero.wav") == "empty"
    assert reason("audio", tmp_path / "text.wav") == "unreadable"
    assert reason("audio", tmp_path / "none.wav") == "empty"
    assert reason("audio", tmp_path / "blip.wav") == "too short"
    assert reason("audio", tmp_path / "nan.wav") == "unreadable"
    assert reason("audio", tmp_path / "absent.wav") == "missing"


def test_audio_in_memory():
    loud, rate = media_files.as_audio((tone() * 4, 16000))
    assert rate == 16000 and np.abs(loud).max() == pytest.approx(1)
    ints, _ = media_files.as_audio(((tone() * 32767).astype(np.int16), 16000))
    assert np.abs(ints - tone()).max() < 1e-4
    stereo = np.stack([tone(), tone()])
    for shaped in (stereo, stereo.T):
        assert np.allclose(media_files.as_audio((shaped, 16000))[0], tone(), atol=1e-6)
    assert len(media_files.as_audio((tone(), 16000), rate=8000)[0]) == 8000


@pytest.mark.parametrize(
    ("kind", "medium", "why"),
    [
        ("image", np.zeros((4, 4, 3), np.uint8), "wrong form"),
        ("image", Image.new("RGB", (0, 4)), "empty"),
        ("audio", tone(), "wrong form"),
        ("audio", ((tone(), 16000), 16000), "wrong form"),
        ("audio", (16000, tone()), "wrong form"),
        ("audio", (tone().astype(complex), 16000), "wrong form"),
        ("audio", (np.zeros((20, 30), np.float32), 16000), "wrong form"),
        ("audio", (tone(), 0), "wrong form"),
        ("audio", (np.full(9000, np.inf, np.float32), 16000), "unreadable"),
        ("audio", (np.zeros(0, np.float32), 16000), "empty"),
        ("video", np.zeros((4, 8, 8, 3), np.float32), "wrong form"),
        ("video", np.zeros((4, 3, 8, 8), np.uint8), "wrong form"),
        ("video", np.zeros((0, 8, 8, 3), np.uint8), "empty"),
        ("video", np.zeros((1, 8, 8, 3), np.uint8), "too short"),
        ("video", None, "wrong form"),
        ("video", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 4, 3), np.uint8)], "wrong form"),
    ],
)
def test_wrong_media_in_memory(kind, medium, why):
    with pytest.raises(MediaError) as caught:
        media_files.as_media(kind, medium)
    assert caught.value.reason == why and caught.value.path is None


def test_the_smallest_picture_has_one_pixel():
    assert media_files.as_image(Image.new("RGB", (1, 1))).size == (1, 1)


def test_video_round_trip_and_sampling(tmp_path):
    frames = numbered_frames()
    path = media_files.save_video(tmp_path / "a b:c.mp4", frames, 4)
    back, fps = media_files.load_video(path)
    assert back.dtype == np.uint8 and back.shape == frames.shape and fps == pytest.approx(4)
    assert np.abs(back.astype(int) - frames).max() <= 4
    some, fps = media_files.load_video(path, num_frames=4)
    assert fps == pytest.approx(4 / 3) and np.array_equal(some, back[[1, 4, 7, 10]])
    more, fps = media_files.load_video(path, num_frames=24)
    assert fps == pytest.approx(8) and np.array_equal(more, back.repeat(2, axis=0))
    assert len(media_files.load_video(path, max_seconds=1)[0]) == 4
    assert media_files.load_video(path, short_side=24)[0].shape == (12, 24, 32, 3)
    assert np.array_equal(media_files.as_video(path, num_frames=4), some)
    assert np.array_equal(media_files.as_video((frames, 4.0)), frames)


def test_odd_sizes_gain_a_row_and_a_column(tmp_path):
    path = media_files.save_video(tmp_path / "a.mp4", numbered_frames(3, 31, 33), 29.97)
    frames, fps = media_files.load_video(path)
    assert frames.shape == (3, 32, 34, 3) and fps == pytest.approx(29.97, abs=1e-3)
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")


def test_long_video_is_sought_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast", "g": "10"})
        stream.width = stream.height = 16
        for second in range(3600):
            grey = np.full((16, 16, 3), second * 250 // 3600, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    decoded = []
    timed = clips._timed_frames
    monkeypatch.setattr(
        clips,
        "_timed_frames",
        lambda *given: (decoded.append(1) or one for one in timed(*given)),
    )
    frames, fps = media_files.load_video(path, num_frames=4)
    assert fps == pytest.approx(4 / 3600) and len(decoded) < 100
    assert frames[:, 8, 8, 0] == pytest.approx([31, 93, 156, 218], abs=3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_in_the_container_is_applied(tmp_path, degrees):
    """Phones store what the sensor saw and, in the container, how far to turn it clockwise."""
    frames = np.stack([LEFT_RED] * 4)
    data = bytearray(media_files.save_video(tmp_path / "a.mp4", frames, 4).read_bytes())
    one = 1 << 16
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    at = data.index(upright, data.index(b"tkhd"))
    turns = {90: (0, one, 0, -one, 0), 180: (-one, 0, 0, 0, -one), 270: (0, -one, 0, one, 0)}
    data[at : at + 36] = struct.pack(">9i", *turns[degrees], 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    for options in ({}, {"num_frames": 2}):
        turned = media_files.load_video(tmp_path / "turned.mp4", **options)[0][0]
        expected = np.rot90(LEFT_RED, -degrees // 90)
        assert turned.shape == expected.shape and np.abs(turned.astype(int) - expected).mean() < 12


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mov", "libx264"),
        ("a.mov", "mpeg4"),
        ("a.avi", "mpeg4"),
        ("a.avi", "mjpeg"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.webm", "libvpx-vp9"),
    ],
)
def test_containers_and_codecs(tmp_path, name, codec):
    frames = numbered_frames()
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=4)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    back, fps = media_files.load_video(tmp_path / name)
    assert back.shape == frames.shape and fps == pytest.approx(4, rel=0.02)
    assert np.abs(back.astype(int) - frames).max() <= 12
    some, fps = media_files.load_video(tmp_path / name, num_frames=4)
    assert fps == pytest.approx(4 / 3, rel=0.1) and np.array_equal(some, back[[1, 4, 7, 10]])


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animations_as_videos(tmp_path, suffix):
    """Six frames of 0.1 s, then six of 0.4 s: what is shown when, not the n-th of the file."""
    save_animation(path := tmp_path / f"a.{suffix}", [100] * 6 + [400] * 6)
    frames, fps = media_files.load_video(path)
    assert frames.shape == (12, 48, 64, 3) and fps == pytest.approx(4)
    assert np.abs(frames.astype(int) - numbered_frames()).max() <= 2
    some, fps = media_files.load_video(path, num_frames=4)
    assert fps == pytest.approx(4 / 3) and np.array_equal(some, frames[[3, 7, 9, 11]])
    assert len(media_files.load_video(path, max_seconds=0.6)[0]) == 6
    assert media_files.load_video(path, short_side=24)[0].shape == (12, 24, 32, 3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_variable_frame_rate(tmp_path, name):
    """Frames 0 to 5 within 0.6 s, frames 6 to 11 half a second each, as phones and screen recorders write them."""
    times = [100 * n for n in range(6)] + [600 + 500 * n for n in range(6)]
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base, stream.options = Fraction(1, 1000), {"bf": "0"}
        for time, pixels in zip(times, numbered_frames(), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames, fps = media_files.load_video(tmp_path / name)
    assert len(frames) == 12
    some, _ = media_files.load_video(tmp_path / name, num_frames=6)
    span = 6 / media_files.load_video(tmp_path / name, num_frames=6)[1]
    shown = [
        max(n for n, t in enumerate(times) if t <= (i + 0.5) / 6 * span * 1000) for i in range(6)
    ]
    assert some[:, 24, 32, 0] == pytest.approx([20 * n for n in shown], abs=4)
    assert fps == pytest.approx(12 / span, rel=0.1)


def test_recording_that_states_no_duration(tmp_path):
    class Unseekable(io.RawIOBase):
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    target = Unseekable()
    with av.open(target, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in numbered_frames(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    (tmp_path / "a.webm").write_bytes(target.data)
    frames, fps = media_files.load_video(tmp_path / "a.webm", num_frames=4)
    assert fps == pytest.approx(2, rel=0.1)
    assert frames[:, 24, 32, 0] == pytest.approx([20, 60, 100, 140], abs=8)


def test_bad_videos(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)
    path = media_files.save_video(tmp_path / "whole.mp4", noise, 4)
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("a text called .mp4 " * 20)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:3,\n{path}\n#EXT-X-ENDLIST\n"
    (tmp_path / "playlist.mp4").write_text(playlist)
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")
    Image.fromarray(noise[0]).save(tmp_path / "still.gif")
    for name in ("cut.mp4", "text.mp4", "playlist.mp4", "concat.mp4"):
        assert reason("video", tmp_path / name) == "unreadable"
        assert reason("video", tmp_path / name, num_frames=4) == "unreadable"
    assert reason("video", tmp_path / "zero.mp4") == "empty"
    assert reason("video", tmp_path / "still.gif", num_frames=4) == "too short"
    assert reason("video", tmp_path / "absent.mp4") == "missing"
    with pytest.raises(ValueError, match="num_frames"):
        media_files.load_video(path, num_frames=0)
    monkeypatch.setattr(containers, "MAX_VIDEO_BYTES", 64 * 64 * 3 * 5)
    assert reason("video", path) == "too large"
    assert reason("video", path, num_frames=6) == "too large"
    assert len(media_files.load_video(path, num_frames=5)[0]) == 5


def test_bytes_open_again_and_repeat():
    frames = numbered_frames()
    picture = Image.open(io.BytesIO(media_files.to_bytes("image", Image.fromarray(LEFT_RED))))
    assert np.array_equal(np.asarray(picture), LEFT_RED)
    samples, rate = soundfile.read(io.BytesIO(media_files.to_bytes("audio", (tone(), 16000))))
    assert rate == 16000 and np.abs(samples - tone()).max() < 1e-4
    film = media_files.to_bytes("video", frames, fps=4)
    assert (
        film
        == media_files.to_bytes("video", (frames, 4))
        != media_files.to_bytes("video", frames, fps=5)
    )
    with av.open(io.BytesIO(film)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


def test_a_failed_save_leaves_what_was_there(tmp_path):
    path = media_files.save_video(tmp_path / "a.mp4", numbered_frames(), 4)
    before = path.read_bytes()
    with pytest.raises(MediaError):
        media_files.save_video(path, numbered_frames(), 0)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_content_keys(tmp_path):
    path = media_files.save_audio(tmp_path / "a.wav", tone(), 16000)
    copy = tmp_path / "copy.wav"
    copy.write_bytes(path.read_bytes())
    key = media_files.content_key("audio", path)
    assert (
        len(key) == 32 and int(key, 16) >= 0 and key == media_files.content_key("audio", str(copy))
    )
    distinct = {
        key,
        media_files.content_key("audio", (tone(), 16000)),
        media_files.content_key("audio", (tone(), 8000)),
        media_files.content_key("audio", (tone(pitch=441), 16000)),
        media_files.content_key("image", Image.fromarray(LEFT_RED)),
        media_files.content_key(
            "image", Image.fromarray(LEFT_RED).transpose(Image.Transpose.ROTATE_90)
        ),
        media_files.content_key("video", np.stack([LEFT_RED] * 2)),
        media_files.content_key("video", path),
    }
    assert len(distinct) == 8


def test_unknown_kind():
    with pytest.raises(ValueError, match="'smell': expected one of image, audio, video"):
        media_files.load("smell", "a.png")
