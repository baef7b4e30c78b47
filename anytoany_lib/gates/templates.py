"""The gate of chat templates: one that the kit does not ship is rendered in a process of its own, with bounds.

A template is a small program: it can loop for ever or ask for all the memory there is. Those of the kit's own profiles are
rendered by the tokenizer. Any other, of a profile, a run or a model folder, gets a child that has SECONDS of time and half a
gigabyte, and dies with whatever goes beyond.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
import weakref
from functools import cache
from typing import Any

import yaml

from anytoany_lib.config import PROFILE_FOLDER
from anytoany_lib.gates import template_worker
from anytoany_lib.tokenizer.pieces import Tokenizer

SECONDS = 5.0
_PLAIN = {"enable_thinking": False}  # which some models ask for: replies here begin at once
_LONGEST = 2**24  # bytes of an answer: every character of the longest one escaped


class _Worker:
    """A child that renders; a new one takes the place of one that was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """What the template makes of its variables. ValueError if it fails, or goes beyond a bound."""
        with self._lock:
            child = self._running()
            if child.stdin is None or child.stdout is None:
                raise RuntimeError("the child has no pipes")
            try:
                child.stdin.write(
                    json.dumps({"template": template, "variables": variables}).encode() + b"\n"
                )
                child.stdin.flush()
                line = self._answer(child)
                answer = json.loads(line)
            except (OSError, ValueError) as error:
                self.end()
                raise ValueError(
                    f"the chat template was given up: it took more than {SECONDS:g} s or "
                    f"{template_worker.MEMORY_BYTES >> 20} MiB. Set llm.chat_template in the profile to one that is bounded"
                ) from error
        if "error" in answer:
            raise ValueError(f"the chat template cannot be used: {answer['error']}")
        return answer["text"]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            # -P: the folder of this package is no place to import from.
            command = [sys.executable, "-P", template_worker.__file__]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            weakref.finalize(self, _ended, self._child)
        return self._child

    def _answer(self, child: subprocess.Popen[bytes]) -> bytes:
        """A line of the child's. TimeoutError if it does not come in time, OSError if the child died."""
        stream: Any = child.stdout
        if not select.select([stream], [], [], SECONDS)[0]:
            raise TimeoutError("no answer")
        line = stream.readline(_LONGEST)
        if not line.endswith(b"\n"):
            raise OSError("the child died")
        return line

    def end(self) -> None:
        """Kills the child."""
        if self._child is not None:
            _ended(self._child)
        self._child = None


def _ended(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


_WORKER = _Worker()


@cache
def _shipped() -> frozenset[str]:
    """The templates of the kit's own profiles."""
    profiles = (yaml.safe_load(path.read_text("utf-8")) for path in PROFILE_FOLDER.glob("*.yaml"))
    templates = (profile.get("llm", {}).get("chat_template") for profile in profiles)
    return frozenset(filter(None, templates))


def render(
    tokenizer: Tokenizer,
    template: str | None,
    messages: list[dict[str, str]],
    prompt: bool,
) -> str:
    """Messages as the chat template shows them (None: the tokenizer's own), with `prompt` up to where a reply begins.

    ValueError if the template fails or goes beyond its bounds.
    """
    if template in _shipped():
        return tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=prompt, **_PLAIN
        )
    own = tokenizer.get_chat_template(template)
    variables = {
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": prompt,
        **_PLAIN,
    }
    marks = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _WORKER.render(own, marks | variables)
