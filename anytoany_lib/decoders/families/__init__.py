"""Pipelines whose conditions need more than a line, a module each: a row of `adapters.ADAPTERS`, and what it is made of."""
