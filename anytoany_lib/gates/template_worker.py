"""Renders chat templates in a process of its own, one JSON line in, one out; started by `templates`, which may kill it.

It knows nothing but Jinja, in the same sandbox and with the same names that transformers gives a template.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES, OUTPUT_CHARACTERS = 2**29, 2**20


class _Generation(Extension):
    """{% generation %} marks what a reply learns from; here its contents are what counts."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """What {% set ns.name %} writes to: of names that are not Python's own."""

    def __init__(*args: Any, **given: Any) -> None:
        self, given = args[0], dict(*args[1:], **given)
        for name in given:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name like {name!r}")


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _json(value: Any, ensure_ascii: bool = False, indent: Any = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def environment() -> jinja2.Environment:
    """What a chat template may use."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    sandbox.filters["tojson"] = _json
    sandbox.globals["raise_exception"] = _refuse
    sandbox.globals["namespace"] = _Namespace
    sandbox.globals["dict"] = lambda *args, **given: dict(*args, **given)
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return sandbox


def main() -> None:
    """Answers lines {"template", "variables"} with {"text"} or {"error"} until its input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes to its pipe alone
    templates = environment()
    for line in sys.stdin:
        try:
            request = json.loads(line)
            text = templates.from_string(request["template"]).render(**request["variables"])
            answer = {"text": text}
            if len(text) > OUTPUT_CHARACTERS:
                answer = {"error": f"it renders {len(text):,} characters"}
        except MemoryError:
            answer = {"error": f"it takes more than {MEMORY_BYTES >> 20} MiB of memory"}
        except Exception as error:  # of whatever kind a template raises: the answer says it
            answer = {"error": f"{type(error).__name__}: {error}"[:400]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
