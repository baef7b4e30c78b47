"""Reports: what became of a dataset's rows and files, and what the kept ones are like; `report.json` beside the manifest.

Everything is a running count, so a report of millions of rows takes no more memory than one of ten.
"""

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from anytoany_lib.data.ledger import DROPPED, NOT_LOOKED_AT, USED, Files, every_file
from anytoany_lib.data.rows import Row, captions_in

EXAMPLES_KEPT = 10
LONGEST_NAME = 200
MOST_REASONS = 200  # they name keys and marks of records, which may be anything
OTHER_REASONS = "other reasons"

# Lower ends of the bars, on scales where the usual datasets fill several of them.
WORDS = (0, 3, 5, 7, 9, 11, 13, 16, 20, 25, 30, 40, 60, 100, 200, 400)
SECONDS = (0, 1, 2, 3, 5, 7, 9, 11, 15, 20, 30, 60, 120, 300, 600, 1800)
PIXELS = (0, 64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048, 4096)


@dataclass(frozen=True)
class Measured:
    """What a report says of one medium: its size in bytes, its shorter side in pixels, its seconds (0 if it has none)."""

    kind: str
    size: int
    short_side: int = 0
    seconds: float = 0.0


class Histogram:
    """How many values fall between fixed edges (the last bar is open), with the least, the greatest and their mean."""

    def __init__(self, edges: tuple[float, ...]):
        self.edges, self.counts = edges, [0] * len(edges)
        self.least, self.most, self.sum = float("inf"), 0.0, 0.0

    def add(self, value: float) -> None:
        """Counts one value, at least 0."""
        self.counts[bisect_right(self.edges, value) - 1] += 1
        self.least, self.most = min(self.least, value), max(self.most, value)
        self.sum += value

    def as_dict(self) -> dict[str, Any]:
        """{"n", "least", "mean", "most", "edges", "counts"} from the first bar that holds something to the last.

        Bar i goes from edge i up to edge i + 1; one without a next edge is open.
        """
        filled = [at for at, count in enumerate(self.counts) if count]
        first, end = filled[0], filled[-1] + 1
        return {
            "n": sum(self.counts),
            "least": round(self.least, 3),
            "mean": round(self.sum / sum(self.counts), 3),
            "most": round(self.most, 3),
            "edges": list(self.edges[first : end + 1]),
            "counts": self.counts[first:end],
        }


class Report:
    """What was read, kept and dropped, with the first names of each reason; `files` remembers on disk what became of each file."""

    def __init__(self, files: Files | None = None) -> None:
        self.files = files
        self.file_counts: Counter[str] = Counter()
        self.not_looked_at: Counter[str] = Counter()
        self.kept_rows = 0
        self.bytes = 0
        self.seconds = 0.0
        self.dropped: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.sources: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.splits: dict[str, int] = {}
        # By the kind of medium.
        self.words = defaultdict[str, Histogram](lambda: Histogram(WORDS))
        self.lengths = defaultdict[str, Histogram](lambda: Histogram(SECONDS))
        self.sides = defaultdict[str, Histogram](lambda: Histogram(PIXELS))

    def kept(self, row: Row, added: Iterable[Measured] = ()) -> None:
        """One more row was kept; `added` are its media that no row before it had."""
        self.kept_rows += 1
        self.sources[row.source] += 1
        self.kinds[row.meta.get("kind", "conversation")] += 1
        for kind, caption in captions_in(row):
            self.words[kind].add(len(caption.split()))
        for one in added:
            self.bytes += one.size
            if one.seconds:
                self.lengths[one.kind].add(one.seconds)
            if one.short_side:
                self.sides[one.kind].add(one.short_side)

    def drop(self, reason: str, name: str, files: Iterable[str | Path] = ()) -> None:
        """One more row was dropped, known by `name`, and with it the `files` that no other row uses."""
        if reason not in self.dropped and len(self.dropped) >= MOST_REASONS:
            name, reason = f"{name}: {reason}", OTHER_REASONS
        self.dropped[reason] += 1
        if self.files:
            for file in files:
                self.files.add(file, DROPPED)
        names = self.examples.setdefault(reason, [])
        if len(names) < EXAMPLES_KEPT:
            # Names come from anywhere: half characters and whole pages must not break the report.
            names.append(name[:LONGEST_NAME].encode("utf-8", "backslashreplace").decode())

    def read_file(self, path: str | Path) -> None:
        """A file was used: as a medium of a kept row, or for what it says."""
        if self.files:
            self.files.add(path, USED)

    def count_file(self, state: str, name: str = "", why: str = "") -> None:
        """One more file was "used", "dropped" or "not looked at", for which its name's ending stands unless it is said why."""
        self.file_counts[state] += 1
        if state == NOT_LOOKED_AT:
            self.not_looked_at[why or PurePosixPath(name).suffix.lower()[:20] or "no ending"] += 1

    def count_files(self, folder: Path, without: Path | None = None) -> None:
        """Counts every file below a folder, by what became of it; `without` is a folder that is none of the data's."""
        for path, what in every_file(folder, without):
            state = self.files.state_of(path) if self.files else ""
            self.count_file(state or NOT_LOOKED_AT, path.name, what)

    @property
    def read(self) -> int:
        """Rows kept and dropped so far."""
        return self.kept_rows + self.dropped.total()

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        rows = {"source": self.sources, "kind": self.kinds, "split": self.splits}
        spreads = {"caption_words": self.words, "media_seconds": self.lengths}
        spreads["short_side_pixels"] = self.sides
        return {
            "read": self.read,
            "kept": self.kept_rows,
            "dropped": dict(self.dropped.most_common()),
            "examples": dict(sorted(self.examples.items())),
            "files": {
                "seen": self.file_counts.total(),
                "used": self.file_counts[USED],
                "dropped": self.file_counts[DROPPED],
                NOT_LOOKED_AT: dict(self.not_looked_at.most_common()),
            },
            "rows": {name: dict(counts) for name, counts in rows.items()},
            "bytes": self.bytes,
            "seconds": round(self.seconds, 2),
        } | {
            name: {kind: one.as_dict() for kind, one in sorted(by_kind.items())}
            for name, by_kind in spreads.items()
        }

    def save(self, path: str | Path) -> None:
        """Writes report.json, for people to read too."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def __str__(self) -> str:
        lines = [f"{self.read} rows read, {self.kept_rows} kept"]
        for reason, count in self.dropped.most_common():
            names = self.examples[reason]
            more = ", ..." if count > len(names[:3]) else ""
            lines.append(f"  {count} dropped, {reason}: {', '.join(names[:3])}{more}")
        if self.not_looked_at:
            count = self.file_counts[NOT_LOOKED_AT]
            named = ", ".join(f"{n} {ending}" for ending, n in self.not_looked_at.most_common(8))
            lines.append(f"  {count} of {self.file_counts.total()} files not looked at: {named}")
        return "\n".join(lines)
