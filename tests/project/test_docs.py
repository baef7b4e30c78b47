"""The documents are true: links lead somewhere, names and options exist, code runs, quoted messages are what is said."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_other_llms import SMALL, talk
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from anytoany_lib import cli
from anytoany_lib.batches import collate
from anytoany_lib.config import Profile, StageConfig, resolve
from anytoany_lib.config.yaml_files import merged
from anytoany_lib.data import building
from anytoany_lib.data.manifests import read_manifest
from anytoany_lib.data.rows import DataError
from anytoany_lib.decoders import adapters
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.media import media_files
from anytoany_lib.memory import planning
from anytoany_lib.model import AnyToAny
from anytoany_lib.toyworld import sound
from anytoany_lib.train import total_loss
from anytoany_lib.training.setup import trained_parts

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "data/*.md", "ckpt/*.md", "ckpt/tiny/*/*.md")
    for page in ROOT.glob(pattern)
)
# What these say was true when it was written.
RECORDS = {ROOT / "CHANGELOG.md", DOCS / "LOG.md"}
PRESENT = [page for page in PAGES if page not in RECORDS]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = r'\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"'
CODE = re.compile(r"`([^`\n]+)`")
FILES = (
    "py",
    "md",
    "json",
    "jsonl",
    "csv",
    "yaml",
    "ipynb",
    "js",
    "svg",
    "pt",
    "pth",
    "txt",
    "npy",
)

sys.path.append(str(DOCS))
architecture = importlib.import_module("make_architecture")
IMPORTS, SOURCES = architecture.read_imports(), architecture.sources()


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are in a language; "" is what stands for the shell here."""
    return [body for of, body in FENCED.findall(read(page)) if of == language]


def spans(page: Path) -> list[str]:
    """What stands between backticks in a page's prose."""
    return CODE.findall(FENCED.sub("", read(page)))


# --- links ---


def slug(heading: str) -> str:
    """A heading as GitHub names it in links."""
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return plain.replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    prose = CODE.sub("", FENCED.sub("", read(page)))
    broken = []
    for link in map("".join, re.findall(LINK, prose)):
        file, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / file).resolve() if file else page
        headings = re.findall(r"^#+ (.+)$", read(target), re.MULTILINE) if anchor else []
        if not target.exists() or (anchor and anchor not in map(slug, headings)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path):
    assert broken_links(page) == []


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](page.md) [b](#here) [c](gone.md) [d](#there) `[e](code.md)`\n"
        '<img src="gone.png"> <a href="page.md">\n'
    )
    assert broken_links(page) == ["gone.md", "#there", "gone.png"]


def test_every_document_is_in_the_index():
    index = read(DOCS / "README.md")
    there = [page for page in DOCS.glob("*.md") if page.name != "README.md"]
    assert [page.name for page in there if f"({page.name})" not in index] == []


# --- the house ---


def test_imports_go_one_way_and_no_wing_is_full():
    assert architecture.problems(IMPORTS) == []


def test_what_is_wrong_with_imports_is_seen():
    assert architecture.door("data.rows") == "data"
    imports = dict(IMPORTS)
    imports["data.rows"] = {"data.ledger": True}
    imports["data.ledger"] = {"data.rows": True}
    imports["config"] = {"train": True}
    imports["evaluation.matrix"] = {"toyworld.judges": True}
    imports |= {f"media.kind_{n}": {} for n in range(12)}
    said = architecture.problems(imports)
    for problem in (
        "data.rows imports itself by way of others",
        "config imports itself by way of others",
        "training imports itself by way of others",
        "evaluation.matrix imports toyworld.judges: the toy world is for notebooks and tests",
    ):
        assert problem in said
    assert [one for one in said if one.startswith("media holds 2")]


def test_an_import_for_types_alone_makes_no_circle():
    assert architecture.problems(IMPORTS | {"config": {"train": False}}) == []


def test_imports_inside_functions_and_for_types_are_read(tmp_path: Path, monkeypatch):
    (tmp_path / "anytoany_lib").mkdir()
    for name, text in {
        "__init__": "",
        "low": "",
        "other": "def f():\n    from anytoany_lib import low\n",
        "high": "from .low import x\nif TYPE_CHECKING:\n    import anytoany_lib.other\n",
    }.items():
        (tmp_path / "anytoany_lib" / f"{name}.py").write_text(text)
    monkeypatch.setattr(architecture, "REPOSITORY", tmp_path)
    imports = architecture.read_imports()
    assert imports["other"] == {"low": True} and imports["high"] == {"low": True, "other": False}


