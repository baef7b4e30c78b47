"""What a chat has to reach, measured on a run: the engine in this process, the widget in JupyterLab in Chromium.

    python bench/chat.py [--run ckpt/tiny/run --rounds 5 --threads 2]

What is compared with a bare library is measured in turns with it, in the same process. Every result stands beside its
limit, which was set for two cores and the shipped run. Results go to bench/results/chat-MACHINE.json; what needs a
browser is left out where there is none.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import numpy as np
import torch
from record import keep, machine, noise, timed, verdicts

from anytoany_lib.chat.session import Session
from anytoany_lib.chat.view import PREVIEW_EVERY
from anytoany_lib.decoders.adapters import CaptionEncoder
from anytoany_lib.generation import decoding, replies
from anytoany_lib.generation.events import Event, MediaProgress, TextDelta
from anytoany_lib.generation.sampling import Sampling
from anytoany_lib.model import AnyToAny

AT_LEAST = {"text: ratio to bare": 0.9}
AT_MOST = {
    "turns: second to first": 1.0,
    "diffusion: ratio to bare": 1.05,
    "stop: seconds": 0.5,
    "page: seconds to the widget": 3.0,
    "page: seconds to the first text": 1.5,
    "page: milliseconds of a redraw": 20.0,
}
STORY = "Why is the sky blue?"
TALK = (
    ("What is the capital of France?", "And of Italy?", "And of Spain?", "And of Greece?"),
    ("Why is the sky blue?", "And in the evening?", "And at night?", "And on Mars?"),
    ("How do I boil an egg?", "For how long?", "And a soft one?", "With salt or not?"),
    ("Who wrote Hamlet?", "When was that?", "What is it about?", "Is it long?"),
)
REQUESTS = {
    "text": STORY,
    "image": "Draw a red bell.",
    "audio": "Play the sound of a bell ringing twice.",
    "video": "Film a blue car moving left.",
}


def text_rates(model: AnyToAny, tokens: int, rounds: int) -> dict[str, float]:
    """Tokens a second of a streamed reply, and of `generate` with the same prompt and number of tokens."""
    sampling = Sampling(kinds=(), max_new_tokens=tokens)
    message = {"role": "user", "content": STORY}
    prompt, _ = replies.prepare(model, [message], sampling)
    *_, (_, draft, _) = decoding.decode(model, [prompt], sampling, [0])
    drawn = draft.length
    ids = torch.tensor([prompt.ids], device=model.device)
    length = {"max_new_tokens": drawn, "min_new_tokens": drawn}

    def streamed() -> None:
        for _ in Session(model, sampling=sampling).send(STORY):
            pass

    def bare() -> None:
        with torch.inference_mode():
            model.causal_lm.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, **length
            )

    seconds, chance = timed(streamed, bare, rounds=rounds, warmup=1)
    ours, theirs = (drawn / taken for taken in seconds)
    found = {"tokens": drawn, "a second": ours, "bare a second": theirs}
    return found | {"ratio to bare": ours / theirs} | chance


def seconds_to(events: Iterator[Event], ripe: Callable[[Event], bool]) -> float:
    """Seconds to the first event that is; the rest is read as well."""
    started, found = time.perf_counter(), None
    for event in events:
        if found is None and ripe(event):
            found = time.perf_counter() - started
    return found if found is not None else time.perf_counter() - started


def first_texts(model: AnyToAny, conversations: int) -> dict[str, Any]:
    """Seconds to the first text of each turn of a conversation: medians over several."""
    sampling, times = Sampling(kinds=(), max_new_tokens=24), []
    for number in range(conversations):
        session = Session(model, sampling=sampling)
        talk = TALK[number % len(TALK)]
        times.append(
            [
                seconds_to(session.send(text), lambda event: isinstance(event, TextDelta))
                for text in talk
            ]
        )
    typical = np.median(times, axis=0).tolist()
    # Two passes over the same weights: a difference of less than a hundredth is the clock's.
    found = {"seconds of each": typical, "second to first": round(typical[1] / typical[0], 2)}
    return found | {"noise": noise(np.array(times))}


def bare_diffusion(
    model: AnyToAny, kind: str, condition: torch.Tensor, seed: int
) -> Callable[[], None]:
    """The pipeline's own call, as its documentation has it."""
    config, pipeline = model.profile.decoders[kind], model.decoder(kind).pipeline
    device = pipeline.unet.device
    nothing = CaptionEncoder(config, device)([""])
    arguments = {
        "prompt_embeds": condition.to(device, pipeline.unet.dtype),
        "negative_prompt_embeds": nothing.to(device, pipeline.unet.dtype),
        "num_inference_steps": config.steps,
        "guidance_scale": config.guidance,
        "output_type": "pil" if kind == "image" else "np",
        **config.options,
    }

    def call() -> None:
        with torch.inference_mode():
            pipeline(**arguments, generator=[torch.Generator("cpu").manual_seed(seed)])

    return call


