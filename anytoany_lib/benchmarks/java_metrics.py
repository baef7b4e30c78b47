"""What the caption metrics have in Java alone: the Penn Treebank tokenizer, METEOR and SPICE, run through pycocoevalcap.

None of it is needed for the other metrics. `missing` says what a machine lacks, and every function refuses with it.
"""

import importlib
import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Tokens that no metric counts.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
TOKENIZER, METEOR, SPICE = "tokenizer", "METEOR", "SPICE"
_NEEDS = {
    TOKENIZER: ("tokenizer/stanford-corenlp-3.4.1.jar",),
    METEOR: ("meteor/meteor-1.5.jar",),
    SPICE: ("spice/lib/stanford-corenlp-3.6.0.jar", "spice/lib/stanford-corenlp-3.6.0-models.jar"),
}
_FETCH_SPICE = (
    "python -c 'from pycocoevalcap.spice.get_stanford_models import get_stanford_models as get; get()' "
    "downloads them (about 400 MB); SPICE runs on Java 8 or 11"
)


class JavaMissing(RuntimeError):
    """A metric that this machine cannot run; the message says what is absent and how to get it."""


def _package() -> Path | None:
    """Where pycocoevalcap lies."""
    found = importlib.util.find_spec("pycocoevalcap")
    folders = found.submodule_search_locations if found else None
    return Path(next(iter(folders))) if folders else None


def missing(name: str) -> str:
    """What is absent for the tokenizer, METEOR or SPICE, and how to get it; "" if it can run."""
    if (package := _package()) is None:
        return (
            "the package pycocoevalcap is not installed: pip install 'anytoany[metrics]' (104 MB)"
        )
    if shutil.which("java") is None:
        return "no java on the PATH: install a Java runtime (apt install default-jre-headless, conda install openjdk)"
    absent = [file for file in _NEEDS[name] if not (package / file).is_file()]
    if not absent:
        return ""
    get = _FETCH_SPICE if name == SPICE else "pip install --force-reinstall pycocoevalcap"
    return f"{package} lacks {', '.join(absent)}: {get}"


def _need(name: str) -> Path:
    """pycocoevalcap's folder; JavaMissing if this cannot run."""
    why, package = missing(name), _package()
    if why or package is None:
        raise JavaMissing(f"{name} cannot run: {why}")
    return package


def tokenize(captions: Sequence[str]) -> list[list[str]]:
    """The words of each caption by Stanford's PTBTokenizer, punctuation left out. JavaMissing, RuntimeError if it fails."""
    jar = _need(TOKENIZER) / _NEEDS[TOKENIZER][0]
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    text = "".join(" ".join(caption.split()) + "\n" for caption in captions)
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    lines = done.stdout.decode().split("\n")[:-1]
    if done.returncode or len(lines) != len(captions):
        raise RuntimeError(f"the Java tokenizer failed: {done.stderr.decode().strip()[-500:]}")
    return [[word for word in line.split() if word not in PUNCTUATION] for line in lines]


def score(
    name: str, candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """METEOR or SPICE of captions given as words: the number for the whole set. JavaMissing if it cannot run."""
    if name not in (METEOR, SPICE):
        raise ValueError(f"unknown metric {name!r}: expected {METEOR} or {SPICE}")
    _need(name)
    module = importlib.import_module(f"pycocoevalcap.{name.lower()}.{name.lower()}")
    said = {number: [" ".join(words)] for number, words in enumerate(candidates)}
    told = {number: [" ".join(words) for words in own] for number, own in enumerate(references)}
    try:
        return float(getattr(module, name.capitalize())().compute_score(told, said)[0])
    except subprocess.CalledProcessError as error:
        advice = ": it runs on Java 8 or 11, see java -version" if name == SPICE else ""
        raise JavaMissing(f"{name} failed in Java, status {error.returncode}{advice}") from error
