"""Frozen decoders: diffusion pipelines behind one protocol (`adapters`), told by a projected condition instead of a caption.

Another decoder begins in `adapters`; what it is told in `conditions`; its own loss in `denoising`.
"""
