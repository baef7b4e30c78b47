"""How good a run is: the any-to-any `matrix` first, then what it is held against and taken apart by."""