def test_picture_and_list_of_modules_are_those_of_the_code():
    stale = "stale: run docs/make_architecture.py"
    assert read(architecture.FIGURE) == architecture.picture(IMPORTS), stale
    assert architecture.section() in read(architecture.DOCUMENT), stale
    assert architecture.reading_path() in read(architecture.DOCUMENT), stale


def test_the_whole_idea_can_be_read_in_an_hour():
    lengths = [len(read(SOURCES[name]).splitlines()) for name in architecture.READING_PATH]
    assert sum(lengths) <= 3000


# --- names ---


@cache
def members(file: Path) -> dict[str, set[str]]:
    """What a module defines or imports at its top, and of each class what it defines: names alone."""
    found: dict[str, set[str]] = {}
    for node in ast.parse(read(file)).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {name for part in node.body for name in defined(part)} | {
                one.attr
                for one in ast.walk(node)
                if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "self"
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("anytoany_lib."):
            there = SOURCES.get(node.module.removeprefix("anytoany_lib."))
            inside = members(there) if there and file.name == "__init__.py" else {}
            found |= {name: inside.get(name, set()) for name in defined(node)}
        else:
            found |= {name: set() for name in defined(node)}
    return found


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement gives a meaning."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [
        one.id
        for target in targets
        if target
        for one in ast.walk(target)
        if isinstance(one, ast.Name)
    ]


def is_setting(parts: list[str], of: type = Profile) -> bool:
    """Whether dotted parts name a key of a profile."""
    field = getattr(of, "model_fields", {}).get(parts[0])
    return field is not None and (
        len(parts) == 1
        or not hasattr(field.annotation, "model_fields")
        or is_setting(parts[1:], field.annotation)
    )


def unknown_name(code: str) -> bool:
    """Whether code is a dotted name that begins with a module or a setting and does not exist."""
    dotted = re.fullmatch(r"(\w+(?:\.\w+)+)(?:\(.*\))?", code.removeprefix("anytoany_lib."))
    if not dotted or (parts := dotted[1].split("."))[-1] in FILES:
        return False
    files = SOURCES
    if parts[-1] == "model" and parts[0] == "tokenizer":  # a file of SentencePiece
        return False
    if parts[0] not in files and parts[0] not in Profile.model_fields:
        return False
    if is_setting(parts):
        return False
    module = next((".".join(parts[:n]) for n in (3, 2, 1) if ".".join(parts[:n]) in files), None)
    if module is None:
        return True
    name, *rest = parts[module.count(".") + 1 :] or [""]
    known = members(files[module])
    if module == "model":  # which is also what an AnyToAny is called
        known = known | {member: set() for member in known["AnyToAny"]}
    return bool(name) and (name not in known or any(part not in known[name] for part in rest[:1]))


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_names_exist(page: Path):
    assert [code for code in spans(page) if unknown_name(code)] == []


def test_a_name_that_does_not_exist_is_seen():
    right = (
        "train.train model.AnyToAny.project chat.Session.messages llm.folder stage.py data.build(x)"
    )
    wrong = "train.trane model.AnyToAny.projekt llm.folders lora.tragets toyworld.scenes.rander"
    assert not any(map(unknown_name, [*right.split(), "anytoany_lib.toyworld.scenes.render"]))
    assert all(map(unknown_name, wrong.split()))


# --- commands ---


