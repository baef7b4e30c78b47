"""What frozen models make of a dataset, computed once (`precomputing`) or as training goes (`on_the_fly`).

`cache` is one folder of rows of numbers; `dataset_features` finds them by what a dataset's rows name.
"""

from anytoany_lib.features.dataset_features import DatasetFeatures
from anytoany_lib.features.precomputing import plan, precompute

__all__ = ["DatasetFeatures", "plan", "precompute"]
