"""A conversation that goes on: `session` holds it, `widget` shows it in a notebook, `console` in a terminal, two applications serve it.

`view`, `html` and `markdown` make what is shown; what comes in passes `uploads` and, from visitors, `access`.
"""

from anytoany_lib.chat.session import Session

__all__ = ["Session"]
