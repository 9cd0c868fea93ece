"""Self-instruct for data with tools (report, section 3.4; Wang et al., 2023): a model writes, rules choose.

A round asks the model for a number of conversations, each by a prompt of its own: some examples, out of seeds and of
what was accepted before, and some tools. A round is a run of the harness, kept in OUT/rounds; what is accepted and what
is rejected is computed from the runs, in their order, so that the same recipe gives the same files after any stop.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from harness.contamination import tokens
from harness.evaluation import execute, prepare
from harness.progress import Bars
from harness.records import SampleRecord, difference, write_atomic
from harness.settings import Settings
from qwen_train.alignment import self_instruct_task
from qwen_train.alignment.conversations import RowError, rows
from qwen_train.alignment.self_instruct_task import PROMPTS, Round
from qwen_train.alignment.settings import SelfInstruct
from qwen_train.alignment.stage import Say
from qwen_train.alignment.tool_talks import Rejected, Talk, Tool, check_calls, read_talk, read_tool, written
from qwen_train.errors import TrainError
from tasks.rouge import rouge_l

HEADER = """\
Each example has some tools as JSON, a question that a person asks, and how an assistant answers it with these tools. \
It thinks, names one of the tools as Action, gives its arguments as a JSON object, and reads the Observation; it does \
so as often as needed and then gives the Final Answer. Every question is about something else.
"""
ASKED = 'Write this example: a new question for its tools, and all steps to its answer. Begin with "Question:".'
WORDS = (3, 150)
"""Of a question, as in the paper; Chinese characters count as words."""
NUMBER = 5
"""Tools of a question at most, as in the report's benchmark."""
RECIPE = "recipe.json"
BEYOND = "beyond the number asked for"
WRITER = {
    *("model", "backend", "dtype", "device", "seed", "temperature", "top_p"),
    *("base_url", "tokenizer", "concurrency"),
}
"""What of a recipe the harness is asked for."""

Read = TypeVar("Read")


@dataclass
class Pool:
    """What was accepted so far, and the questions that a new one must not be like."""

    similar: float
    talks: list[Talk] = field(default_factory=list)
    questions: list[tuple[str, list[str], Counter[str]]] = field(default_factory=list)

    def know(self, question: str) -> None:
        """From now on nothing like this is accepted."""
        words = tokens(question)
        self.questions.append((question, words, Counter(words)))

    def accept(self, talk: Talk) -> None:
        """Raises Rejected for a question too short, too long, or too near to one that is known."""
        words = tokens(talk.question)
        if not WORDS[0] <= len(words) <= WORDS[1]:
            raise Rejected("length", f"a question of {len(words)} words; wanted are {WORDS[0]} to {WORDS[1]}")
        counts = Counter(words)
        for known, others, other in self.questions:
            if words == others:
                raise Rejected("duplicate", known)
            # the longest common subsequence is at most the words in common: most pairs need no more than counting
            most = 2 * (counts & other).total() / (len(words) + len(others)) if others else 0.0
            if most >= self.similar and rouge_l(others, words) >= self.similar:
                raise Rejected("similar", known)
        self.know(talk.question)
        self.talks.append(talk)


