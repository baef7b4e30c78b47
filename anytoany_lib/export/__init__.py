"""What leaves the kit: a run's language model for others (`merging`, `gguf_file`), and a page of it on the hub (`space`).

`command` is `anytoany export`. Runs go to the hub and come from there through `checkpoints.publishing`.
"""
