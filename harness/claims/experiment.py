"""Experiment files: a claim in words, where the report makes it, and the test that decides it, stated beforehand.

`experiments/NAME.yaml` beside this module is one experiment. A claim is tested by criteria, each an effect that its
evidence gives and a bound on the interval: the claim holds if all of them hold, and fails if one of them fails.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from harness.claims.files import Part, read_file
from tasks.api import TaskError

FOLDER = Path(__file__).with_name("experiments")
_PLACE = re.compile(r"(?P<cell>\S+) at (?P<times>[1-9]\d*)?T")


def _place(text: str) -> str:
    if _PLACE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no cell at a length, such as `ntk at 4T`")
    return text


CellAt = Annotated[str, AfterValidator(_place)]
"""A cell of a sweep at a multiple of the trained length T: `ntk+logn at 4T`."""


def parted(place: str) -> tuple[str, int]:
    """The cell's name and the multiple of T."""
    found = _PLACE.fullmatch(place)
    assert found is not None, "checked when the file was read"
    return found["cell"], int(found["times"] or 1)


class Criterion(Part):
    """An effect and the bound that its whole 95 % interval has to keep: exactly one of the three."""

    says: str
    """What is measured, in a few words."""
    above: float | None = None
    below: float | None = None
    within: float | None = Field(default=None, ge=0)
    """The interval lies between minus this and this."""

    unit: ClassVar[str]
    across: ClassVar[bool] = False
    """Whether it takes all sizes of a family together."""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if sum(bound is not None for bound in (self.above, self.below, self.within)) != 1:
            raise ValueError("wants exactly one of above, below and within")
        return self

    @property
    def bound(self) -> str:
        """The bound in print."""
        if self.within is not None:
            return f"within ±{self.within:g}" if self.within else "exactly 0"
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"

    @property
    def bounds(self) -> tuple[float, ...]:
        """Its number, or both ends."""
        if self.within is not None:
            return (-self.within, self.within) if self.within else (0.0,)
        return tuple(bound for bound in (self.above, self.below) if bound is not None)

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps whose folders it reads."""
        fields = ("sweep", "first", "second", "run", "folder", "than")
        return tuple(step for name in fields if (step := getattr(self, name, None)) is not None)


class Cells(Criterion):
    """Loss in the second cell of a sweep less that in the first, over the documents of both."""

    measure: Literal["cells"]
    sweep: str
    base: CellAt
    other: CellAt
    unit = "nats a token"


class Runs(Criterion):
    """A task's metric in the second run less the first's, over the samples of both; of perplexities, their losses."""

    measure: Literal["runs"]
    first: str
    second: str
    task: str
    """As it is named in the run."""
    unit = "share of samples, or nats a token"


class Same(Criterion):
    """The largest difference between numbers that the two runs give the same sample. It has no interval."""

    measure: Literal["same"]
    first: str
    second: str
    task: str
    unit = "nats"


class Wins(Criterion):
    """Share of pairs that the tested model wins less the share that it loses; or how much more than another one's."""

    measure: Literal["wins"]
    folder: str
    """A step that `harness win-rate` fills."""
    than: str | None = None
    """Another such step, of another model against the same opponent."""
    category: str | None = None
    """None: all pairs."""
    unit = "share of pairs"


class AcrossSizes(Criterion):
    """Of one measure of a task, over the sizes of the family."""

    run: str
    task: str
    metric: str
    across = True


class Order(AcrossSizes):
    """Kendall's rank correlation of the measure with the number of parameters, over all sizes."""

    measure: Literal["order"]
    unit = "Kendall's tau"


class Growth(AcrossSizes):
    """The measure of the largest model less that of the next smaller one."""

    measure: Literal["growth"]
    unit = "share of samples"


class Compression(Criterion):
    """Logarithm of the tokens of one tokenizer per token of another, over the same texts: -0.1 is about 10 % fewer."""

    measure: Literal["compression"]
    folder: str
    """A step that `harness tokenizer-report` fills."""
    text: str
    tokenizer: str
    against: str
    unit = "log of the ratio of tokens"
    across = True


AnyCriterion = Annotated[Cells | Runs | Same | Wins | Order | Growth | Compression, Field(discriminator="measure")]


class Source(Part):
    """Where the report, or its authors, say it."""

    section: str
    table: str | None = None
    """Of `reports/data`: table_3, figure_4."""


class Experiment(Part):
    """One claim and its test."""

    name: str
    """The file's, without its ending."""
    claim: str
    """True or false of a family of models."""
    source: Source
    question: str
    """What a reader would ask, and how the test answers it."""
    open: bool = False
    """A question that the report leaves open; the claim is then our guess, stated beforehand."""
    families: tuple[Literal["trained", "given"], ...] = ("trained", "given")
    """Families that it is tested on: the nano one that `make reproduce` trains, or models of the user's."""
    seeds: int = Field(default=3, ge=1)
    """Trainings that it takes where the family is trained here."""
    tests: tuple[AnyCriterion, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len({test.across for test in self.tests}) > 1:
            raise ValueError("tests: some are of one size and some of all sizes together; make two experiments of them")
        return self

    @property
    def across(self) -> bool:
        return self.tests[0].across

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that fill the folders it reads, each once."""
        return tuple(dict.fromkeys(step for test in self.tests for step in test.steps))

    def answers_to(self, word: str) -> bool:
        """Whether `--only WORD` means it: by its name, or by its table (table3, figure4)."""
        return word == self.name or (self.source.table or "").replace("_", "") == word.replace("_", "").lower()


def experiments(only: tuple[str, ...] = ()) -> list[Experiment]:
    """Those of `experiments/`, or the named ones, claims of the report first. Raises TaskError."""
    found = [read_experiment(path) for path in sorted(FOLDER.glob("*.yaml"))]
    found.sort(key=lambda experiment: (experiment.open, _number(experiment), experiment.name))
    for word in only:
        if not any(experiment.answers_to(word) for experiment in found):
            names = ", ".join(experiment.name for experiment in found)
            raise TaskError(f"--only: no claim or table is called {word!r}; there are {names}")
    return [one for one in found if not only or any(one.answers_to(word) for word in only)]


def read_experiment(path: Path) -> Experiment:
    """One file. Raises TaskError, one line that names file and key."""
    return read_file(Experiment, path, name=path.stem)


def _number(experiment: Experiment) -> tuple[str, int]:
    kind, _, number = (experiment.source.table or "z_0").partition("_")
    return ("" if kind == "table" else kind), int(number)