def run_self_instruct(recipe: SelfInstruct, folder: Path, say: Say) -> Path:
    """Write `folder`/talks.jsonl, rejected.jsonl and counts.json; the same call goes on after any stop.

    Raises TrainError, and what the harness raises, one line each.
    """
    told = _same(recipe, folder)
    seeds = read_every(recipe.seeds or [str(files("qwen_train.alignment") / "tool-seeds.jsonl")], read_talk)
    named = [tool for talk in seeds for tool in talk.tools] + read_every(recipe.tools, read_tool)
    tools = list({tool["name_for_model"]: tool for tool in named}.values())
    pool = Pool(recipe.similar)
    for talk in seeds:
        pool.know(talk.question)
    kept: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for number in range(recipe.rounds):
        prompts = _prompts(recipe, number, seeds, pool.talks, tools)
        for asked, record in zip(prompts, _ask(recipe, folder / "rounds" / f"{number:04}", prompts), strict=True):
            try:
                if len(kept) == recipe.samples:
                    raise Rejected(BEYOND, f"{recipe.samples} were accepted before")
                talk = _candidate(record, asked["tools"])
                pool.accept(talk)
                kept.append({"id": record.id, **talk.row()})
            except Rejected as error:
                rejected.append({"id": record.id, "rule": error.rule, "detail": error.detail, "text": record.response})
        # not before: a folder in which nothing was written is nobody's
        write_atomic(folder / RECIPE, told)
        say(f"round {number + 1}: {len(kept)} of {recipe.samples} conversations, {len(rejected)} rejected")
        if len(kept) == recipe.samples:
            break
    counts = {"accepted": len(kept), **dict(Counter(row["rule"] for row in rejected).most_common())}
    for name, found in (("talks.jsonl", kept), ("rejected.jsonl", rejected)):
        write_atomic(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    write_atomic(folder / "counts.json", json.dumps(counts, indent=1) + "\n")
    say(", ".join(f"{name} {count}" for name, count in counts.items()))
    if len(kept) < recipe.samples:
        say(f"{recipe.rounds} rounds gave fewer than {recipe.samples}; the same command with more rounds goes on")
    return folder / "talks.jsonl"


def _same(recipe: SelfInstruct, folder: Path) -> str:
    """What is kept of a recipe, as JSON: a folder belongs to one, and only more may be asked of it."""
    told = recipe.model_dump(mode="json", exclude={"samples", "rounds", "concurrency"})
    note = folder / RECIPE
    if note.is_file():
        differs = difference(json.loads(note.read_text(encoding="utf-8")), told)
        if differs:
            raise TrainError(f"{folder}: begun with another recipe: {differs}; name another folder by --out")
    return json.dumps(told, indent=1, ensure_ascii=False)


def read_every(paths: Sequence[str], read: Callable[[Any], Read]) -> list[Read]:
    """The rows of files written by the user: a wrong one is an error."""
    found = []
    for path in paths:
        for where, row in rows(Path(path)):
            try:
                found.append(read(row))
            except RowError as error:
                raise TrainError(f"{path}: {where}: {error}; docs/alignment.md has the form") from error
    return found


def _prompts(
    recipe: SelfInstruct, number: int, seeds: Sequence[Talk], own: Sequence[Talk], tools: Sequence[Tool]
) -> list[dict[str, Any]]:
    """The prompts of a round: a function of the seed, the round, and what was accepted before it."""
    found = []
    for place in range(recipe.prompts):
        draw = random.Random(f"{recipe.seed} {number} {place}")
        # one example in four is the model's own, as in the paper
        mine = draw.sample(own, min(recipe.examples // 4, len(own)))
        shown = mine + draw.sample(seeds, min(recipe.examples - len(mine), len(seeds)))
        draw.shuffle(shown)
        given = draw.sample(tools, draw.randint(1, min(NUMBER, len(tools))))
        examples = [
            f"{_head(count, talk.tools)}Question: {talk.question}\n{talk.answer}\n"
            for count, talk in enumerate(shown, start=1)
        ]
        asked = _head(len(shown) + 1, given) + (ASKED if recipe.chat else "Question:")
        found.append(
            {
                "id": f"{number:04}/{place:05}",
                "prompt": "\n".join([HEADER, *examples, asked]),
                "chat": recipe.chat,
                "max_tokens": recipe.max_tokens,
                "tools": given,
            }
        )
    return found


def _head(number: int, tools: Sequence[Tool]) -> str:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return f"### Example {number}\nTools:\n{lines}\n\n"


def _ask(recipe: SelfInstruct, folder: Path, prompts: Sequence[dict[str, Any]]) -> list[SampleRecord]:
    """What the model writes, in the prompts' order; what it has written already is not asked for again."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / PROMPTS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in prompts))
    asked = Settings(
        tasks=(f"{self_instruct_task.__file__}:{Round.__name__}",),
        data_dir=folder,
        **recipe.model_dump(include=WRITER),
    )
    with Bars() as bars:
        run = execute(prepare(asked), folder / "run", bars)
    return list(run.records(Round.name))


def _candidate(record: SampleRecord, tools: Sequence[Tool]) -> Talk:
    if record.finish == "length":
        raise Rejected("cut off", "it had not ended after max_tokens")
    talk = written(record.response.strip().removeprefix("Question:"), tools)
    check_calls(talk)
    return talk
