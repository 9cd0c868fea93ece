"""Which numbers of our tasks stand in which columns of the report's tables and figures.

Of a column's sources the first that a run has is taken: the report's own protocol stands first, other protocols of the
same benchmark follow, and their difference becomes a footnote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.records import Estimate, Run, TaskResult


@dataclass(frozen=True)
class Source:
    """A number of a task: its metric, or a further measure, or that of a set or group of samples."""

    task: str
    measure: str | None = None
    group: str | None = None
    """A set of groups, or a group, of that name."""
    remark: str | None = None
    """What keeps it from being the report's measurement, beyond what the run's spec says."""

    def find(self, result: TaskResult, metric: str) -> Estimate | None:
        """The number in a task's results, if it has it."""
        if self.group is not None:
            return result.sets.get(self.group) or result.groups.get(self.group)
        return result.metrics.get(self.measure or metric)

    def kind(self, measures: Mapping[str, str], metric: str) -> str:
        """`share`, `mean` or `perplexity`; `measures` as in a task's spec."""
        return measures.get(self.measure or metric, "share")


def tables_of(runs: Sequence[Run]) -> list[str]:
    """The tables of which a run has a number by a column's own protocol, that which stands first."""
    return [
        name
        for name, cells in CELLS.items()
        if name.startswith("table") and any(_has(run, sources[0]) for run in runs for sources in cells.values())
    ]


def _has(run: Run, source: Source) -> bool:
    """Perplexities at other lengths than the table's are of its task, and no number of it."""
    result = run.results.get(source.task)
    return result is not None and source.find(result, run.spec["tasks"][source.task]["metric"]) is not None


def _tasks(*names: str) -> tuple[Source, ...]:
    return tuple(map(Source, names))


def _lm_eval(name: str) -> tuple[Source, ...]:
    return (Source(f"lm-eval/{name}", remark="Asked by lm-eval's prompt, not by OpenCompass's."),)


_TEST = "Of C-Eval's validation set; the report's column is of the test set, whose answers are not public."
_OURS = "Of 62 items of our own; the report's are not public."
_BFCL = "Of items made from BFCL; the report's are not public."
_HALF = "Of MATH-500's problems; the report's column is of all 5,000."
_REWARDS = "Preferred by likelihood, unless this model is a reward model, as those of the report's rows are."

MMLU, CEVAL = _tasks("mmlu", "mmlu-chat"), _tasks("ceval", "ceval-chat")
HUMANEVAL, MBPP = _tasks("humaneval", "humaneval-chat"), _tasks("mbpp", "mbpp-chat")
GSM8K, BBH = _tasks("gsm8k", "gsm8k-chat"), _tasks("bbh", "bbh-chat")
MATH = (Source("math"), Source("math500", remark=_HALF), Source("math500-chat", remark=_HALF))
HELLASWAG, PIQA, CSQA = _lm_eval("hellaswag"), _lm_eval("piqa"), _lm_eval("commonsense_qa")

BASE = {"MMLU": MMLU, "C-Eval": CEVAL, "GSM8K": GSM8K, "MATH": MATH, "HumanEval": HUMANEVAL, "MBPP": MBPP, "BBH": BBH}

CELLS: Mapping[str, Mapping[str, tuple[Source, ...]]] = {
    "table_2": BASE,
    "table_3": {length: (Source("long-ppl", group=length),) for length in ("1024", "2048", "4096", "8192", "16384")},
    "table_4": {
        f"Anthropic Helpful-{part}": (Source("preference", group=f"helpful-{part}", remark=_REWARDS),)
        for part in ("base", "online")
    },
    "table_5": {
        "MMLU 0-shot": _tasks("mmlu-chat"),
        "MMLU 5-shot": _tasks("mmlu"),
        "C-Eval 0-shot": _tasks("ceval-chat"),
        "C-Eval 5-shot": _tasks("ceval"),
        "GSM8K 0-shot": _tasks("gsm8k-chat"),
        "GSM8K 8-shot": _tasks("gsm8k"),
        "HumanEval 0-shot": HUMANEVAL[::-1],
        "BBH 3-shot": BBH[::-1],
    },
    "table_6": {
        column: (Source("tool-use", measure), Source("tool-use-bfcl", measure, remark=_BFCL))
        for column, measure in (
            *(("Tool Selection", "tool selection"), ("Tool Input", "tool input")),
            ("False Positive Error", "false positive error"),
        )
    },
    "table_7": {
        **{
            column: (Source("code-interpreter", group=column.lower(), remark=_OURS),)
            for column in ("Math", "Visualization", "General")
        },
        "All": (Source("code-interpreter", remark=_OURS),),
    },
    "table_8": {"Math": _tasks("code-interpreter-gsm8k")},
    "table_9": {
        f"{column}, {mode} mode": (Source(f"hf-agent-{mode}", column.lower()),)
        for mode in ("run", "chat")
        for column in ("Tool Selection", "Tool Used", "Code Correctness")
    },
    "table_10": {"HumanEval": HUMANEVAL[::-1], "MBPP": MBPP[::-1]},
    "table_11": {
        **{
            column: (Source("humanevalpack", group=language),)
            for column, language in (
                *(("Python", "python"), ("JavaScript", "js"), ("Java", "java")),
                *(("Go", "go"), ("C++", "cpp"), ("Rust", "rust")),
            )
        },
        "Avg.": _tasks("humanevalpack"),
    },
    "table_12": {
        "GSM8K": GSM8K[::-1],
        "MATH": _tasks("math500-chat", "math500"),
        "Math401": _tasks("math401"),
        "Math23K": _tasks("math23k"),
    },
    "table_13": {
        "Average": MMLU,
        **{
            column: tuple(Source(task, group=name) for task in ("mmlu", "mmlu-chat"))
            for column, name in (
                *(("STEM", "stem"), ("Social Sciences", "social sciences")),
                *(("Humanities", "humanities"), ("Others", "other")),
            )
        },
    },
    "table_14": {
        "Avg.": (Source("ceval", remark=_TEST),),
        **{
            column: (Source("ceval", group=name, remark=_TEST),)
            for column, name in (
                *(("Avg. (Hard)", "hard"), ("STEM", "stem"), ("Social Sciences", "social sciences")),
                *(("Humanities", "humanities"), ("Others", "other")),
            )
        },
    },
    "table_15": {
        "CMMLU": _tasks("cmmlu", "cmmlu-chat"),
        "ARC-e": _lm_eval("arc_easy"),
        "ARC-c": _lm_eval("arc_challenge"),
    },
    "table_16": {"BoolQ": _lm_eval("boolq"), "CommonsenseQA": CSQA, "LAMBADA": _lm_eval("lambada_openai")},
    "table_17": {"HellaSwag": HELLASWAG, "PIQA": PIQA, "SIQA": _lm_eval("social_iqa")},
    "figure_2": {
        **BASE,
        "CSQA": CSQA,
        "HellaSwag": HELLASWAG,
        "PIQA": PIQA,
    },
}
