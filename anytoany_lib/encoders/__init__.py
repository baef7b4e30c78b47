"""Frozen encoders, by which the model sees and hears: ImageBind, its inputs and layers, and others beside it in `table`."""
