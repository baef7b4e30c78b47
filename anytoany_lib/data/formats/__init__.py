"""Datasets in the forms they are published in, a module each, and what all of them need: turns, references, placeholders.

`folders`, `webdataset`, `parquet` and `published` are captioned media; `instructions` is conversations, read by `turns`
(who says what), `media_references` (which files), `placeholders` and `interleaving` (where in the text they stand).
"""