@cache
def options_of(file: Path) -> frozenset[str]:
    """The options that a script or module adds to its parser, or takes over from another module: with its `parser`, or
    with a function `add_..._options`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(read(file))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".add_argument"):
            found |= {one.value for one in node.args if isinstance(one, ast.Constant)}
        if isinstance(node, ast.ImportFrom) and any(
            re.fullmatch(r"parser|add_\w+_options", alias.name) for alias in node.names
        ):
            found |= options_of(SOURCES[node.module.removeprefix("anytoany_lib.")])
    return frozenset(found)


COMMAND = re.compile(
    r"(?:(?:(?<![\w/.-])|(?<=\.venv/bin/))anytoany ([a-z]+)(?= |`|$)|-m (?:-- )?(anytoany_lib[\w.]*)|python ((?:bench|docs)/\w+\.py))"
    r"([^`\n#]*)",
    re.MULTILINE,
)


def file_of(command: str, module: str, path: str) -> Path | None:
    """The file whose parser reads a command line."""
    if command:
        module = (
            f"anytoany_lib.{cli.COMMANDS[command].module}" if command in cli.COMMANDS else command
        )
    name = module.removeprefix("anytoany_lib").lstrip(".") or "anytoany_lib"
    name = {"features": "features.precomputing"}.get(name, name)
    return ROOT / path if path else SOURCES.get(name)


def wrong_commands(text: str) -> list[str]:
    """What is wrong with a text's command lines of the kit: commands, options, make targets, notebooks' parameters."""
    text, wrong = text.replace("\\\n", " "), []
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    for command, module, path, rest in COMMAND.findall(text):
        file, said = file_of(command, module, path), command or module or path
        if file is None or not file.is_file():
            wrong.append(said)
            continue
        if module.startswith("anytoany_lib.harnesses."):  # the command line of another package
            continue
        known = options_of(file)
        if command == "benchmark":
            known |= options_of(SOURCES["benchmarks.generation"])
        wrong += [
            f"{said} {option}"
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)
            if option not in known
        ]
    wrong += [
        f"make {t}"
        for t in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE)
        if t not in targets
    ]
    for notebook, rest in re.findall(r"papermill [^`\n]*?(notebooks/\w+\.ipynb)([^`\n]*)", text):
        cells = json.loads(read(ROOT / notebook))["cells"] if (ROOT / notebook).is_file() else []
        told = "".join(
            line
            for c in cells
            if "parameters" in c["metadata"].get("tags", ())
            for line in c["source"]
        )
        wrong += [f"{notebook} {p}" for p in re.findall(r"-p (\w+)", rest) if f"{p}: " not in told]
        wrong += [] if cells else [notebook]
    return wrong


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_commands_are_accepted(page: Path):
    assert wrong_commands(read(page)) == []


def test_commands_that_are_not_accepted_are_seen():
    text = (
        "`make tset`\nanytoany train --stages 1 \\\n  --resume --sed\n`python bench/scale.py --x`\n"
    )
    text += "papermill notebooks/07_chat.ipynb out.ipynb -p RUNS x\n-m -- anytoany_lib.trian ...\n"
    text += ".venv/bin/anytoany chat --sed 1\n"
    assert wrong_commands(text) == [
        "train --stages",
        "train --sed",
        "bench/scale.py --x",
        "anytoany_lib.trian",
        "chat --sed",
        "make tset",
        "notebooks/07_chat.ipynb RUNS",
    ]


# --- messages ---


@cache
def sayings() -> list[str]:
    """Every text in the library's source, with "…" for what is put in."""
    found = []
    for file in SOURCES.values():
        for node in ast.walk(ast.parse(read(file))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    for page in (ROOT / "anytoany_lib" / "chat" / "static").glob("*.js"):
        found.append(re.sub(r"\$\{[^}]*\}", "…", read(page)))
    return found


def is_said(message: str, by: str) -> bool:
    """Whether the library, or a package of that name, can say this."""
    if not by:
        return any(message in one for one in sayings())
    files = [Path(file.locate()) for file in metadata.files(by) if file.suffix in (".py", ".js")]
    return any(message.rstrip("… ") in file.read_text("utf-8", "ignore") for file in files)


MESSAGES = re.findall(
    r"^### `(.+)`(?: \((\w+)\))?$", read(DOCS / "troubleshooting.md"), re.MULTILINE
)


@pytest.mark.parametrize(("message", "by"), MESSAGES, ids=[message[:40] for message, _ in MESSAGES])
def test_a_quoted_message_is_one_that_is_said(message: str, by: str):
    if by == "pydantic":
        with pytest.raises(ValueError, match=message):
            Profile.parse(Profile.load("tiny").model_dump() | {"colour": "red"}, "tiny.yaml")
    else:
        assert is_said(message, by)


def test_messages_are_many_and_each_says_what_to_do():
    entries = read(DOCS / "troubleshooting.md").split("\n### ")[1:]
    assert len(entries) == len(MESSAGES) >= 40
    assert all("**Do:** " in entry for entry in entries)
    assert not is_said("no such message … as this", "")


# --- code ---


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_python_in_documents_compiles(page: Path):
    for body in blocks(page, "python"):
        compile(body, named(page), "exec")


def bare(function: ast.FunctionDef) -> str:
    """A function without its docstring and its types."""
    names = [one.arg for one in function.args.args]
    body = function.body[ast.get_docstring(function) is not None :]
    return f"{function.name}({names})" + "".join(map(ast.dump, body))


def test_the_decoder_of_the_document_is_the_one_that_ships():
    (code,) = blocks(DOCS / "adding_a_decoder.md", "python")
    exec(code, dict(vars(adapters), ADAPTERS={}))
    *functions, row = ast.parse(code).body
    ships = ast.parse(read(ROOT / "anytoany_lib" / "decoders" / "adapters.py")).body
    defined_there = [one for one in ships if isinstance(one, ast.FunctionDef)]
    theirs = {one.name: bare(one) for one in defined_there}
    assert [bare(one) for one in functions] == [theirs[one.name] for one in functions]
    table = next(one.value for one in ships if "ADAPTERS" in defined(one))
    name = ast.literal_eval(row.targets[0].slice)
    at = [ast.literal_eval(key) for key in table.keys].index(name)
    assert ast.dump(row.value) == ast.dump(table.values[at])


def test_the_readers_of_the_document_read(tmp_path: Path, monkeypatch, capsys):
    birds, riddles = tmp_path / "birds_source", tmp_path / "riddles_source"
    (birds / "calls").mkdir(parents=True)
    riddles.mkdir()
    lines = ["file,bird,call"]
    for number in range(20):
        tone = sound("bird", np.random.default_rng(number))
        media_files.save_audio(birds / "calls" / f"{number}.wav", *tone)
        media_files.save_audio(riddles / f"{number}.wav", *tone)
        lines.append(f"{number}.wav,{'' if number == 3 else 'wren'},song")
    (birds / "calls" / "4.wav").write_bytes(b"")
    (birds / "birds.csv").write_text("\n".join(lines))
    told = [
        {"sound": f"{n}.wav", "answer": "A wren.", "picture": f"a wren on {n} stones"}
        for n in range(20)
    ]
    (riddles / "riddles.jsonl").write_text("\n".join(map(json.dumps, told)))
    monkeypatch.chdir(tmp_path)
    for name in ("birds", "riddles"):  # which the document enters into the table
        monkeypatch.setitem(building.ALL_READERS, name, None)
    written: dict = {}
    for code in blocks(DOCS / "adding_a_dataset.md", "python"):
        exec(code, written)
    report = json.loads((tmp_path / "data/birds/report.json").read_text())
    assert report["kept"] == 18 and report["dropped"] == {"bird missing": 1, "empty": 1}
    assert "the song of a wren" in capsys.readouterr().out
    row = read_manifest(tmp_path / "data/riddles", "train")[0]
    assert row.messages[1]["content"][1]["caption"].startswith("a wren on ")
    (birds / "birds.csv").unlink()
    with pytest.raises(DataError, match=r"birds\.csv: missing"):
        building.build("birds", birds, tmp_path / "again")


def profiles(page: Path) -> list[dict]:
    """The YAML of a page that is a whole profile."""
    found = [yaml.safe_load(body) for body in blocks(page, "yaml")]
    return [settings for settings in found if "name" in settings]


@pytest.mark.parametrize("page", [page for page in PAGES if profiles(page)], ids=named)
def test_profiles_in_documents_load(page: Path, tmp_path: Path):
    for settings in profiles(page):
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(settings))
        assert Profile.load(file).name == settings["name"]


