"""Downloads against a server on this machine: what is fetched, what is gone on with, and what is refused."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import shutil
import threading
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from anytoany_lib.checkpoints import downloads, fetching
from anytoany_lib.checkpoints.delta_weights import merge_difference
from anytoany_lib.checkpoints.hub import from_hub, wanted_files
from anytoany_lib.config import Profile, Source, resolve
from anytoany_lib.gates import sources

STABLE_DIFFUSION = [
    ".gitattributes",
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "scheduler/scheduler_config.json",
    "safety_checker/config.json",
    "safety_checker/model.safetensors",
    "safety_checker/model.fp16.safetensors",
    "safety_checker/pytorch_model.bin",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
]


def test_of_a_pipeline_each_weight_is_fetched_once():
    weights = [n for n in wanted_files(STABLE_DIFFUSION) if n.endswith((".bin", "ors"))]
    assert weights == [
        "safety_checker/model.safetensors",
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
    ]


def test_settings_come_along_and_foreign_formats_do_not():
    wanted = wanted_files(
        [
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.bin",
            "zs2_576w/text2video_pytorch_model.pth",
            "zs2_576w/configuration.json.orig",
        ]
    )
    assert wanted == ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"]
    language_model = ["config.json", "tokenizer.model", "pytorch_model-00001-of-00002.bin"]
    assert wanted_files([*language_model, "logo.png"]) == language_model


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files` as a hub repository and by name, with ranges; `cut` breaks the next answer off."""

    files: ClassVar[dict[str, bytes]] = {}
    cut: int | None = None
    lie: int = 0
    asked: ClassVar[list[str]] = []

    def log_message(self, *_):
        pass

    def _head(self, status: int, headers: dict[str, str | int]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        cls = type(self)
        if "/tree/" in self.path:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in cls.files.items()
            ]
            told = json.dumps(entries).encode()
            self._head(200, {"Content-Length": len(told), "Content-Type": "application/json"})
            return self.wfile.write(told) and None
        if self.path.startswith("/api/models/"):
            siblings = [
                {"rfilename": name, "size": len(data) + cls.lie} for name, data in cls.files.items()
            ]
            told = json.dumps({"id": "o/n", "sha": "a" * 40, "siblings": siblings}).encode()
            self._head(200, {"Content-Length": len(told), "Content-Type": "application/json"})
            return self.wfile.write(told) and None
        name = re.sub(r"^/(o/n/resolve/\w+/)?", "", self.path)
        data = cls.files.get(name)
        if data is None:
            return self._head(404, {"Content-Length": 0})
        start = int((re.findall(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0])[0])
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": "a" * 40}
        if start >= len(data) > 0 and "Range" in self.headers:
            return self._head(416, headers | {"Content-Range": f"bytes */{len(data)}"})
        ranged = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._head(206 if start else 200, headers | ranged | {"Content-Length": len(data) - start})
        if body:
            cls.asked.append(f"{name} from {start}")
            end, cls.cut = cls.cut or len(data), None
            self.wfile.write(data[start:end])
        return None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    """The handler class, and the address it serves at, which the hub client takes for the hub."""
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{serving.server_port}"
    monkeypatch.setenv(sources.LOOPBACK, "1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(Server, "files", {"weights.pth": bytes(range(256)) * 5000})
    for name, value in (("cut", None), ("lie", 0), ("asked", [])):
        monkeypatch.setattr(Server, name, value)
    yield Server, url
    serving.shutdown()
    serving.server_close()


def test_a_download_goes_on_where_it_broke_off(server, tmp_path: Path):
    handler, url = server
    target = tmp_path / "ckpt" / "weights.pth"
    handler.cut = 500_000
    with pytest.raises(ConnectionError, match="broke off"):
        downloads.from_url(f"{url}/weights.pth", target)
    assert not target.exists()
    downloads.from_url(f"{url}/weights.pth", target)
    assert target.read_bytes() == handler.files["weights.pth"]
    assert handler.asked == ["weights.pth from 0", "weights.pth from 500000"]
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]


