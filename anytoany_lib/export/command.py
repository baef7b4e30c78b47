"""`anytoany export`: a run's language model for others, or the run itself on the hub.

anytoany export --merge RUN OUT          a folder for transformers, LoRA merged
anytoany export --gguf RUN OUT.gguf      a file for llama.cpp, and a Modelfile for Ollama beside it
anytoany export --push RUN OWNER/NAME    the run folder with a model card, as a repository of the Hugging Face hub
anytoany export --space DIR RUN          a page to talk to it, as a folder for a Space of the hub
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from anytoany_lib.checkpoints import publishing
from anytoany_lib.export import gguf_file, merging, space
from anytoany_lib.system import terminal

_DTYPES = ("float32", "float16", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: export a run, which is a folder, a URL, or OWNER/NAME on the hub."""
    parser = terminal.parser(
        "export",
        __doc__.splitlines()[0].partition(": ")[2],
        "--merge ckpt/tiny/run out/merged",
        "--gguf ckpt/tiny/run out/tiny.gguf",
        "--push ckpt/tiny/run OWNER/NAME --private",
        "--space out/space ckpt/tiny/run",
    )
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--merge", nargs=2, metavar=("RUN", "OUT"), help="a transformers folder")
    kinds.add_argument("--gguf", nargs=2, metavar=("RUN", "OUT"), help="a .gguf file")
    kinds.add_argument("--push", nargs=2, metavar=("RUN", "NAME"), help="a repository of the hub")
    kinds.add_argument("--space", nargs=2, metavar=("DIR", "RUN"), help="a Space of the hub")
    parser.add_argument("--dtype", choices=_DTYPES, help="default: float32, float16 in a .gguf")
    parser.add_argument("--private", action="store_true", help="with --push: for you alone")
    given = parser.parse_args(arguments)
    run, target = given.merge or given.gguf or given.push or reversed(given.space)
    if given.private and not given.push:
        parser.error("--private goes with --push")
    if given.dtype and (given.push or given.space):
        parser.error("--dtype goes with --merge and --gguf")
    if given.space:
        print(space.write_space(run, Path(target)))
        return
    folder = publishing.run_folder(run)
    if given.push:
        print(publishing.push(folder, target, given.private or None))
    elif given.merge:
        dtype = getattr(torch, given.dtype or "float32")
        print(merging.write_merged(folder, Path(target), dtype))
    else:
        dtype = getattr(torch, given.dtype or "float16")
        print(gguf_file.write_gguf(folder, Path(target), dtype))
