"""Losses over words: cross entropy and divergence where a vocabulary is too large to hold all logits at once.

Distances between conditions are in `projections`, a decoder's own loss in `decoders.denoising`.
"""
