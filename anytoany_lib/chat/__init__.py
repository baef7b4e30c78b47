"""A conversation that goes on: `session` holds it, `widget` shows it in a notebook, two applications serve it.

What is shown is made by `view`, `html` and `markdown`; what comes in passes `uploads` and, from elsewhere, `access`.
"""

from anytoany_lib.chat.session import Session

__all__ = ["Session"]
