"""Recipes as YAML files: which public data and how much of each, what is trained on them, and the numbers that are aimed at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from anytoany_lib.config import Kind
from anytoany_lib.config.checked import Checked
from anytoany_lib.config.yaml_files import read_yaml
from anytoany_lib.data import ALL_READERS

FOLDER = Path(__file__).parent
Stage = Annotated[int, Field(ge=1, le=3)]


class Fetched(Checked):
    """Files that whoever runs the recipe fetches: how many of each there have to be, from where, on what terms."""

    files: dict[str, Annotated[int, Field(gt=0)]] = Field(
        description="patterns of files below the folder, and how many of each there have to be",
        min_length=1,
    )
    gigabytes: float = Field(ge=0, description="to be fetched")
    published: str = Field(description="how large the whole set is, as its publishers say")
    where: str
    get: str = Field(description="commands that fetch it; {folder} is its place")
    terms: str
    checked: str = Field(
        "not verified",
        description="when and where sizes, counts and terms were looked up, and what was not found",
    )


class PublicData(Fetched):
    """A public data set, and what the recipe takes of it."""

    reader: str
    use: Literal["pairs", "talks"] = Field(
        description="pairs of a medium and a caption, for stages 1 and 2; or conversations, for stage 3"
    )
    kinds: list[Kind] = Field([], description="of the media that a row shows")
    rows: int = Field(gt=0, description="that are taken at most, from all over the training split")
    rows_a_medium: float = Field(1.0, ge=1, description="rows that show one medium, on average")
    tokens: int = Field(0, ge=0, description="of a conversation, its media apart: assumed")
    requests: int = Field(
        0, ge=0, description="pairs that are also worded as requests for the medium, for stage 3"
    )
    leave_out: str | None = Field(
        None,
        description="a benchmark, or another data set, whose test media this set has too: rows of them are left out",
    )

    @field_validator("reader")
    @classmethod
    def _is_one(cls, reader: str) -> str:
        if reader not in ALL_READERS:
            raise ValueError(f"expected a reader, one of {', '.join(ALL_READERS)}")
        return reader


class Target(Checked):
    """A number to reach. `nextgpt` is what JavisGPT (arXiv 2512.22905, table 2) measured of NExT-GPT."""

    at_least: float
    nextgpt: float | None = None
    how: str = Field(description="what measures it")


class Recipe(Checked):
    """A whole recipe. Read one with `Recipe.load`."""

    name: str
    hours: float = Field(24, gt=0)
    megabytes_a_second: float = Field(gt=0, description="of the network: assumed")
    rows_a_step: dict[Stage, Annotated[int, Field(gt=0)]]
    held_out: int = Field(200, gt=0, description="rows of each set that validation and tests take")
    tests: int = Field(1000, gt=0, description="test rows of each set of questions")
    data: dict[str, PublicData] = Field(min_length=1)
    benchmarks: dict[str, Fetched] = Field({})
    requests: dict[Kind, list[str]] = Field(
        description="wordings of a request for a medium; {} is what it is to show"
    )
    targets: dict[str, Target]

    @classmethod
    def load(cls, name_or_path: str | Path) -> Recipe:
        """The recipe of that name, or in that YAML file. FileNotFoundError or ValueError say what was expected."""
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            path = FOLDER / f"{str(name_or_path).replace('-', '_')}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem.replace("_", "-") for p in FOLDER.glob("*.yaml")))
            raise FileNotFoundError(
                f"no recipe {str(name_or_path)!r}: expected one of {known}, or the path of a .yaml file"
            )
        try:
            return cls.model_validate(read_yaml(path))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors()
            )
            raise ValueError(f"{path}: {problems}") from None

    def of_use(self, use: str) -> dict[str, PublicData]:
        """The data sets of one use."""
        return {name: data for name, data in self.data.items() if data.use == use}

    @model_validator(mode="after")
    def _leaves_out_what_there_is(self) -> Recipe:
        named = {data.leave_out for data in self.data.values() if data.leave_out}
        if unknown := named - set(self.fetched):
            raise ValueError(f"leave_out names {', '.join(sorted(unknown))}, which is not there")
        return self

    @property
    def fetched(self) -> dict[str, Fetched]:
        """All that is to be fetched, by the folder that it is expected in."""
        return {**self.data, **self.benchmarks}
