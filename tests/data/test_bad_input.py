"""Bad files and rows among good ones: each is named in the report by its reason, and no good row is lost."""

from __future__ import annotations

import copy
import io
import json
import struct
import time
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from test_instructions import FORMS

from anytoany_lib.data import reports
from anytoany_lib.data.building import build, inspect
from anytoany_lib.data.formats.instructions import conversation_of, embedding_files
from anytoany_lib.data.formats.interleaving import MAX_CAPTION
from anytoany_lib.data.formats.media_references import Unusable
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError
from anytoany_lib.figures import charts
from anytoany_lib.media import media_files
from anytoany_lib.media.containers import MediaError
from anytoany_lib.messages import check

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 255, (8, 64, 64, 3), np.uint8)


def write_png(path: Path, width: int, height: int, data: bytes) -> None:
    """An RGB PNG that states a size, with whatever data."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data))


def bomb(path: Path) -> None:
    """30,000 x 30,000 pixels whose data end at once: whoever decodes them calls the file damaged."""
    write_png(path, 30_000, 30_000, zlib.compress(bytes(1000)))


def truncated(path: Path) -> None:
    Image.fromarray(NOISE[0]).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:1500])


def write_video(path: Path, times: list[int], codec: str = "libx264", **options) -> None:
    """Noise on screen from each of the times, in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
        for at, time_shown in enumerate(times):
            frame = av.VideoFrame.from_ndarray(NOISE[at % 8], format="rgb24")
            frame.pts = time_shown
            container.mux(stream.encode(frame))
        if times:
            container.mux(stream.encode())


