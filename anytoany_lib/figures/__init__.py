"""What the notebooks draw: `charts` of numbers, `diagrams` of a live model, `display` for cards and tables.

`anatomy` takes the live model apart.
"""

from anytoany_lib.figures.anatomy import (
    cosines,
    decisions,
    lora_changes,
    nearest_words,
    parameter_counts,
    word_vectors,
)
from anytoany_lib.figures.charts import (
    compared,
    fates,
    heat_maps,
    matrix,
    planned,
    shares,
    spreads,
    tallies,
    whiskers,
)
from anytoany_lib.figures.diagrams import (
    aims,
    batch_map,
    cloud,
    journey,
    likelihoods,
    sheet,
    similarity,
    token_strip,
)
from anytoany_lib.figures.display import (
    LivePlot,
    conversations,
    facts,
    gallery,
    megabytes,
    outcome,
    table,
)

__all__ = [
    "LivePlot",
    "aims",
    "batch_map",
    "cloud",
    "compared",
    "conversations",
    "cosines",
    "decisions",
    "facts",
    "fates",
    "gallery",
    "heat_maps",
    "journey",
    "likelihoods",
    "lora_changes",
    "matrix",
    "megabytes",
    "nearest_words",
    "outcome",
    "parameter_counts",
    "planned",
    "shares",
    "sheet",
    "similarity",
    "spreads",
    "table",
    "tallies",
    "token_strip",
    "whiskers",
    "word_vectors",
]
