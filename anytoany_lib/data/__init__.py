"""Datasets: from files as they are published to a manifest with its media, and back to rows.

`building` is the whole way; `formats` holds the readers of the published forms, a format each. On disk a dataset is a
manifest (`manifests`) and a report (`reports`); in memory it is `rows`, worded as conversations. `drawn_worlds` is for data that are
drawn from a seed.
"""

from anytoany_lib.data.building import ALL_READERS, build
from anytoany_lib.data.manifests import (
    SPLITS,
    Manifest,
    dataset_fingerprint,
    read_manifest,
    splits_in,
    write_manifest,
)
from anytoany_lib.data.reports import Report
from anytoany_lib.data.rows import DataError, Row, as_comprehension, as_generation
