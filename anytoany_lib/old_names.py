"""Module names of before the library had wings: importing one gives the module that took its place, and a warning.

`from anytoany_lib.widget import Chat` goes on to work in notebooks and scripts written for version 0.1; version 0.3 will not
know these names. Nothing in the kit uses them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# By wing: the modules as they were called, with the new name behind a colon where it is another one.
_WINGS = {
    "benchmarks": """benchmark_files:annotations benchmark_media:generation caption_metrics
        caption_tokens:caption_metrics distances extractors java_metrics vqa""",
    "chat": """app:voila_app bubbles:view gradio_app markdown pages:export rendering:html served:access serving:access
        settings uploads widget""",
    "checkpoints": "differences:delta_weights downloads hub nextgpt wholeness:integrity",
    "data": "inspection:building ledger manifests readers:building records:manifests reports rows",
    "data.formats": """captions:folders folders instructions json_files marks:placeholders named_media:media_references
        parquet_folder:parquet placing:interleaving published shards:webdataset turns""",
    "decoders": "broken_media:pipelines conditions:adapters decoder_memory:pipelines denoising mels previews:pipelines",
    "encoders": "clip_words:clip_vocabulary imagebind imagebind_inputs imagebind_layers",
    "evaluation": """ablations baselines comparison evaluate:matrix failures intervals judging
        kept_replies:stored_replies perplexity retrieval similarity""",
    "features": """cache contents costs feature_store:dataset_features frozen:frozen_models live:dataset_features
        npy_folder""",
    "figures": "anatomy charts diagrams",
    "gates": "foreign_code sources template_worker templates",
    "generation": "decoding events recall:kv_cache sampling",
    "media": """animations:clips clips containers formats:file_types mixing:downmixing orientation:pictures pictures
        segments sounds""",
    "memory": "activations blueprints frozen_rehearsal rehearsal room:preflight storages:live_storages",
    "system": """ahead:prefetch aligned:terminal background digests files interrupts out_of_memory
        phases:peak_memory remote residence:offloading runs urls""",
    "tokenizer": "legacy_tokenizer:sentencepiece_legacy pieces",
    "training": """around:finish checkpoint fitting job:setup ranks:distributed reading:stage_data sharded:fsdp stage_data
        trackers""",
}
MOVED = {
    f"anytoany_lib.{old}": f"anytoany_lib.{wing}.{new or old}"
    for wing, names in _WINGS.items()
    for old, _, new in (name.partition(":") for name in names.split())
} | {"anytoany_lib.tokenizing": "anytoany_lib.llm"}
# Modules of a wing that are a part of another one now.
MOVED |= {
    f"anytoany_lib.{old}": f"anytoany_lib.{new}"
    for old, new in {
        "benchmarks.caption_tokens": "benchmarks.caption_metrics",
        "data.formats.captions": "data.formats.folders",
        "data.inspection": "data.building",
        "data.manifest_files": "data.manifests",
        "data.readers": "data.building",
        "data.wording": "data.rows",
    }.items()
}

# By wing: functions and classes that the module of its name had, and where they are in the library now.
RENAMED = {
    "anytoany_lib.checkpoints": {
        "missing": "checkpoints.fetching.missing_models",
        "plan": "checkpoints.fetching.fetch_plan",
        "verify": "checkpoints.fetching.verify_models",
    },
    "anytoany_lib.decoders": {
        "CaptionEncoder": "decoders.adapters.CaptionEncoder",
        "Decoder": "decoders.pipelines.Decoder",
    },
    "anytoany_lib.features": {"plan": "features.costs.estimate_costs"},
    "anytoany_lib.generation": {
        "draw_all": "generation.replies.draw_all",
        "render_all": "generation.replies.render_all",
        "stream": "generation.replies.stream",
    },
    "anytoany_lib.memory": {
        "advice": "memory.planning.advice",
        "plan": "memory.planning.plan_memory",
        "table": "memory.planning.phase_rows",
    },
}


def renamed(wing: str, name: str) -> Any:
    """What a wing's module offered under an older name, and a warning: for its `__getattr__`. AttributeError for other names."""
    new = RENAMED[wing].get(name)
    if new is None:
        raise AttributeError(f"module {wing!r} has no attribute {name!r}")
    warnings.warn(f"{wing}.{name} is anytoany_lib.{new} now", FutureWarning, stacklevel=3)
    module, _, attribute = new.rpartition(".")
    return getattr(import_module(f"anytoany_lib.{module}"), attribute)


class OldNames(MetaPathFinder, Loader):
    """Finds a moved module under its old name; asked only where no file of that name is found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec that loads the module's new place, None for every other name."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself, not a copy: a class is the same one under both names."""
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is {new} now", FutureWarning, stacklevel=2)
        module = import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has run already; the import system has put the old name's spec into it."""
        module.__spec__ = module.__spec__.loader_state  # type: ignore[union-attr]
