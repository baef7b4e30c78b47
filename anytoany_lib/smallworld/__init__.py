"""A small world of real things: some sixty, as designers drew, animated and sampled them, put together so that right answers exist.

Begin in `scenes`, which says what can be the case; `packages` gets the pictures, loops and instruments from package registries,
`dataset` writes all of it as a dataset. It is the data of a profile that is yet to be trained. Nothing in the rest of the library
imports it.
"""
