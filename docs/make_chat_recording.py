"""Records the chat widget as people see it: JupyterLab in Chromium, a run's own replies, as docs/demo/chat.gif.

    python docs/make_chat_recording.py [--run ckpt/tiny/run]

Requests are typed key by key. The page is looked at as often as it can be; frames that show nothing new are left out, and
waits are cut to a second. Needs Chromium and playwright, as the browser tests do, whose server and page it uses.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from browser import browser_page, lab, open_notebook, run_all, write_notebook  # noqa: E402

OUT = ROOT / "docs" / "demo" / "chat.gif"
REQUESTS = (
    "Draw a red bell.",
    "let me hear it, and make it move to the left in a clip",
)
CHAT, TEXT = ".a2a-chat", ".a2a-input textarea"
SIZE = (900, 940)
WIDTH = 440
COLOURS = 64
_LONGEST, _LAST = 1.0, 4.0  # seconds that a frame stays, and the last one
_KEY_SECONDS = 0.045


class Film:
    """What the page looks like, frame by frame, and how long each frame stays."""

    def __init__(self, page: Any):
        self._page = page
        self.frames: list[Image.Image] = []
        self.seconds: list[float] = []
        self._at = time.perf_counter()

    def look(self) -> None:
        """One more look at the page: a new frame if anything has changed."""
        shot = self._page.locator(CHAT).first.screenshot()
        frame = Image.open(io.BytesIO(shot)).convert("RGB")
        frame = frame.resize(
            (WIDTH, round(frame.height * WIDTH / frame.width)), Image.Resampling.LANCZOS
        )
        now = time.perf_counter()
        if self.frames:
            self.seconds[-1] += now - self._at
        self._at = now
        same_size = bool(self.frames) and self.frames[-1].size == frame.size
        if same_size and ImageChops.difference(self.frames[-1], frame).getbbox() is None:
            return
        self.frames.append(frame)
        self.seconds.append(0.0)

    def until(self, done: Any) -> None:
        """Looks until a condition holds."""
        while not done():
            self.look()
        self.look()

    def save(self, path: Path) -> None:
        """The frames as an animated GIF of one palette."""
        height = max(frame.height for frame in self.frames)
        padded = []
        for frame in self.frames:
            canvas = Image.new("RGB", (WIDTH, height), frame.getpixel((2, 2)))
            canvas.paste(frame)
            padded.append(canvas)
        palette = padded[-1].quantize(COLOURS)
        first, *rest = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in padded]
        durations = [round(1000 * min(max(s, 0.05), _LONGEST)) for s in self.seconds]
        durations[-1] = round(1000 * _LAST)
        path.parent.mkdir(parents=True, exist_ok=True)
        first.save(
            path, save_all=True, append_images=rest, duration=durations, loop=0, optimize=True
        )


def say(page: Any, film: Film, text: str) -> None:
    """Types a request, sends it, and films until its reply has ended and its clips have come round once."""
    page.click(TEXT)
    for letter in text:
        page.keyboard.type(letter)
        film.look()
        time.sleep(_KEY_SECONDS)
    before = page.locator(".a2a-bubble.a2a-model").count()
    page.keyboard.press("Enter")
    film.until(lambda: page.locator(".a2a-bubble.a2a-model").count() > before)
    film.until(lambda: page.locator(".a2a-busy").count() == 0)
    end = time.perf_counter() + 2.5
    film.until(lambda: time.perf_counter() > end)


def record(run: str, out: Path = OUT) -> Path:
    """Films one conversation with a run; returns the GIF's path."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "root").mkdir()
        cell = (
            "from anytoany_lib import AnyToAny, Chat\n"
            f"chat = Chat(AnyToAny.from_pretrained({run!r}))\nchat"
        )
        write_notebook(folder / "root" / "chat.ipynb", cell)
        with lab(folder) as (address, token), browser_page(*SIZE) as page:
            open_notebook(page, address, token, "chat.ipynb")
            run_all(page)
            page.wait_for_selector(f"{CHAT} {TEXT}", timeout=180_000)
            film = Film(page)
            film.look()
            for text in REQUESTS:
                say(page, film, text)
            film.save(out)
    return out


def main() -> None:
    """Command line: record the chat."""
    parser = argparse.ArgumentParser(description="Record the chat widget as a GIF.")
    parser.add_argument("--run", default="ckpt/tiny/run")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    path = record(given.run, given.out)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
