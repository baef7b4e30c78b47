"""What the notebooks draw."""

from anytoany_lib.figures.display import (
    LivePlot,
    conversations,
    facts,
    fates,
    gallery,
    heat_map,
    matrix,
    megabytes,
    outcome,
    spreads,
    table,
)

__all__ = [
    "LivePlot",
    "conversations",
    "facts",
    "fates",
    "gallery",
    "heat_map",
    "matrix",
    "megabytes",
    "outcome",
    "spreads",
    "table",
]
