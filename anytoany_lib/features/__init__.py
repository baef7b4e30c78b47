"""What frozen models make of a dataset, computed once (`precomputing`) or as training goes (`dataset_features.LiveFeatures`).

`cache` is one folder of rows of numbers; `dataset_features` finds them by what a dataset's rows name. `costs` says what either
way takes.
"""

from typing import Any

from anytoany_lib.features.costs import estimate_costs
from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.precomputing import precompute
from anytoany_lib.old_names import renamed


def __getattr__(name: str) -> Any:
    """Functions and classes by their names of version 0.1."""
    return renamed(__name__, name)
