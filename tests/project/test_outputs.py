"""Notebooks that are kept with what they showed: the gallery and the course, each with the outputs of its own code."""

from __future__ import annotations

import base64
import importlib
import io
import re
from pathlib import Path
from types import ModuleType

import nbformat
import numpy as np
import pytest
import soundfile
from nbformat import NotebookNode
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
# A path from the root behind a blank, a mark or, in JSON, the end of a line; an address has two slashes before its host.
ABSOLUTE = re.compile(r"""(?:(?<=[\s"'(=:>,\[])|(?<=\\n))/[\w.-]+/[\w.-]""")
KEPT = [path for path in NOTEBOOKS if path.stem == "gallery" or path.stem[0] == "0"]


@pytest.fixture
def make_gallery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    return importlib.import_module("make_gallery")


@pytest.fixture
def make_outputs(make_gallery: ModuleType) -> ModuleType:
    return importlib.import_module("make_outputs")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_of_the_gallery_and_the_course_alone(path: Path, make_gallery):
    assert (make_gallery.RAN in nbformat.read(path, as_version=4).metadata) == (path in KEPT)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_kept_outputs_are_those_of_the_code_and_name_no_machine(path: Path, make_gallery):
    notebook = nbformat.read(path, as_version=4)
    script = "make_gallery.py" if path == make_gallery.NOTEBOOK else "make_outputs.py with a demo"
    assert notebook.metadata[make_gallery.RAN] == make_gallery.digest(notebook), (
        f"stale: run docs/{script}"
    )
    code = make_gallery.code_of(notebook)
    assert not any(cell.outputs for cell in code[:2])  # parameters and Colab
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 4
    text = path.read_text(encoding="utf-8")
    assert str(REPOSITORY) not in text and '"output_type": "error"' not in text
    assert not any(place in text for place in ("/home/", "/tmp/", "/root/"))
    assert not ABSOLUTE.search(text)


@pytest.mark.parametrize("path", [p for p in KEPT if p.stem[0] == "0"], ids=lambda path: path.stem)
def test_the_courses_outputs_are_small_enough_for_the_web(path: Path, make_outputs):
    assert path.stat().st_size <= make_outputs.LARGEST


def test_pictures_and_words_are_kept_but_no_progress_bars(make_gallery):
    drawn = io.BytesIO()
    Image.new("RGB", (40, 30), (12, 140, 40)).save(drawn, "png")
    picture = {"image/png": base64.b64encode(drawn.getvalue()).decode()}
    bar = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    outputs = [nbformat.v4.new_output("display_data", data=data) for data in (bar, picture)]
    said = nbformat.v4.new_output("stream", text="16 requests")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("1", outputs=[said], metadata={"tags": ["colab"]}),
            nbformat.v4.new_code_cell("2", outputs=[*outputs, said]),
        ],
        metadata={"widgets": {}},
    )
    make_gallery.tidy(notebook)
    first, second = notebook.cells
    assert first.outputs == [] and "widgets" not in notebook.metadata
    kept, words = second.outputs
    assert words == said
    with Image.open(io.BytesIO(base64.b64decode(kept.data["image/png"]))) as image:
        assert image.mode == "P" and image.size == (40, 30)
        assert np.abs(np.asarray(image.convert("RGB"), int) - (12, 140, 40)).max() <= 8
    before = notebook.metadata[make_gallery.RAN]
    second.source += "0"
    assert make_gallery.digest(notebook) != before


def test_sounds_are_kept_as_mp3_that_sounds_alike(make_gallery):
    time = np.arange(16000) / 16000
    tone, wav = 0.5 * np.sin(2 * np.pi * 440 * time), io.BytesIO()
    soundfile.write(wav, tone, 16000, format="WAV")
    player = f'<audio src="data:audio/wav;base64,{base64.b64encode(wav.getvalue()).decode()}">'
    shown = nbformat.v4.new_output("display_data", data={"text/html": f"<p>{player}</p>"})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[shown])])
    make_gallery.tidy(notebook)
    html = notebook.cells[0].outputs[0].data["text/html"]
    kept = html.removeprefix('<p><audio src="data:audio/mpeg;base64,').removesuffix('"></p>')
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(kept)))
    loudest = np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)
    assert rate == 16000 and abs(loudest - 440) < 3 and len(kept) < len(player) / 4


def executed(source: str, *outputs: NotebookNode) -> NotebookNode:
    """A notebook of two cells as papermill leaves it: with the parameters that it was told between them."""
    told = nbformat.v4.new_code_cell("SEED = 1", metadata={"tags": ["injected-parameters"]})
    ran = nbformat.v4.new_code_cell(source, outputs=list(outputs), execution_count=2)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("SEED: int = 0"), told, ran])


def course(source: str) -> NotebookNode:
    """The notebook of which `executed` is one run."""
    cells = [nbformat.v4.new_code_cell(one) for one in ("SEED: int = 0", source)]
    return nbformat.v4.new_notebook(cells=cells)


def test_a_demos_outputs_come_to_the_cells_that_made_them_without_its_folder(make_outputs):
    said = nbformat.v4.new_output("stream", text="saved to /srv/kit/ckpt/run, in /srv/kit\n")
    shown = nbformat.v4.new_output("display_data", data={"text/html": "<p>/srv/kit/out/1.png</p>"})
    filled = make_outputs.with_outputs(course("1 + 1"), executed("1 + 1", said, shown), "/srv/kit")
    first, second = filled.cells
    assert first.outputs == [] and second.execution_count == 2
    words, picture = second.outputs
    assert words.text == "saved to ckpt/run, in .\n"
    assert picture.data["text/html"] == "<p>out/1.png</p>"


def test_a_demo_of_other_code_is_refused(make_outputs):
    with pytest.raises(ValueError, match="run the demo anew"):
        make_outputs.with_outputs(course("1 + 1"), executed("1 + 2"), "/srv/kit")


def test_outputs_that_are_too_large_for_the_web_are_refused(make_outputs):
    said = nbformat.v4.new_output("stream", text="x" * make_outputs.LARGEST)
    with pytest.raises(ValueError, match="400,000 at most"):
        make_outputs.with_outputs(course("1"), executed("1", said), "/srv/kit")


def test_a_course_is_filled_whole_or_not_at_all(make_outputs, monkeypatch, tmp_path: Path):
    kit, out = tmp_path / "notebooks", tmp_path / "out"
    kit.mkdir()
    out.mkdir()
    monkeypatch.setattr(make_outputs, "NOTEBOOKS", kit)
    for name, source in (("00_a", "1"), ("01_b", "2")):
        nbformat.write(course(source), kit / f"{name}.ipynb")
        said = nbformat.v4.new_output("stream", text="done")
        nbformat.write(executed("1", said), out / f"{name}.ipynb")
    with pytest.raises(SystemExit, match=r"01_b\.ipynb: its code is not"):
        make_outputs.main(["--out", str(out)])
    assert not any(cell.outputs for cell in nbformat.read(kit / "00_a.ipynb", as_version=4).cells)
    nbformat.write(course("1"), kit / "01_b.ipynb")
    make_outputs.main(["--out", str(out)])
    cells = nbformat.read(kit / "01_b.ipynb", as_version=4).cells
    assert [len(cell.outputs) for cell in cells] == [0, 1]
