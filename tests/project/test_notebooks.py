"""Every notebook through papermill: the numbered ones in order on a handful of rows and steps, real media, the tiny models.

All of it happens in a temporary home whose frozen models are links to the real ones, on profile `tiny` with fewer steps.
"""

import json
import re
import shutil
from itertools import product
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from small_runs import small_run
from test_course import NUMBERED

from anytoany_lib import cli, demo
from anytoany_lib.checkpoints import fetching
from anytoany_lib.config import Profile, resolve
from anytoany_lib.evaluation import retrieval
from anytoany_lib.modalities import MODALITIES
from anytoany_lib.model import AnyToAny

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT.parent / "shared" / "samples" / "nextgpt"
TINY = {
    "tiny_1_encoder": {"POOL_SCALE": 0.005, "PROBED": 60},
    "tiny_2_image": {"PICTURES": 64, "JUDGED": 2},
    "tiny_3_audio": {"POOL_SHARE": 0.005, "LISTENED": 2},
    "tiny_4_video": {"FILMS": 8, "JUDGED": 2},
    "tiny_5_judges": {"POOL_SHARE": 0.01, "CHECKED": 30},
}


def quick(profile: Profile) -> str:
    """The profile with so few steps that a notebook is run in seconds, as YAML."""
    settings = profile.model_dump(mode="json")
    for decoder in settings["decoders"].values():
        decoder["steps"] = 2
    for stage in settings["stages"].values():
        stage |= {"steps": 3, "batch_size": 4}
        if stage["fit_after"]["steps"]:
            stage["fit_after"] |= {"rows": 16, "steps": 2}
    settings["llm"]["max_new_tokens"] = 16
    return yaml.safe_dump(settings)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with the real frozen models and a quick version of profile tiny, entered while the tests run."""
    place = tmp_path_factory.mktemp("home")
    profile = Profile.load("tiny")
    fetching.fetch(profile)
    (place / "ckpt").mkdir()
    for folder in (Path(profile.llm.folder), Path("ckpt/tiny")):
        (place / folder).symlink_to(resolve(folder).resolve(), target_is_directory=True)
    (place / "fast.yaml").write_text(quick(profile))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYTOANY_HOME", str(place))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(place)
        yield place


def outputs(notebook: Path) -> str:
    """All that an executed notebook shows, as JSON text."""
    cells = nbformat.read(notebook, as_version=4).cells
    return json.dumps([cell.get("outputs", []) for cell in cells])


def test_numbered_notebooks_are_the_plan():
    options = demo.parser().parse_args([])
    assert [path.stem for path in NUMBERED] == [name for name, _ in demo.notebooks_to_run(options)]
    for name, parameters in demo.notebooks_to_run(options):
        cells = nbformat.read(demo.NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
        declared = next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))
        assert all(f"{parameter}: " in declared for parameter in parameters), name


def test_every_notebook_in_order(home, capsys):
    sizes = ["--media", "24", "--conversations", "24", "--per-task", "1", "--bound", "1"]
    assert cli.main(["demo", "--profile", "fast.yaml", *sizes]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert all(f"{path.stem}: " in printed for path in NUMBERED)
    metrics = json.loads((home / "ckpt/runs/tiny/stage3/metrics.json").read_text())
    assert len(metrics["matrix"]) == 16
    assert str((home / "ckpt/runs/tiny/stage3/metrics.json").resolve()) in printed
    shown = {path.stem: outputs(home / "out" / path.name) for path in NUMBERED}
    assert all('"image/png": ' in shown[path.stem] for path in NUMBERED)
    for name in (path.stem for path in NUMBERED[4:7]):
        by_hand = re.findall(r"by hand ([\d.]+), by the library ([\d.]+)", shown[name])
        assert by_hand and all(abs(float(a) - float(b)) < 1e-3 for a, b in by_hand), name
    for name in ("01_checkpoints", "02_data", "03_embeddings", "04_stage1_input_alignment"):
        assert "<audio controls" in shown[name] and "<video controls" in shown[name], name


def test_the_gallery_answers_in_every_direction(home):
    # The notebook as it ships shows what the run as it ships makes.
    run = small_run(home / "quick-run")
    demo.execute(demo.NOTEBOOKS / "gallery.ipynb", {"RUN": str(run)}, home / "out-gallery")
    shown = outputs(home / "out-gallery" / "gallery.ipynb")
    for given, made in product(("", *MODALITIES), repeat=2):
        asked, came = f"{given}+text" if given else "text", f"text+{made}" if made else "text"
        assert f"{asked} -> {came}\\n" in shown
    assert shown.count('"image/png": ') >= 5 and shown.count("<audio") >= 3


def test_from_scratch_trains_answers_and_computes_what_the_library_does(home):
    """The notebook itself asserts that they agree; here are two numbers, so that it cannot do so in silence."""
    notebook = nbformat.read(demo.NOTEBOOKS / "from_scratch.ipynb", as_version=4)
    (drawing,) = (cell for cell in notebook.cells if "for text in targets}\n" in cell.source)
    drawing.source = drawing.source.replace("in targets}", "in list(targets)[:2]}")  # not all 16
    nbformat.write(notebook, home / "from_scratch.ipynb")
    demo.execute(home / "from_scratch.ipynb", {"STEPS": 3, "BATCH": 3}, home / "out-scratch")
    shown = outputs(home / "out-scratch" / "from_scratch.ipynb")
    found = re.findall(r"(text|image) +here ([\d.]+) +library ([\d.]+)", shown)
    assert [name for name, _, _ in found] == ["text", "image"]
    assert all(abs(float(ours) - float(theirs)) < 1e-4 for _, ours, theirs in found)
    assert "All keys matched successfully" in shown and shown.count('"image/png": ') >= 2


def test_the_chat_plays_a_script_from_outside_and_leaves_media_in_place(home):
    run = home / "ckpt/runs/shipped"
    shutil.copytree(resolve("ckpt/tiny/run"), run, ignore=shutil.ignore_patterns("evaluation"))
    script = [
        "Draw a red bell.",
        "Play its sound.",
        [{"image": "toy:blue car"}, "Film it moving left."],
    ]
    notebook = demo.NOTEBOOKS / "07_chat.ipynb"
    demo.execute(notebook, {"RUN": str(run), "SCRIPT": script}, home / "out-script")
    shown = outputs(home / "out-script" / "07_chat.ipynb")
    assert shown.count('"image/png": "') == 2 + 2  # a picture shown and one drawn, two figures
    assert shown.count("<audio ") == 1 and shown.count("<video ") == 1
    messages = json.loads((run / "conversation" / "messages.json").read_text())["messages"]
    replies = [m["content"] for m in messages if m["role"] == "assistant"]
    made = [[part["type"] for part in reply if part["type"] != "text"] for reply in replies]
    assert made == [["image"], ["audio"], ["video"]]


def learn_samples(home, profile: str, more: dict) -> Path:
    """Takes the real samples through notebooks 02 to 06; returns the run."""
    told = {"PROFILE": profile, "DATA": "data/samples"}
    reader = {"READER": "nextgpt", "SOURCE": str(SAMPLES)} | more
    for path in NUMBERED[2:7]:
        demo.execute(path, told | (reader if path.stem == "02_data" else {}), home / "out-samples")
    report = json.loads((home / "data/samples/report.json").read_text())
    assert report["kept"] == 27 and report["dropped"]["missing"] == 33
    run = home / "ckpt/runs/tiny/stage3"
    record = json.loads((run / "run.json").read_text())
    assert [Path(name).name for name in record["data"]] == ["samples"]
    return run


needs_samples = pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="no samples of real media beside the repository"
)


@pytest.mark.long
@needs_samples
def test_real_media_by_the_same_notebooks(home):
    learn_samples(home, "fast.yaml", {})
    shown = outputs(home / "out-samples" / "02_data.ipynb")
    assert "33" in shown and shown.count('"image/png": ') == 4


@needs_samples
@pytest.mark.long
def test_what_was_learnt_of_real_media_is_asked_back(home):
    """All of them are learnt: how they are told apart is the question, not how they generalise. Ten minutes."""
    settings = Profile.load("tiny").model_dump(mode="json")
    settings["stages"]["3"]["steps"] = 120
    (home / "samples.yaml").write_text(yaml.safe_dump(settings))
    run = learn_samples(home, "samples.yaml", {"HELD_OUT": 0.0})
    found = retrieval.retrieval_rates(
        AnyToAny.from_pretrained(run), retrieval.captioned(home / "data/samples", "train")
    )
    assert sum(of_kind["n"] for of_kind in found.values()) == 27
    for rate in ("caption", "modality", "target"):
        right = sum(of_kind[rate] * of_kind["n"] for of_kind in found.values()) / 27
        assert right >= 0.9, (rate, found)


def test_missing_input_names_the_notebook_that_makes_it(home, capsys):
    arguments = [
        "--profile",
        "fast.yaml",
        "--data",
        "data/none",
        "--out",
        "out-none",
        "--from",
        "03",
    ]
    assert cli.main(["demo", *arguments]) == 1
    error = capsys.readouterr().err
    assert "03_embeddings.ipynb failed" in error and "02_data" in error
    assert not (home / "data/none").exists()


# The decoders' take five minutes together.
REBUILT = [
    pytest.param(name, marks=pytest.mark.long)
    if name in ("tiny_2_image", "tiny_3_audio", "tiny_4_video")
    else name
    for name in TINY
]


@pytest.mark.parametrize("name", REBUILT)
def test_tiny_models_can_be_rebuilt(name, home, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    notebook, made = demo.NOTEBOOKS / f"{name}.ipynb", tmp_path / "made"
    declared = papermill.inspect_notebook(notebook)
    assert declared.keys() >= TINY[name].keys()
    steps = {parameter: 2 for parameter in declared if parameter.endswith("STEPS")}
    demo.execute(notebook, {"OUT": str(made), **steps, **TINY[name]}, tmp_path)
    assert list(made.rglob("*.safetensors"))
