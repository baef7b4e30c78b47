"""Frozen encoders: what the model sees and hears by. One today, ImageBind: its layers, its inputs, the model."""
