"""Datasets in the forms they are published in, a module each, and what all of them need: turns, marks, named media.

`folders`, `webdataset`, `parquet` and `published` are captioned media; `instructions` is conversations, read by `turns`
(who says what), `named_media` (which files), `marks` and `placing` (where in the text they stand).
"""
