"""How long a chat takes to be ready, to say its first word, and to make each kind of medium.

    python bench/chat.py [--run ckpt/tiny/run --threads 2]

Loading counts from the start of a fresh interpreter. A first request of a kind loads its decoder, a second finds it there;
beside the second stands the same diffusion by the bare pipeline call, in the same process, as a ratio. Results go to
bench/results/chat-MACHINE.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import date

import torch
from record import keep, machine

REQUESTS = {
    "image": "Draw a red bell.",
    "audio": "Play the sound of a bell ringing twice.",
    "video": "Film a blue car moving left.",
}
READY = "import anytoany_lib as a2a; a2a.AnyToAny.from_pretrained({!r}); a2a.Chat"


def seconds_to_ready(run: str) -> float:
    """From the start of an interpreter to a loaded model."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", READY.format(run)], check=True, capture_output=True)
    return time.perf_counter() - started


def reply_times(model, text: str) -> tuple[float, float, dict | None]:
    """Seconds to the first event and to the end of a reply, and its first medium."""
    from anytoany_lib.generation import MediaReady

    started, first, made = time.perf_counter(), None, None
    for event in model.stream([{"role": "user", "content": text}]):
        first = first or time.perf_counter() - started
        made = made or (event.part if isinstance(event, MediaReady) else None)
    return first, time.perf_counter() - started, made


def seconds_of_bare_call(model, kind: str) -> float:
    """The pipeline alone, on a caption's own embedding, with the steps and guidance of the profile."""
    from anytoany_lib.decoders import CaptionEncoder

    config, decoder = model.profile.decoders[kind], model.decoder(kind)
    condition = CaptionEncoder(config, model.device)(["a red bell"])
    nothing = CaptionEncoder(config, model.device)([""])
    output = {} if kind == "image" else {"output_type": "np"}
    started = time.perf_counter()
    with torch.inference_mode():
        decoder.pipeline(
            prompt_embeds=condition,
            negative_prompt_embeds=nothing,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            **output,
            **config.options,
        )
    return time.perf_counter() - started


def measure(run: str) -> dict:
    """All times in seconds."""
    import anytoany_lib as a2a

    result = {"machine": machine(), "date": date.today().isoformat(), "run": run}
    result["ready"] = seconds_to_ready(run)
    model = a2a.AnyToAny.from_pretrained(run)
    result["first token"], _, _ = reply_times(model, "What is the capital of France?")
    for kind, text in REQUESTS.items():
        _, cold, _ = reply_times(model, text)
        _, warm, made = reply_times(model, text)
        if made is None or made["type"] != kind:
            raise RuntimeError(f"{text!r} was not answered with {kind}: this run cannot be timed")
        bare = min(seconds_of_bare_call(model, kind) for _ in range(3))
        result[kind] = {"first": cold, "second": warm, "bare diffusion": bare, "ratio": warm / bare}
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="ckpt/tiny/run")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options.run)
    keep(result, "chat")


if __name__ == "__main__":
    main()
