"""The whole course on the published layout: notebooks 00 to 09 in order on full-size profiles, narrowed.

Everything is fetched from a hub on this machine: a difference that is merged, real tokenizers where they are at hand,
ImageBind's .pth, pipelines as published. Data are the samples of NExT-GPT where they are at hand, else the toy world.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
import yaml
from full_size import ENCODER, PUBLISHED, Narrowed, assembled, narrowed
from loopback_hub import sums
from replicas import replica
from safetensors import safe_open
from transformers import AutoTokenizer

from anytoany_lib import demo
from anytoany_lib.checkpoints import fetching
from anytoany_lib.checkpoints.nextgpt import export_nextgpt, import_nextgpt
from anytoany_lib.config import Profile, licences
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny

SAMPLES = PUBLISHED.parent / "samples" / "nextgpt"
SHOWN = {
    "image": SAMPLES / "cc3m/images/001310451.jpg",
    "audio": SAMPLES / "audiocap/audios/102666.wav",
    "video": SAMPLES / "webvid/videos/00007488.mp4",
}
NARROW = {
    "nextgpt-7b": 16,
    "qwen3-8b": 32,
    "qwen3-4b": 32,
    "qwen3-1.7b": 32,
    "qwen3-0.6b": 32,
    "permissive": 32,
}
RUN = "ChocoWu/nextgpt_7b_tiva_v0"
# So that random weights learn that a reply may be a medium; that of the commonest kind is what they then answer with.
LEARNT = {"steps": 40, "batch_size": 4}
RATES = {"output_projections": 1e-3, "token_rows": 0.02}
FINER = {"lora": 5e-3, "input_projection": 1e-3}


@dataclass(frozen=True)
class Course:
    """What is left of a course: where it happened, and the profile that it was about."""

    small: Narrowed
    profile: Profile
    home: Path

    @property
    def run(self) -> Path:
        """The run of stage 3."""
        return self.home / "ckpt/runs" / self.profile.name / "stage3"

    def shown(self, notebook: str) -> str:
        """All that an executed notebook shows, as JSON text."""
        cells = nbformat.read(self.home / "out" / f"{notebook}.ipynb", as_version=4).cells
        return json.dumps([cell.get("outputs", []) for cell in cells])


def taught(small: Narrowed) -> Path:
    """The narrowed profile with short replies, and with enough steps for them to contain media."""
    settings = yaml.safe_load(small.profile.read_text(encoding="utf-8"))
    settings["llm"]["max_new_tokens"] = 12
    settings["stages"][1]["steps"] = 5  # after so many a line is written
    settings["stages"][2] |= LEARNT | {"learning_rates": RATES}
    settings["stages"][3] |= LEARNT | {"learning_rates": RATES | FINER}
    file = small.profile.with_name("course.yaml")
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def sizes() -> dict[str, dict[str, Any]]:
    """What the notebooks are told beside the plan, so that each takes seconds."""
    script: list[Any] = ["Draw a red bell."]
    samples: dict[str, Any] = {}
    if SAMPLES.is_dir():
        samples = {"READER": "nextgpt", "SOURCE": str(SAMPLES), "HELD_OUT": 0.2}
        script.append([{"image": str(SHOWN["image"])}, "What is this?"])
        script.append([{kind: str(SHOWN[kind])} for kind in ("audio", "video")])
    else:
        script.append([{"image": "toy:blue drum"}, {"audio": "toy:train"}, "What is this?"])
    return {
        # The encoder comes from another place than the one that the kit's profiles name.
        "01_checkpoints": {
            "TRUST": True,
            "STEPS": 1,
            "IMAGE_CAPTIONS": ["a red bell", "a blue car"],
            "AUDIO_CAPTIONS": ["a bell ringing"],
        },
        "02_data": samples,
        "04_stage1_input_alignment": {"SHOWN": 2},
        "05_stage2_output_alignment": {"SHOWN": 1},
        "06_stage3_instruction_tuning": {"SHOWN": 2},
        "07_chat": {"SCRIPT": script},
        "08_evaluate": {"PER_TASK": 4, "SHOWN": 2},
        "09_compare": {"PROMPTS": ["Draw a red bell."]},
    }


# Five minutes each: all but the first are for `make test-long`.
COURSES = [
    name if name == "nextgpt-7b" else pytest.param(name, marks=pytest.mark.long) for name in NARROW
]


@pytest.fixture(scope="module", params=COURSES)
def course(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Course]:
    """All notebooks in order, as `make demo` would run them; a NotebookError says which one failed."""
    folder = tmp_path_factory.mktemp(request.param)
    with (
        narrowed(request.param, folder, NARROW[request.param], everything=False) as small,
        pytest.MonkeyPatch.context() as patch,
    ):
        variables = {"ANYTOANY_LOOPBACK_HTTP": "1", "OMP_NUM_THREADS": "1"}
        for name, value in (small.environment | variables).items():
            patch.setenv(name, value)
        home, file = folder / "home", taught(small)
        patch.chdir(home)
        toy = ["--media", "24", "--conversations", "24", "--per-task", "1", "--bound", "1"]
        options = demo.parser().parse_args(["--profile", str(file), *toy])
        for name, parameters in demo.notebooks_to_run(options):
            told = parameters | sizes().get(name, {})
            demo.execute(demo.NOTEBOOKS / f"{name}.ipynb", told, home / "out")
        yield Course(small, Profile.load(file), home)


def test_notebook_01_fetched_all_of_it_from_the_hub(course: Course):
    assert not fetching.missing_models(course.profile)
    fetching.verify_models(course.profile)
    shown = course.shown("01_checkpoints")
    named = ", ".join(part for part, _ in licences.sources(course.profile))
    assert f"fetched: {named}" in shown
    assert "<audio controls" in shown and "<video controls" in shown
    assert "An error occurred" not in shown  # of pipelines whose weights are .bin alone
    sent = [name for name, _, _ in course.small.hub.asked if name.endswith((".bin", "ors", ".pth"))]
    assert len(sent) == len(set(sent))
    if ENCODER in course.small.replicas:
        encoder = course.home / course.profile.encoder.folder
        assert ENCODER in sent and sums(encoder)[0] == sums(course.small.replicas[ENCODER])[0]


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's weights by name."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for file in sorted(folder.glob("pytorch_model*.bin")):
        found |= torch.load(file, weights_only=True)
    return {name: tensor for name, tensor in found.items() if "inv_freq" not in name}


def test_the_language_model_is_what_the_hub_has(course: Course):
    source, ours = course.profile.llm.source, _tensors(course.home / course.profile.llm.folder)
    assert source is not None and source.hub is not None
    theirs = _tensors(course.small.replicas[source.hub])
    if source.difference_to:
        base = _tensors(course.small.replicas[source.difference_to])
        assert base.keys() == theirs.keys()
        for name, tensor in base.items():
            theirs[name][: len(tensor)] += tensor
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_prompts_are_those_of_the_published_tokenizer(course: Course):
    """NExT-GPT's opening as its training had it; Qwen's own template, without thinking."""
    model = AnyToAny.from_pretrained(course.run)
    question = {"role": "user", "content": [{"type": "text", "text": "Draw a red bell."}]}
    ids = model.messages.encode([question], prompt=True).ids
    if course.profile.llm.tokenizer == "sentencepiece-legacy":
        if not PUBLISHED.is_dir():
            pytest.skip("the published tokenizer is not beside this repository")
        assert ids[:2] == [1, 835] and model.vocabulary.base_size == 32000
        return
    own = AutoTokenizer.from_pretrained(course.home / course.profile.llm.folder)
    asked = [{"role": "user", "content": "Draw a red bell."}]
    how = {"add_generation_prompt": True, "enable_thinking": False, "tokenize": False}
    if own.chat_template is None:
        pytest.skip("the published template is not beside this repository")
    rendered = own.apply_chat_template(asked, **how)
    assert ids == own.encode(rendered, add_special_tokens=False)


def test_the_data_are_the_samples(course: Course):
    if not SAMPLES.is_dir():
        pytest.skip("no samples of real media beside the repository")
    report = json.loads((course.home / "data/toy/report.json").read_text(encoding="utf-8"))
    assert report["kept"] == 27 and report["rows"]["kind"] == {"image": 12, "video": 7, "audio": 8}


def test_stages_follow_one_another(course: Course):
    for stage in (1, 2, 3):
        run = course.run.with_name(f"stage{stage}")
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        assert record["stage"] == stage and record["steps"] == course.profile.stages[stage].steps
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [v for line in lines for v in json.loads(line).values() if isinstance(v, float)]
        assert losses and np.isfinite(losses).all()
    assert (course.run / "adapter").is_dir()


def test_the_chat_kept_what_it_was_shown_and_what_it_made(course: Course):
    told = (course.run / "conversation/messages.json").read_text(encoding="utf-8")
    messages = json.loads(told)["messages"]
    given = [p["type"] for m in messages if m["role"] == "user" for p in m["content"]]
    expected = {"image", "audio", "video"} if SAMPLES.is_dir() else {"image", "audio"}
    assert set(given) - {"text"} == expected
    made = [m["content"] for m in messages if m["role"] == "assistant"]
    media = [part for content in made for part in content if part["type"] != "text"]
    assert media, made
    assert all((course.run / "conversation" / part[part["type"]]).is_file() for part in media)


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_a_reply_with_a_medium_of_each_kind(course: Course, kind: str):
    """Where a reply may contain media of one kind alone, what stage 2 and 3 taught makes it one of that kind."""
    model = AnyToAny.from_pretrained(course.run)
    asked = [{"role": "user", "content": [{"type": "text", "text": "Show me a red bell."}]}]
    reply = model.chat(asked, 0, Sampling(kinds=(kind,)))
    media = [part for part in reply["content"] if part["type"] == kind]
    assert media, reply
    found = np.asarray(media[0][kind])
    options = course.profile.decoders[kind].options
    shapes = {
        "image": (options.get("height"), options.get("width"), 3),
        "audio": (16_000 * options.get("audio_length_in_s", 0),),
        "video": (options.get("num_frames"), options.get("height"), options.get("width"), 3),
    }
    assert np.isfinite(found).all() and found.size
    if course.profile.decoders[kind].pipeline != "stable-audio":  # which says how long a sound is
        assert found.shape == shapes[kind]


def test_the_matrix_is_measured_without_judges(course: Course):
    metrics = json.loads((course.run / "metrics.json").read_text(encoding="utf-8"))
    cells = {f"text->{kind}" for kind in ("image", "audio", "video")}
    assert cells <= metrics["matrix"].keys() and "chance" in metrics["baselines"]["text->image"]
    assert set(metrics["retrieval"]) == {"image", "audio", "video"}
    # Media that came were compared: a rank is known where one of the right kind did.
    right = [name for name in cells if metrics["matrix"][name]["modality"]]
    assert right and all(metrics["ranks"][name]["median rank"] for name in right)
    assert '"image/png": ' in course.shown("08_evaluate")


def test_the_comparison_shows_both_runs(course: Course):
    shown = course.shown("09_compare")
    assert "stage2" in shown and "stage3" in shown and '"image/png": ' in shown


def test_the_published_run_comes_and_goes(course: Course, tmp_path: Path):
    """`pytorch_model.pt` as published: imported, talked to, and written again, tensor for tensor."""
    if course.profile.llm.tokenizer != "sentencepiece-legacy":
        with pytest.raises(ValueError, match="one token and raw states: use nextgpt-7b"):
            import_nextgpt(tmp_path / "none.pt", course.profile, tmp_path / "run")
        return
    real = assembled(RUN, tmp_path / "real")
    published = replica(RUN, tmp_path / "published", NARROW["nextgpt-7b"], real)
    file = published / "pytorch_model.pt"
    run = import_nextgpt(file, course.profile, tmp_path / "run")
    theirs = torch.load(file, weights_only=True)
    again = torch.load(export_nextgpt(run, tmp_path / "again.pt"), weights_only=True)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.items())
    model = AnyToAny.from_pretrained(run)
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is this?"}]
    if SAMPLES.is_dir():
        parts = [{"type": kind, kind: str(path)} for kind, path in SHOWN.items()] + parts
    reply = model.chat([{"role": "user", "content": parts}], 0)
    assert reply["role"] == "assistant" and reply["content"]
    nothing = torch.zeros(0, course.profile.encoder.embedding), torch.zeros(0, 2, dtype=torch.long)
    with torch.inference_mode():
        for kind, decoder in course.profile.decoders.items():
            signals = torch.tensor([list(model.vocabulary.signals[kind])])
            inputs = model.embed_inputs(signals, *nothing)
            hidden = model.hidden_states(inputs, torch.ones_like(signals), use_cache=False)
            condition = model.project(kind, hidden)
            assert condition.shape == (1, *decoder.condition)
            assert kind in model.render(kind, condition, [0])[0]
