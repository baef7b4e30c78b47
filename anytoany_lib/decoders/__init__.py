"""Frozen decoders: diffusion pipelines that are given a projected condition in the place of a caption.

`adapters` says what each class of pipeline needs and makes conditions of captions, `pipelines` generates, `denoising` is a decoder's
own loss. Another decoder begins in `adapters`.
"""
