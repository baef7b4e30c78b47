"""Every profile from a hub on this machine: what is fetched, in which order, and what each thing that can go wrong says."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from full_size import ENCODER, Narrowed, narrowed, read
from loopback_hub import Hub
from replicas import replica

from anytoany_lib.checkpoints import downloads, fetching, hub
from anytoany_lib.checkpoints.integrity import head_of, pipeline_problems
from anytoany_lib.config import Profile

REPOSITORY = Path(__file__).resolve().parents[2]
NARROW = 32
QWEN = "Qwen/Qwen2.5-1.5B-Instruct"
DELTA, BASE = "lmsys/vicuna-7b-delta-v0", "huggyllama/llama-7b"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    """Profile nextgpt-7b, narrowed, and its hub."""
    with narrowed("nextgpt-7b", tmp_path_factory.mktemp("hub"), NARROW) as found:
        yield found


def _point(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Has the hub client in this process take `url` for the hub."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("ANYTOANY_LOOPBACK_HTTP", "1")


def _at_home(monkeypatch: pytest.MonkeyPatch, profile: Profile, home: Path) -> Profile:
    """The profile with its language model in a home of its own, where it is to be fetched to."""
    (home / "ckpt").mkdir(parents=True)
    monkeypatch.setenv("ANYTOANY_HOME", str(home))
    llm = profile.llm.model_copy(update={"folder": str(home / "ckpt" / "vicuna")})
    return profile.model_copy(update={"llm": llm})


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, small: Narrowed):
    """That hub for this process, with nothing wrong yet."""
    made = {repo: path for repo, path in small.replicas.items() if repo != ENCODER}
    with Hub(made, small.hub.plain) as found:
        _point(monkeypatch, found.url)
        yield found


def _fetched(small: Narrowed, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "anytoany_lib",
        "fetch",
        "--profile",
        str(small.profile),
    ]
    command.append("--trust")  # no profile of the kit names the encoder's place
    environment = os.environ | small.environment | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [*command, *more], env=environment, capture_output=True, text=True, check=False
    )


def _weights(names: list[str]) -> list[str]:
    return sorted(n for n in names if n.endswith((".safetensors", ".bin", ".pth", ".ckpt")))


def test_the_command_fetches_exactly_what_the_profile_needs(small: Narrowed):
    done = _fetched(small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fetched: llm, encoder, image, audio, video" in done.stdout
    sent = small.hub.sent()
    assert _weights(list(sent)) == [
        "cerspense/zeroscope_v2_576w/text_encoder/pytorch_model.bin",
        "cerspense/zeroscope_v2_576w/unet/diffusion_pytorch_model.bin",
        "cerspense/zeroscope_v2_576w/vae/diffusion_pytorch_model.bin",
        "cvssp/audioldm-l-full/text_encoder/pytorch_model.bin",
        "cvssp/audioldm-l-full/unet/diffusion_pytorch_model.bin",
        "cvssp/audioldm-l-full/vae/diffusion_pytorch_model.bin",
        "cvssp/audioldm-l-full/vocoder/pytorch_model.bin",
        "huggyllama/llama-7b/model-00001-of-00002.safetensors",
        "huggyllama/llama-7b/model-00002-of-00002.safetensors",
        "imagebind_huge.pth",
        "lmsys/vicuna-7b-delta-v0/pytorch_model-00001-of-00002.bin",
        "lmsys/vicuna-7b-delta-v0/pytorch_model-00002-of-00002.bin",
        *(
            f"stable-diffusion-v1-5/stable-diffusion-v1-5/{part}"
            for part in (
                "text_encoder/model.safetensors",
                "unet/diffusion_pytorch_model.safetensors",
                "vae/diffusion_pytorch_model.safetensors",
            )
        ),
    ]
    # The table was printed before: so many bytes were announced for each, and so many came.
    planned = dict(re.findall(r"^(\w+) .* to be fetched +[\d.]+ +(\d+)", done.stdout, re.M))
    for what, repositories in {
        "llm": (DELTA, BASE),
        "audio": ("cvssp/audioldm-l-full",),
        "encoder": (ENCODER,),
    }.items():
        came = sum(n for name, n in sent.items() if name.startswith(repositories))
        index = [n for name, n in sent.items() if name == f"{repositories[0]}/{hub.INDEX}"]
        # A pipeline's index is asked for by the plan too.
        assert int(planned[what]) == came - sum(index) // 2, what
    # Settings come before weights.
    names = [name for name, _, _ in small.hub.asked if name.startswith((DELTA, BASE))]
    assert min(map(names.index, _weights(names))) == len(names) - 4
    assert not list((small.profile.parent / "home" / "ckpt").glob(".*"))


def test_a_model_whose_files_went_is_fetched_for_these_alone(
    small: Narrowed, monkeypatch: pytest.MonkeyPatch
):
    """After the command above, in this process; of what is whole nothing is fetched again."""
    home = small.profile.parent / "home"
    monkeypatch.setenv("ANYTOANY_HOME", str(home))
    _point(monkeypatch, small.hub.url)
    profile = Profile.load(small.profile)
    folder = home / "ckpt" / "audioldm-l-full"
    assert fetching.fetch(profile, trusted=True) == {}
    (folder / "vae" / "diffusion_pytorch_model.bin").unlink()
    small.hub.asked.clear()
    fetching.fetch(profile, trusted=True)
    assert fetching.missing_models(profile) == {}
    assert _weights(list(small.hub.sent())) == [
        "cvssp/audioldm-l-full/vae/diffusion_pytorch_model.bin"
    ]


def test_a_cut_connection_goes_on(served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    name = "diffusion_pytorch_model.bin"
    served.cut[name] = 1_000_000
    hub.from_hub("cvssp/audioldm-l-full", None, tmp_path / "m")
    starts = [at for file, at, _ in served.asked if file.endswith(f"unet/{name}")]
    assert starts[0] == 0 and all(start > 0 for start in starts[1:]), starts
    assert pipeline_problems(tmp_path / "m") == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_says_where_to_agree(served: Hub, status: int, tmp_path: Path):
    served.gated[BASE] = status
    with pytest.raises(PermissionError, match=f"{BASE} is gated.*hf auth login"):
        hub.from_hub(BASE, None, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_repository_and_a_missing_revision_are_said(served: Hub, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no repository o/n on the hub, or it is private"):
        hub.from_hub("o/n", None, tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=f"{BASE} has no revision v9"):
        hub.from_hub(BASE, "v9", tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_another_checksum_is_refused_and_only_that_file_is_fetched_again(
    served: Hub, tmp_path: Path
):
    name = "model-00002-of-00002.safetensors"
    served.spoilt.add(name)
    with pytest.raises(ValueError, match=f"{name} of {BASE}: expected sha256 .*thrown away"):
        hub.from_hub(BASE, None, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    served.spoilt.clear()
    served.asked.clear()
    hub.from_hub(BASE, None, tmp_path / "m")
    assert _weights(list(served.sent())) == [f"{BASE}/{name}"]


def test_a_file_that_changed_in_between_is_noticed(served: Hub, tmp_path: Path):
    served.gone.add("pytorch_model-00001-of-00002.bin")
    with pytest.raises(FileNotFoundError, match="in its list a moment ago: fetch again"):
        hub.from_hub(DELTA, None, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_repository_that_changed_since_the_first_attempt_comes_as_it_is_now(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    made = replica(QWEN, tmp_path / "hub", 32)
    with Hub({QWEN: made}) as served:
        _point(monkeypatch, served.url)
        served.cut["model.safetensors"] = 1_000_000
        monkeypatch.setattr(
            "huggingface_hub.file_download.http_get", _fails_once_cut(served), raising=True
        )
        with pytest.raises(ConnectionError):
            hub.from_hub(QWEN, None, tmp_path / "m")
        monkeypatch.undo()
        _point(monkeypatch, served.url)
        data = bytearray((made / "model.safetensors").read_bytes())
        data[-10:] = b"\1" * 10
        (made / "model.safetensors").write_bytes(data)
        hub.from_hub(QWEN, None, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == bytes(data)


def _fails_once_cut(served: Hub):
    """The client's download without its own further attempts, as if the process had ended."""
    from huggingface_hub import file_download

    real = file_download.http_get

    def get(*args, **kwargs):
        """As the real one, once."""
        if "/far/" in str(args[0]) or "model.safetensors" in str(args[0]):
            kwargs["_nb_retries"] = 0
        return real(*args, **kwargs)

    return get


