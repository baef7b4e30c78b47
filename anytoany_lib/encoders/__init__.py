"""Frozen encoders, by which the model sees and hears. One today, ImageBind: its inputs, its layers, the model itself."""