def diffusion(model: AnyToAny, kind: str, rounds: int, seed: int = 0) -> dict[str, float]:
    """Seconds of a medium through the stream of a reply, with the chat's previews, and of the bare call."""
    config = model.profile.decoders[kind]
    condition = CaptionEncoder(config, model.device)([REQUESTS[kind]])
    settings = Sampling(preview_every=PREVIEW_EVERY).diffusion()

    def streamed() -> None:
        # From inside the stream: only there is the condition known, and where the words before the medium end.
        draft = decoding.Draft([{"type": kind, "condition": condition[0]}])
        for _ in replies._render(model, draft, 0, seed, settings, lambda: False):
            pass
        assert kind in draft.parts[0]

    streamed()  # takes the decoder to the device, for both
    bare = bare_diffusion(model, kind, condition, seed)
    (ours, theirs), chance = timed(streamed, bare, rounds=rounds, warmup=1)
    return {"seconds": ours, "bare seconds": theirs, "ratio to bare": ours / theirs} | chance


def seconds_to_stop(model: AnyToAny, kind: str) -> float:
    """From `stop`, in the middle of a reply, to its end. RuntimeError if the run does not answer with this kind."""
    session = Session(model, sampling=Sampling(preview_every=PREVIEW_EVERY))
    wanted, seen, began = TextDelta if kind == "text" else MediaProgress, 0, None
    for event in session.send(REQUESTS[kind]):
        seen += isinstance(event, wanted)
        if seen == 3 and began is None:
            began = time.perf_counter()
            threading.Thread(target=session.stop).start()
    if began is None:
        raise RuntimeError(f"{REQUESTS[kind]!r} was not answered with {kind}: nothing to stop")
    return time.perf_counter() - began


def engine(model: AnyToAny, rounds: int, tokens: int = 64) -> dict[str, Any]:
    """All that needs no browser."""
    kinds = list(model.profile.decoders)
    stops = {
        kind: max(seconds_to_stop(model, kind) for _ in range(rounds)) for kind in ["text", *kinds]
    }
    made = {kind: diffusion(model, kind, rounds) for kind in kinds}
    return {
        "text": text_rates(model, tokens, rounds),
        "turns": first_texts(model, 3 * rounds),
        "diffusion": made
        | {"ratio to bare": max(found["ratio to bare"] for found in made.values())},
        "stop": {"seconds of each": stops, "seconds": max(stops.values())},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="ckpt/tiny/run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {"machine": machine(), "date": date.today().isoformat(), "run": options.run}
    result |= engine(AnyToAny.from_pretrained(options.run), options.rounds)
    try:
        import chat_page

        result["page"] = chat_page.measure(options.run, options.rounds, options.threads)
    except ImportError as error:
        print(f"the page was not measured: {error}")
    keep(result | {"reached": verdicts(result, AT_MOST, AT_LEAST)}, "chat")


if __name__ == "__main__":
    main()