def three_hours(path: Path) -> None:
    """Three hours by its header; its frames are overwritten: whoever decodes them calls the file damaged."""
    write_video(path, [0, 5400, 10_800], bf="0")
    data = path.read_bytes()
    at = data.index(b"mdat") + 4
    size = struct.unpack(">I", data[at - 8 : at - 4])[0] - 8
    path.write_bytes(data[:at] + bytes(size) + data[at + size :])


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        samples = RNG.uniform(-0.5, 0.5, (1, 16000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.rate = 16000
        container.mux([*stream.encode(frame), *stream.encode()])


def cut(path: Path) -> None:
    media_files.save_video(path, np.repeat(NOISE, 3, axis=0), 4)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def wave(samples: np.ndarray, rate: int = 16000, subtype: str = "PCM_16"):
    return lambda path: soundfile.write(path, samples, rate, subtype=subtype)


FILES = {
    "truncated.jpg": (truncated, "unreadable"),
    "empty.jpg": (Path.touch, "empty"),
    "text.jpg": (lambda path: path.write_text("not a picture"), "unreadable"),
    "folder.jpg": (Path.mkdir, "unreadable"),
    "bomb.png": (bomb, "too large"),
    "outward.jpg": (lambda path: path.symlink_to("../../../secret.png"), "outside the folder"),
    "loop.jpg": (lambda path: path.symlink_to(path.name), "unreadable"),
    "zero.wav": (Path.touch, "empty"),
    "no_samples.wav": (wave(np.zeros(0)), "empty"),
    "text.wav": (lambda path: path.write_text("not a sound" * 50), "unreadable"),
    "nan.wav": (wave(np.full(9000, np.nan), subtype="FLOAT"), "unreadable"),
    "silent.wav": (wave(np.zeros(9000)), "silent"),
    "last_bit.wav": (wave(RNG.integers(-1, 2, 9000, np.int16)), "silent"),
    "blip.wav": (wave(RNG.uniform(-0.5, 0.5, 100)), "too short"),
    "three_hours.flac": (wave(np.zeros(10_800_000, np.int16), 1000), "too large"),
    "text.mp4": (lambda path: path.write_text("a text called .mp4 " * 20), "unreadable"),
    "empty.mp4": (Path.touch, "empty"),
    "no_frames.mp4": (lambda path: write_video(path, []), "unreadable"),
    "one_frame.mp4": (lambda path: write_video(path, [0]), "too short"),
    "sound_only.mp4": (sound_only, "unreadable"),
    "cut.mp4": (cut, "unreadable"),
    "three_hours.mp4": (three_hours, "too large"),
    "still.gif": (lambda path: Image.fromarray(NOISE[0]).save(path), "too short"),
    "still.webp": (lambda path: Image.fromarray(NOISE[0]).save(path), "too short"),
}
FORM = {
    "image": ("cc3m", "images", "image_name"),
    "audio": ("audiocap", "audios", "audio_name"),
    "video": ("webvid", "videos", "video_name"),
}
KIND = {".jpg": "image", ".png": "image", ".wav": "audio", ".flac": "audio"}
CAPTIONS = {
    "caption too long": "all work and no play " * 5000,  # 100 KB
    "caption empty": " \n\t",
    "caption not text": ["a list"],
    "caption missing": None,
}
KEPT = {
    "bell.png": "a 🔔 for the family 👨‍👩‍👧‍👦",
    "letters.png": "שלום עולם and مرحبا بالعالم, \u200fright to left\u200f",
    "longest.png": "x" * MAX_CAPTION,
}
PATHS = {
    "../../secret.png": "outside the folder",
    "../../../secret.png": "outside the folder",
    "/etc/hostname": "missing",  # images//etc/hostname
    "nul\0.png": "outside the folder",
    "gone.png": "missing",
    "long" * 80 + ".png": "unreadable",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(the report of a source with every bad thing in it, the manifest's rows by id, the seconds it took)."""
    home = tmp_path_factory.mktemp("bad")
    source = home / "source"
    records: dict[str, list[dict]] = {kind: [] for kind in FORM}
    for dataset, folder, _ in FORM.values():
        (source / dataset / folder).mkdir(parents=True)

    def add(kind: str, name: str, caption) -> Path:
        dataset, folder, key = FORM[kind]
        told = {} if caption is None else {"caption": caption}
        records[kind].append({"id": "the same for all", key: name} | told)
        return source / dataset / folder / name

    Image.fromarray(NOISE[0]).save(home / "secret.png")
    for name, (make, _) in FILES.items():
        make(add(KIND.get(Path(name).suffix, "video"), name, f"caption of {name}"))
    for number, (name, caption) in enumerate(KEPT.items()):
        Image.fromarray(NOISE[number]).save(add("image", name, caption))
    add("image", "bell.png", "the same picture, other words")
    for reason, caption in CAPTIONS.items():
        Image.fromarray(NOISE[6]).save(add("image", f"{reason}.png", caption))
    for name in PATHS:
        add("image", name, "a caption")
    soundfile.write(add("audio", "good.wav", "a hiss"), RNG.uniform(-0.5, 0.5, 8000), 16000)
    media_files.save_video(add("video", "good.mp4", "snow"), NOISE, 4)
    for kind, (dataset, _, _) in FORM.items():
        (source / dataset / f"{dataset}.json").write_text(json.dumps(records[kind]))
    started = time.perf_counter()
    options = {"validation_fraction": 0, "test_fraction": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reports, "EXAMPLES_KEPT", 100)
        report = build("nextgpt", source, home / "out", **options)
    seconds = time.perf_counter() - started
    return report, {row.id: row for row in read_manifest(home / "out")}, seconds


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_named_by_its_reason(built, name):
    report, rows, _ = built
    assert any(shown.endswith(f"/{name}") for shown in report.examples[FILES[name][1]])
    assert not any(name in json.dumps(row.messages) for row in rows.values())


@pytest.mark.parametrize("reason", CAPTIONS)
def test_a_bad_caption_is_named_by_its_reason(built, reason):
    assert built[0].examples[reason] == [f"{reason}.png"]


@pytest.mark.parametrize("name", PATHS, ids=ascii)
def test_a_path_that_leads_elsewhere_or_nowhere(built, name):
    assert f"cc3m/images/{name}"[:200] in built[0].examples[PATHS[name]]


def test_good_rows_are_all_kept_and_their_captions_unchanged(built):
    report, rows, _ = built
    told = {row.id: row.meta["caption"] for row in rows.values()}
    assert told == {f"cc3m-{Path(name).stem}": caption for name, caption in KEPT.items()} | {
        "cc3m-bell#2": "the same picture, other words",
        "audiocap-good": "a hiss",
        "webvid-good": "snow",
    }
    reasons = [reason for _, reason in FILES.values()] + [*CAPTIONS, *PATHS.values()]
    assert dict(report.dropped) == {reason: reasons.count(reason) for reason in reasons}
    assert report.read == report.kept_rows + len(reasons)


def test_what_is_too_large_is_refused_by_its_header(tmp_path, built):
    """Decoding either would say "unreadable" instead, since the data behind both headers are damaged."""
    for kind, make in (("image", bomb), ("video", three_hours)):
        make(path := tmp_path / f"large.{'png' if kind == 'image' else 'mp4'}")
        with pytest.raises(MediaError, match="too large"):
            inspect(kind, path)
    with pytest.raises(MediaError, match="unreadable"):
        media_files.load_video(tmp_path / "large.mp4", num_frames=3)
    write_png(tmp_path / "small.png", 30, 30, zlib.compress(bytes(1000)))
    with pytest.raises(MediaError, match="unreadable"):
        inspect("image", tmp_path / "small.png")
    assert built[2] < 10


def test_the_report_counts_what_was_kept(built):
    found = built[0].as_dict()
    assert found["rows"] == {
        "source": {"cc3m": 4, "webvid": 1, "audiocap": 1},
        "kind": {"image": 4, "video": 1, "audio": 1},
        "split": {"train": 6, "validation": 0, "test": 0},
    }
    words = found["caption_words"]["image"]
    assert (words["n"], words["least"], words["most"]) == (4, 1, 8)
    assert (words["edges"], words["counts"]) == ([0, 3, 5, 7, 9], [1, 0, 2, 1])
    assert found["media_seconds"]["audio"]["mean"] == 0.5
    assert found["media_seconds"]["video"]["mean"] == 2
    # The picture that two rows show is measured once.
    assert found["short_side_pixels"]["image"] == {
        "n": 3, "least": 64, "mean": 64, "most": 64, "edges": [64, 128], "counts": [3],
    }  # fmt: skip
    assert found["bytes"] > 0 and json.loads(json.dumps(found)) == found


def test_the_report_is_drawn(built):
    """Kept rows are blue, dropped ones red; the histograms are blue."""
    found = built[0].as_dict()
    drawn = [
        np.asarray(Image.open(io.BytesIO(figure.data)).convert("RGB"))
        for figure in (charts.fates(found), charts.spreads(found))
    ]
    red = [(picture == (214, 39, 40)).all(-1).mean() for picture in drawn]
    blue = [(picture == (31, 119, 180)).all(-1).mean() for picture in drawn]
    assert min(blue) > 0.01 and red[0] > 0.001 and red[1] == 0
    empty = charts.spreads(Report().as_dict())
    assert len(empty.data) > 100


def test_one_record_a_line_is_read_as_a_list_is(tmp_path):
    (tmp_path / "source/images").mkdir(parents=True)
    lines = []
    for number in range(3):
        Image.fromarray(NOISE[number]).save(tmp_path / f"source/images/{number}.png")
        lines.append(json.dumps({"caption": f"noise {number}", "image_name": f"{number}.png"}))
    (tmp_path / "source/cc3m.json").write_text("\n".join(lines) + "\n")
    assert build("cc3m", tmp_path / "source", tmp_path / "out").kept_rows == 3


JUNK = [None, 7, 1.5, True, "", "\ud800", [], [[]], {}, [None, 3, {"a": 1}], {"from": []}]


def places(value, path=()):
    """Every place in a JSON value, as the keys that lead there."""
    yield path
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    for key in keys:
        yield from places(value[key], (*path, key))


@pytest.mark.parametrize("form", FORMS)
def test_junk_anywhere_in_an_instruction_record_is_dropped_or_harmless(form):
    record, dropped = FORMS[form][0], 0
    for path in list(places(record))[1:]:
        for junk in JUNK:
            damaged = copy.deepcopy(record)
            parent = damaged
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = junk
            try:
                messages = conversation_of(damaged)
            except Unusable:
                dropped += 1
                continue
            check(messages)
            json.dumps([messages, embedding_files(damaged)], ensure_ascii=False).encode()
    assert dropped


@pytest.mark.parametrize("junk", JUNK)
def test_junk_where_a_record_names_caption_embeddings_names_none(junk):
    told = {"image_captions": ["a bell"], "image_caption_embeddings": ["1.npy"]}
    assert embedding_files(told) == [["image", "a bell", "1.npy"]]
    for field in told:
        assert embedding_files(told | {field: junk}) == []


def test_a_told_caption_has_the_same_limit(tmp_path):
    record = copy.deepcopy(FORMS["generation"][0])
    record["video_captions"] = "x" * (MAX_CAPTION + 1)
    with pytest.raises(Unusable, match="caption too long"):
        conversation_of(record)


def test_of_several_media_the_bad_one_is_named(tmp_path):
    (tmp_path / "source").mkdir()
    Image.fromarray(NOISE[0]).save(tmp_path / "source/good.png")
    truncated(tmp_path / "source/cut.jpg")
    rows = [
        {"image": names, "conversations": [turn("human", "<image>" * len(names)), turn("gpt", "a")]}
        for names in (["good.png", "cut.jpg"], ["good.png"], ["good.png"])
    ]
    (tmp_path / "source/rows.json").write_text(json.dumps(rows))
    report = build("instructions", tmp_path / "source", tmp_path / "out")
    assert report.examples == {"unreadable": ["cut.jpg"], "duplicate": ["good.png"]}


def turn(speaker: str, text: str) -> dict[str, str]:
    return {"from": speaker, "value": text}


def test_bad_captions_beside_media(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "secret.txt").write_text("the password")
    beside = {
        "good.txt": "größer".encode(),
        "marked.txt": "\ufeffa caption".encode(),
        "latin.txt": "größer".encode("latin-1"),
        "long.txt": b"word " * 20_000,
        "cut.json": b'{"caption": "a be',
        "list.json": b'["caption"]',
        "null.json": b'{"caption": null}',
    }
    for number, (name, content) in enumerate(beside.items()):
        Image.fromarray(NOISE[number]).save((source / name).with_suffix(".png"))
        (source / name).write_bytes(content)
    Image.fromarray(NOISE[7]).save(source / "outward.png")
    (source / "outward.txt").symlink_to(tmp_path / "secret.txt")
    report = build("folder", source, tmp_path / "out", validation_fraction=0, test_fraction=0)
    assert report.examples == {
        "caption not text": ["cut.png", "latin.png", "outward.png"],
        "caption missing": ["list.png", "null.png"],
        "caption too long": ["long.png"],
    }
    told = {row.id: row.meta["caption"] for row in read_manifest(tmp_path / "out")}
    assert told == {"good.png": "größer", "marked.png": "a caption"}


def test_a_table_of_captions_with_bad_rows(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        Image.fromarray(NOISE[number]).save(source / f"{number}.png")
    rows = [
        '0.png,"two\nlines"',
        "1.png",
        ",no name",
        "2.png," + "word " * 20_000,
        '2.png,"with\u2028separator"',
    ]
    table = source / "metadata.csv"
    table.write_text("\n".join(["file_name,caption", *rows]) + "\n")
    report = build("folder", source, tmp_path / "a", validation_fraction=0, test_fraction=0)
    assert report.examples == {
        "caption missing": ["1.png"],
        "file_name empty": ["row 2"],
        "caption too long": ["2.png"],
    }
    told = {row.id: row.meta["caption"] for row in read_manifest(tmp_path / "a")}
    assert told == {"0.png": "two lines", "2.png": "with separator"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,words\na.png,b\n", "expected columns file_name and caption"),
        (
            b'file_name,text\na.png,b\nb.png,"never closed\nc.png,d\n',
            "behind line 2: unexpected end",
        ),
        (b"file_name,text\na.png,gr\xf6sser\n", "not UTF-8 text.*0xf6"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/metadata.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        build("folder", tmp_path / "source", tmp_path / "out")


def test_a_table_of_json_lines_with_bad_rows(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(NOISE[0]).save(source / "0.png")
    rows = [7, {"file_name": 3, "text": "a"}, {"file_name": "0.png"}, {"text": "b"}]
    rows.append({"file_name": "0.png", "text": "kept"})
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = build("folder", source, tmp_path / "out", validation_fraction=0, test_fraction=0)
    assert report.examples == {
        "file_name missing": ["row 0", "row 3"],
        "file_name not text": ["row 1"],
        "caption missing": ["0.png"],
    }
    assert report.kept_rows == 1


def test_damaged_bytes_anywhere_are_never_fatal(tmp_path):
    """Files of every kind with a few bytes changed or the end cut off: read, or refused by a MediaError."""
    image = Image.fromarray(NOISE[0])
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "tiff"):
        image.save(tmp_path / f"a.{suffix}")
    for suffix in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(tmp_path / f"a.{suffix}", RNG.uniform(-0.5, 0.5, 4000), 16000)
    for suffix in ("mp4", "mov", "avi"):
        write_video(tmp_path / f"b.{suffix}", [0, 1, 2, 3], "mpeg4")
    kinds = {"jpg": "image", "wav": "audio"} | dict.fromkeys(("flac", "ogg", "mp3"), "audio")
    rng, refused = np.random.default_rng(1), 0
    for path in sorted(tmp_path.iterdir()):
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        kind = "video" if path.stem == "b" else kinds.get(path.suffix[1:], "image")
        for _ in range(12):
            damaged = whole[: rng.integers(1, len(whole) + 1)].copy()
            at = rng.integers(0, min(len(damaged), 400), 4)
            damaged[at] = rng.integers(0, 255, 4)
            (tmp_path / "damaged").write_bytes(damaged.tobytes())
            try:
                inspect(kind, tmp_path / "damaged")
            except MediaError:
                refused += 1
    assert refused > 50