def test_a_repository_with_weights_as_a_variant_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch, small: Narrowed, tmp_path: Path
):
    folder = tmp_path / "hub"
    shutil.copytree(small.replicas["stable-diffusion-v1-5/stable-diffusion-v1-5"], folder)
    for file in folder.rglob("*"):
        if file.suffix in (".safetensors", ".bin") and ".fp16." not in file.name:
            file.unlink()
    with Hub({"o/fp16": folder}) as served:
        _point(monkeypatch, served.url)
        with pytest.raises(
            ValueError, match="weights of text_encoder are there only as variant fp16.*Nothing"
        ):
            hub.from_hub("o/fp16", None, tmp_path / "m")
        assert _weights(list(served.sent())) == []
    assert not (tmp_path / "m").exists()


def test_what_does_not_fit_the_disk_is_not_begun(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("anytoany_lib.checkpoints.hub.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="of disk and 0.0 GB are free.*ANYTOANY_HOME") as caught:
        hub.from_hub(BASE, None, tmp_path / "m")
    assert caught.value.errno == errno.ENOSPC
    assert _weights(list(served.sent())) == []


def test_a_disk_that_fills_up_says_so_and_leaves_no_model(small: Narrowed, tmp_path: Path):
    code = f"from pathlib import Path\nfrom anytoany_lib.checkpoints import hub\nhub.from_hub({BASE!r}, None, Path({str(tmp_path / 'm')!r}))"
    limit = 3_000_000  # bytes of a file: what a full disk is to the one who writes
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | small.environment | {"PYTHONPATH": str(REPOSITORY)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and "the disk is full while" in done.stderr, done.stderr[-2000:]
    assert not (tmp_path / "m").exists()


def _changed(folder: Path, name: str, made: Path) -> Path:
    """A copy of a replica as a repository of its own, to be spoilt."""
    shutil.copytree(made, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.model", None, "has no vocabulary: expected one of"),
        ("tokenizer.model", b"\x0a\x05", "no tokenizer can be made of tokenizer.model"),
        ("tokenizer.model", b"<html>", "no tokenizer can be made of tokenizer.model"),
        ("tokenizer_config.json", None, "tokenizer_config.json is missing"),
        ("config.json", b'{"model_type": "llama"', "config.json is no JSON, or is cut"),
        ("config.json", b'{"model_type": "llama"}', r"expected \['vocab_size'\]"),
    ],
)
def test_a_language_model_is_looked_at_before_its_weights_come(
    file: str,
    content: bytes | None,
    message: str,
    small: Narrowed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    folder = _changed(tmp_path, "hub", small.replicas[DELTA])
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    repositories = {DELTA: folder, BASE: small.replicas[BASE]}
    profile = _at_home(monkeypatch, Profile.load(small.profile), tmp_path / "home")
    with Hub(repositories) as served:
        _point(monkeypatch, served.url)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            fetching.fetch(profile)
        assert _weights(list(served.sent())) == []


def test_a_base_of_another_size_is_refused_before_any_weights(
    small: Narrowed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = replica(BASE, tmp_path / "other", 16)
    profile = _at_home(monkeypatch, Profile.load(small.profile), tmp_path / "home")
    with Hub({DELTA: small.replicas[DELTA], BASE: other}) as served:
        _point(monkeypatch, served.url)
        with pytest.raises(
            ValueError, match="do not belong together.*hidden_size is 256 in the base and 128"
        ):
            fetching.fetch(profile)
        assert _weights(list(served.sent())) == []


def test_a_profile_can_be_planned_without_a_hub(monkeypatch: pytest.MonkeyPatch):
    _point(monkeypatch, "http://127.0.0.1:9")
    rows = fetching.fetch_plan(Profile.load("nextgpt-7b"))
    assert [row["gigabytes"] for row in rows] == [27, 4.8, 5.5, 3.9, 3.7]
    assert all(row["files"] is None for row in rows)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path):
    file, trace = tmp_path / "pytorch_model.bin", tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    torch.save({"weight": Code()}, file)
    problem, shapes = head_of(file)
    assert "nothing in it was executed" in str(problem) and shapes == {}
    assert not trace.exists()


# --- single files ---


def test_a_file_that_changed_since_it_broke_off_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ANYTOANY_LOOPBACK_HTTP", "1")
    source, target = tmp_path / "w.pth", tmp_path / "here" / "w.pth"
    source.write_bytes(bytes(3_000_000))
    with Hub({}, {"w.pth": source}) as served:
        served.cut["w.pth"] = 1_000_000
        with pytest.raises(ConnectionError, match="broke off"):
            downloads.from_url(f"{served.url}/plain/w.pth", target)
        source.write_bytes(b"\1" * 3_000_000)
        downloads.from_url(f"{served.url}/plain/w.pth", target)
    assert target.read_bytes() == b"\1" * 3_000_000
    assert [path.name for path in target.parent.iterdir()] == ["w.pth"]


def test_a_file_of_another_checksum_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANYTOANY_LOOPBACK_HTTP", "1")
    source, target = tmp_path / "w.pth", tmp_path / "here" / "w.pth"
    source.write_bytes(b"abc")
    with (
        Hub({}, {"w.pth": source}) as served,
        pytest.raises(
            ValueError, match=f"expected sha256 {'0' * 64}, found ba7816bf.*nothing was kept"
        ),
    ):
        downloads.from_url(f"{served.url}/plain/w.pth", target, "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_the_manifest_says_what_came(served: Hub, tmp_path: Path):
    hub.from_hub(DELTA, None, tmp_path / "m")
    said = read(tmp_path / "m" / hub.MANIFEST)
    assert said["repository"] == DELTA and said["commit"] == served.commit(DELTA)
    weights = tmp_path / "m" / "pytorch_model-00001-of-00002.bin"
    assert said["files"][weights.name]["size"] == weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:-5])
    assert [re.sub(r"^.*/", "", line) for line in hub.changed_of(tmp_path / "m")] == [
        f"{weights.name}: expected {weights.stat().st_size + 5:,} bytes, found {weights.stat().st_size:,}"
    ]