def test_a_download_that_had_all_come_is_only_renamed(server, tmp_path: Path):
    handler, url = server
    (tmp_path / ".weights.pth.part").write_bytes(handler.files["weights.pth"])
    downloads.from_url(f"{url}/weights.pth", tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").stat().st_size == 1_280_000 and handler.asked == []


def test_a_download_that_is_too_long_is_thrown_away(server, tmp_path: Path):
    _, url = server
    (tmp_path / ".weights.pth.part").write_bytes(b"x" * 2_000_000)
    with pytest.raises(ValueError, match="expected 1,280,000 bytes, found 2,000,000"):
        downloads.from_url(f"{url}/weights.pth", tmp_path / "weights.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_dead_server_are_connection_errors(server, tmp_path: Path):
    _, url = server
    with pytest.raises(ConnectionError, match="404"):
        downloads.from_url(f"{url}/nothing", tmp_path / "nothing")
    with pytest.raises(ConnectionError, match="run it again"):
        downloads.from_url("http://127.0.0.1:9/nothing", tmp_path / "nothing")


def test_a_repository_arrives_whole_and_checked(server, tmp_path: Path):
    handler, _ = server
    handler.files = {
        "config.json": b"{}",
        "model.safetensors": b"s" * 100,
        "pytorch_model.bin": b"b" * 100,
        "picture.png": b"p",
    }
    from_hub("o/n", None, tmp_path / "model")
    assert {p.name for p in (tmp_path / "model").iterdir() if p.is_file()} == {
        ".fetched.json",
        "config.json",
        "model.safetensors",
    }
    handler.lie = 7
    with pytest.raises(ValueError, match="expected 9 bytes, found 2"):
        from_hub("o/n", None, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="o/n could not be fetched.*put the model into"):
        from_hub("o/n", None, tmp_path / "model")


@pytest.fixture(scope="module")
def vicuna(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random base, a random model with one row more and a tokenizer, and their difference."""
    folder = tmp_path_factory.mktemp("vicuna")
    tokenizer = AutoTokenizer.from_pretrained(resolve(profile.llm.folder))
    rows, models = len(tokenizer), {}
    for seed, (name, count) in enumerate((("base", rows - 1), ("whole", rows))):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=count,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
        )
        models[name] = LlamaForCausalLM(config).half()
    models["base"].save_pretrained(folder / "base")
    base, whole = models["base"].state_dict(), models["whole"].state_dict()
    for name, tensor in base.items():
        whole[name][: len(tensor)] -= tensor
    models["whole"].save_pretrained(folder / "difference")
    tokenizer.save_pretrained(folder / "difference")
    for name, tensor in base.items():
        whole[name][: len(tensor)] += tensor
    models["whole"].save_pretrained(folder / "expected")
    return {name: folder / name for name in ("base", "difference", "expected")}


def test_a_difference_is_added_tensor_by_tensor(vicuna: dict[str, Path], tmp_path: Path):
    merged = merge_difference(
        vicuna["base"], vicuna["difference"], tmp_path / "m", shard_bytes=2_000_000
    )
    shards = sorted(path.name for path in merged.glob("model-*.safetensors"))
    assert len(shards) > 1, "so many that they are numbered"
    assert shards == [f"model-{number:05d}.safetensors" for number in range(len(shards))]
    found = AutoModelForCausalLM.from_pretrained(merged).state_dict()
    expected = AutoModelForCausalLM.from_pretrained(vicuna["expected"]).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name].float(), tensor.float(), atol=1e-3), name
    assert AutoTokenizer.from_pretrained(merged)("a bell").input_ids


def test_pickled_weights_of_old_checkpoints_are_read_too(vicuna: dict[str, Path], tmp_path: Path):
    old = tmp_path / "old"
    old.mkdir()
    model = AutoModelForCausalLM.from_pretrained(vicuna["base"])
    state = model.state_dict() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    torch.save(state, old / "pytorch_model-00001-of-00001.bin")
    one, other = (
        merge_difference(base, vicuna["difference"], tmp_path / name)
        for base, name in ((old, "one"), (vicuna["base"], "other"))
    )
    first, second = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_models_that_do_not_belong_together_are_refused(vicuna: dict[str, Path], tmp_path: Path):
    other = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
    )
    LlamaForCausalLM(other).half().save_pretrained(tmp_path / "narrow")
    other.num_hidden_layers = 2
    LlamaForCausalLM(other).half().save_pretrained(tmp_path / "short")
    with pytest.raises(ValueError, match="do not belong together"):
        merge_difference(tmp_path / "narrow", vicuna["difference"], tmp_path / "out")
    with pytest.raises(ValueError, match="do not have the same tensors"):
        merge_difference(tmp_path / "short", vicuna["difference"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no weights"):
        merge_difference(tmp_path / "empty", vicuna["difference"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_profile_with_a_difference_fetches_by_adding(
    vicuna: dict[str, Path], tmp_path: Path, profile: Profile, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sources, "home", lambda: tmp_path)
    folder = tmp_path / "ckpt" / "vicuna"
    source = Source(hub=str(vicuna["difference"]), difference_to=str(vicuna["base"]))
    llm = profile.llm.model_copy(update={"folder": str(folder), "source": source})
    wanted = profile.model_copy(update={"llm": llm})
    assert fetching.fetch(wanted, trusted=True) == {"llm": folder}
    assert fetching.missing_models(wanted) == {}


@pytest.mark.parametrize(
    ("file", "cut", "message"),
    [
        ("encoder/model.safetensors", 1000, r"expected 3,804,780 bytes, found 3,803,780"),
        ("encoder/model.safetensors", 3_804_000, "is cut within its head"),
    ],
)
def test_a_cut_file_is_found_before_it_is_loaded(
    profile: Profile, tmp_path: Path, file: str, cut: int, message: str
):

    shutil.copytree(resolve(profile.encoder.folder), tmp_path / "encoder")
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) - cut])
    encoder = profile.encoder.model_copy(update={"folder": str(tmp_path / "encoder")})
    with pytest.raises(ValueError, match=f"profile tiny: .*{message}.*fetch it again"):
        fetching.verify_models(profile.model_copy(update={"encoder": encoder}))
    fetching.verify_models(profile)


def test_the_plan_says_size_licence_and_place_of_everything():
    rows = fetching.fetch_plan(Profile.load("nextgpt-7b"))
    assert [row["model"] for row in rows] == ["llm", "encoder", "image", "audio", "video"]
    assert all(row["folder"] and row["from"] and row["licence"] for row in rows)
    assert all(row["gigabytes"] for row in rows)
