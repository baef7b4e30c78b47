"""Text encoders of decoders, each once in a process: whoever asks for one that somebody still holds gets that.

A pipeline brings its own, a `CaptionEncoder` reads captions with the same, pictures and clips may have one between them.
Nothing is kept alive here: the last one who lets go frees it.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import torch
from transformers import PreTrainedModel

_LOADED: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
_LOADING = Lock()


def text_encoder(
    cls: type[PreTrainedModel], folder: Path, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """The model of a folder, in evaluation. On `device` if it has to be loaded, else where its holder has it.

    ValueError if weights are missing, which transformers would draw at random.
    """
    key = cls, dtype, _state(folder)
    with _LOADING:
        model = _LOADED.get(key)
        if model is None:
            model = _LOADED[key] = _whole(cls, folder, dtype).to(device).eval()
    return model


def _state(folder: Path) -> tuple[Any, ...]:
    """What tells whether the files of a folder are still those that were read."""
    files = ((file.resolve(), file.stat()) for file in sorted(folder.iterdir()))
    return tuple((path, found.st_size, found.st_mtime_ns) for path, found in files)


def _whole(cls: type[PreTrainedModel], folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    model, report = cls.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{folder}: {len(missing)} weights of {cls.__name__} are missing: {', '.join(missing[:3])}, ...: its file is cut "
            "or another model's; delete the folder and fetch it with notebooks/01_checkpoints.ipynb"
        )
    model.config.use_cache = False  # a caption is read once: no keys and values are kept of it
    return model