# --- another language model ---


@pytest.fixture(scope="module")
def phi(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> AnyToAny:
    """The document's profile with small random weights of its architecture, tiny decoders, SmolLM2's words and its own marks."""
    folder = tmp_path_factory.mktemp("phi")
    (settings,) = profiles(DOCS / "adding_an_llm.md")
    (folder / "mine.yaml").write_text(yaml.safe_dump(settings))
    wanted = Profile.load(folder / "mine.yaml")
    tokenizer = AutoTokenizer.from_pretrained(resolve(profile.llm.folder))
    marks = ["<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    torch.manual_seed(0)
    sizes = SMALL | {"vocab_size": len(tokenizer)}
    config = AutoConfig.for_model(**wanted.llm.architecture | sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    llm = wanted.llm.model_copy(update={"folder": str(folder)})
    encoder = wanted.encoder.model_copy(update={"folder": profile.encoder.folder, "embedding": 256})
    frozen = {"llm": llm, "encoder": encoder, "decoders": profile.decoders}
    return AnyToAny.from_profile(wanted.model_copy(update=frozen), seed=0)


def test_the_language_model_of_the_document_learns_in_every_stage(phi: AnyToAny):
    batch = collate([phi.messages.encode(talk())], lambda _, m: m, lambda *_: torch.zeros(128), 256)
    for stage in phi.profile.stages.values():
        parts = trained_parts(phi, stage)
        phi.zero_grad()
        total_loss(phi.train()(batch), stage).backward()
        for part, parameters in parts.items():
            assert any(p.grad is not None and p.grad.any() for p in parameters), part


def test_the_language_model_of_the_document_talks(phi: AnyToAny):
    reply = phi.eval().chat(talk()[1:3], sampling=Sampling(max_new_tokens=8, kinds=()))
    assert reply["role"] == "assistant" and phi.messages.stop_text == "<|end|>"


# --- memory ---


def printed(arguments: str, capsys) -> str:
    """What the memory plan's command prints."""
    planning.main(shlex.split(arguments))
    return capsys.readouterr().out


def alike(one: str, other: str) -> bool:
    """Whether two words are the same, or numbers that differ by 3 % at most."""
    if all(re.fullmatch(r"\d+\.\d+", word) for word in (one, other)):
        return float(one) == pytest.approx(float(other), rel=0.03, abs=0.011)
    return one == other


def same(said: str, found: str) -> bool:
    """Whether two texts have the same words in a row, and numbers that are alike."""
    ours, theirs = said.split(), found.split()
    return len(ours) == len(theirs) and all(map(alike, ours, theirs))


def test_the_memory_plans_in_the_document_are_what_is_planned(capsys):
    shown = re.findall(
        r"^\$ anytoany memory(.*)\n((?:(?!```).+\n)+)",
        read(DOCS / "memory.md"),
        re.MULTILINE,
    )
    assert len(shown) == 2
    for arguments, output in shown:
        assert same(output, printed(arguments, capsys)), arguments


def changed(profile: Profile, changes: dict) -> Profile:
    """A profile with changes, those of a stage in each of its stages."""
    if changes.keys() <= StageConfig.model_fields.keys():
        changes = {"stages": dict.fromkeys(profile.stages, changes)}
    settings = merged(profile.model_dump(exclude_unset=True), changes)
    return Profile.parse(settings, "memory.md")


def test_what_changes_save_in_the_document_is_what_is_planned():
    page, profile = read(DOCS / "memory.md"), Profile.load("nextgpt-7b")
    lines = re.findall(r"^\| (?:`(.+)`|as it is)((?: \| [\d.]+)+) \|$", page, re.MULTILINE)
    assert len(lines) >= 8
    for change, said in lines:
        tokens = re.fullmatch(r"--tokens (\d+)", change)
        settings = {} if tokens or not change else yaml.safe_load("{" + change + "}")
        phases = planning.plan_memory(changed(profile, settings), int(tokens[1]) if tokens else 128)
        found = [planning.peak(phase) / 2**30 for phase in phases.values()]
        assert list(map(float, re.findall(r"[\d.]+", said))) == pytest.approx(found, abs=0.16), (
            change
        )


def test_the_small_profile_in_the_document_fits_the_card_it_is_for(tmp_path: Path):
    page = DOCS / "memory.md"
    (settings,) = profiles(page)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    profile = Profile.load(tmp_path / "mine.yaml")
    gigabytes = int(re.search(r"A profile for a card of (\d+) GB", read(page))[1])
    assert planning.advice(profile, planning.plan_memory(profile), gigabytes * 10**9) == []
    assert planning.advice(profile, planning.plan_memory(profile), (gigabytes - 1) * 10**9)


def test_a_plan_that_has_changed_is_seen():
    said = "at once 4.86 5.89\nall phases fit"
    assert same(said, "at once    4.90   5.89\nall phases fit")
    for other in ("at once 5.86 5.89\nall phases fit", "at once 4.86\nall phases fit", "4.86"):
        assert not same(said, other)


# --- records ---


def test_the_log_is_dated_newest_first_and_every_entry_begins_in_bold():
    days = re.findall(r"^## (.+)$", read(DOCS / "LOG.md"), re.MULTILINE)
    dates = [re.fullmatch(r"(\d{4}-\d\d-\d\d)(, .+)?", day)[1] for day in days]
    assert dates == sorted(dates, reverse=True)
    assert not re.findall(r"^- (?!\*\*).*$", read(DOCS / "LOG.md"), re.MULTILINE)


def test_the_changelog_has_the_form_and_the_version():
    changes = read(ROOT / "CHANGELOG.md")
    version = re.search(r'^version = "(.+)"$', read(ROOT / "pyproject.toml"), re.MULTILINE)[1]
    headings = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", changes, re.MULTILINE)
    assert headings[0] == "Unreleased" and version in changes
    kinds = re.findall(r"^### (.+)$", changes, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
