"""What leaves the kit: a run on the Hugging Face hub (`publishing`, `model_card`), its language model for others (`merging`, `gguf_file`).

`command` is `anytoany export`. A run that comes from the hub comes through `publishing` too.
"""

from anytoany_lib.export.publishing import run_folder

__all__ = ["run_folder"]
