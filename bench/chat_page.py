"""The chat widget in JupyterLab in headless Chromium: what a visitor waits for, and what a long conversation costs.

Measured inside the page, whose clock does not know of the test driver. ImportError where there is no browser.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BENCH = Path(__file__).resolve().parent
sys.path.append(str(BENCH.parent / "tests" / "support"))

from browser import CHROMIUM, IDLE, browser_page, lab, open_notebook, write_notebook  # noqa: E402

TURNS, MEDIA = 200, 50
LOADING = """
import sys, torch
from anytoany_lib import AnyToAny, Chat, Session
torch.set_num_threads({threads})
model = AnyToAny.from_pretrained({run!r})
sys.path.append({bench!r})
"""
SHOWING = "Chat(model)"
LONG = "from chat_page import long_conversation\nchat = Chat(model, long_conversation(model))\nchat"
QUESTIONS = ("What is the capital of France?", "Who wrote Hamlet?", "Why is the sky blue?")

# Runs a cell; milliseconds until its chat, with as many bubbles, is on the screen.
SHOW = """async ([cell, count]) => {
    const old = new Set(document.querySelectorAll('.a2a-chat'));
    const there = () => [...document.querySelectorAll('.a2a-chat')].some((chat) => !old.has(chat)
        && chat.querySelector('textarea') && chat.querySelectorAll('.a2a-bubble').length >= count);
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const started = performance.now();
    jupyterapp.shell.currentWidget.content.activeCellIndex = cell;
    jupyterapp.commands.execute('notebook:run-cell');
    while (!there()) await frame();
    await frame();
    return performance.now() - started;
}"""
# Presses Enter; milliseconds until the reply has text.
ASK = """async (text) => {
    const chat = [...document.querySelectorAll('.a2a-chat')].at(-1), box = chat.querySelector('textarea');
    const before = chat.querySelectorAll('.a2a-bubble').length;
    const written = () => chat.querySelectorAll('.a2a-bubble')[before + 1]?.querySelector('.a2a-piece-text')?.innerText;
    box.value = text;
    const started = performance.now();
    box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true}));
    while (!written()) await new Promise((done) => requestAnimationFrame(done));
    return performance.now() - started;
}"""
# From the arrival of a message that redraws text: its handling with a forced layout, and the frame that paints it. The
# wait for that frame to begin is left out: it is the screen's, not the chat's.
WATCH = """() => {
    const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const log = [...document.querySelectorAll('.a2a-log')].at(-1);
    window.redraws = [];
    let arrived = null;
    kernel.anyMessage.connect((_, {msg}) => {
        const told = msg.content?.data?.content;
        if (told?.op === 'piece' && told.piece.kind === 'text' && told.piece.text) arrived = performance.now();
    });
    new MutationObserver(() => {
        if (arrived === null) return;
        const began = arrived;
        arrived = null;
        log.lastChild.getBoundingClientRect();
        const drawn = performance.now() - began;
        requestAnimationFrame(() => {
            const frame = performance.now(), painted = new MessageChannel();
            painted.port1.onmessage = () => window.redraws.push(drawn + performance.now() - frame);
            painted.port2.postMessage(null);
        });
    }).observe(log, {childList: true, subtree: true, characterData: true});
}"""


def long_conversation(model: Any, turns: int = TURNS, media: int = MEDIA) -> Any:
    """A session of so many questions and answers, with media of every kind spread over it."""
    from anytoany_lib.chat.session import Session

    random, session = np.random.default_rng(0), Session(model)
    tone = (np.sin(np.arange(5 * 16_000) / 8) / 2).astype(np.float32)
    for turn in range(turns):
        answer = f"Answer {turn}: " + "some **words** about it, and a few more. " * (1 + turn % 4)
        said = [{"type": "text", "text": answer}]
        if turn % (turns // media) == 0:
            pixels = random.integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels[0]).resize((512, 512))
            said += [
                {"type": "image", "image": picture},
                {"type": "audio", "audio": tone, "sampling_rate": 16_000},
                {"type": "video", "video": pixels, "fps": 8},
            ][turn // (turns // media) % 3 :][:1]
        question = [{"type": "text", "text": f"Question {turn}: what is this?"}]
        session.messages.append({"role": "user", "content": question})
        session.messages.append({"role": "assistant", "content": said})
    return session


def ready(page: Any) -> None:
    """Waits until the reply is whole."""
    page.wait_for_function(
        "() => [...document.querySelectorAll('.a2a-chat')].at(-1).querySelector('.a2a-ready')",
        timeout=300_000,
    )


def run_first_cell(page: Any) -> None:
    page.evaluate("() => jupyterapp.commands.execute('notebook:run-cell')")
    page.wait_for_function(IDLE, timeout=300_000)


def short(page: Any, rounds: int) -> dict[str, float]:
    """A new chat: seconds until it is there and until it answers."""
    run_first_cell(page)
    shown = page.evaluate(SHOW, [1, 0]) / 1000
    first = []
    for number in range(rounds):
        first.append(page.evaluate(ASK, QUESTIONS[number % len(QUESTIONS)]) / 1000)
        ready(page)
    return {
        "seconds to the widget": shown,
        "seconds to the first text": max(first),
        "seconds to the first text, median": float(np.median(first)),
    }


def long(page: Any, rounds: int) -> dict[str, float]:
    """A long conversation: milliseconds of every redraw of streamed text, seconds until the page is open (again)."""
    opened = page.evaluate(SHOW, [2, 2 * TURNS]) / 1000
    page.evaluate(WATCH)
    for _ in range(rounds):
        page.evaluate(ASK, "Tell me a long story about a train.")
        ready(page)
    redraws = page.evaluate("() => window.redraws")
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(1000)
    started = time.perf_counter()
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    notebook = time.perf_counter() - started
    page.wait_for_function(f"() => document.querySelectorAll('.a2a-bubble').length >= {2 * TURNS}")
    return {
        "redraws": len(redraws),
        "milliseconds of a redraw": float(np.percentile(redraws, 95)),
        "milliseconds of a redraw, median": float(np.median(redraws)),
        "milliseconds of a redraw, largest": max(redraws),
        "seconds to open the long one": opened,
        "seconds to open it again": time.perf_counter() - started,
        "of which JupyterLab alone": notebook,
    }


def measure(run: str, rounds: int, threads: int) -> dict[str, Any]:
    """All of it, in a JupyterLab of its own. ImportError if there is no Chromium."""
    if CHROMIUM is None:
        raise ImportError("no Chromium on this machine")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "root").mkdir()
        loading = LOADING.format(run=run, threads=threads, bench=str(BENCH))
        write_notebook(folder / "root" / "chat.ipynb", loading, SHOWING, LONG)
        with lab(folder) as (address, token), browser_page() as page:
            page.set_default_timeout(300_000)
            open_notebook(page, address, token, "chat.ipynb")
            return short(page, rounds) | {"turns": TURNS, "media": MEDIA} | long(page, rounds)
