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
