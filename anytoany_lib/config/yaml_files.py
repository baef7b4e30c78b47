"""Settings in YAML files, which strangers may have written, and settings laid over others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# Settings that a profile replaces as a whole where it is `like` another.
_WHOLE = (
    *("source", "audio_source", "architecture", "options", "scheduler"),
    *("learning_rates", "mixture", "speech"),
)
_DEEPEST = 32  # levels of nesting; a profile has half a dozen


def merged(base: dict, changes: dict) -> dict:
    """Settings with changes: mappings are merged, but those of `_WHOLE` and all other values replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and key not in _WHOLE:
            value = merged(old, value)
        result[key] = value
    return result


def read_yaml(path: Path) -> Any:
    """What a YAML file says. ValueError if it is none, is nested deeper than a profile, or has aliases, by which a page of
    text stands for terabytes.
    """
    try:
        text, depth = path.read_text(encoding="utf-8"), 0
        # Looked at one by one, so that what is nested without end is given up at its beginning.
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases (*name) are not read: write what they stand for")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ValueError(f"expected {_DEEPEST} levels of nesting at most")
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise ValueError(
            f"{path}: expected YAML, found at {place}: {error.problem}; mend it there or in the lines before"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
