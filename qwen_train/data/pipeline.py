"""`qwen-train data`: the stages in their order, each a set of independent pieces of work that are done once.

    clean    a shard of files                 documents that stay so far, and what they are compared by
    copies   a range of keys, or a band       pairs of documents that are the same
    resolve  all pairs                        which document of each group stays
    mix      a shard again                    documents, fates and quarantine

A piece writes its files whole or not at all, and knows by them that it is done: the same command after any
interruption goes on. Nothing depends on how many processes work.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from harness.records import write_atomic
from harness.workers import cores, workers
from qwen_model.progress import Meter
from qwen_train.data import decontaminate, duplicates, scores
from qwen_train.data.clean import Cleaner
from qwen_train.data.config import DataConfig
from qwen_train.data.files import open_array, save_array
from qwen_train.data.mix import DOCUMENTS, FATES, QUARANTINE, Mixer
from qwen_train.data.read import Place, shards
from qwen_train.data.summary import summary
from qwen_train.errors import TrainError

STAGES = {
    "clean": "cleaning",
    "exact": "exact copies",
    "mark": "",
    "near": "near copies",
    "resolve": "",
    "mix": "writing",
    "finish": "",
}
"""The stages in their order, and what is shown of those that take long."""
SPEC, REPORT, WORK = "spec.json", "report.json", "work"
QUIET_BYTES = 32 << 20
"""Up to so many bytes, a few seconds' work, one process works and no progress is shown."""


@dataclass(frozen=True)
class Stages:
    """The pieces of work of one output folder; every process makes its own from the same three values."""

    config: DataConfig
    corpus: tuple[Path, ...]
    out: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return Stages, (self.config, self.corpus, self.out)

    @property
    def work(self) -> Path:
        return self.out / WORK

    @cached_property
    def shards(self) -> list[list[Place]]:
        return shards(self.corpus, self.config.instructions)

    def sizes(self) -> list[int]:
        """Bytes of each shard."""
        return [sum(place.part.end - place.part.start for place in shard) for shard in self.shards]

    @cached_property
    def _cleaner(self) -> Cleaner:
        return Cleaner(self.config, self.work)

    def clean(self, number: int) -> None:
        self._cleaner.shard(number, self.shards[number])

    @cached_property
    def counts(self) -> list[dict[str, Any]]:
        """What cleaning came to, by shard."""
        return [
            json.loads((self.work / f"{number:06d}.json").read_text(encoding="utf-8"))
            for number in range(len(self.shards))
        ]

    @cached_property
    def kept(self) -> duplicates.Kept:
        return duplicates.Kept(self.work, [count["runs"] for count in self.counts])

    def exact_pieces(self) -> list[Path]:
        return [self.work / f"exact-{part}.npy" for part in range(self.kept.ranges)]

    def exact(self, part: int) -> None:
        duplicates.exact(self.kept, part, self.exact_pieces()[part])

    def mark(self, _: int = 0) -> None:
        """Between exact and near copies: the former take no further part."""
        if not (self.work / "first.npy").is_file():
            save_array(self.work / "first.npy", duplicates.mark_exact(self.kept.count, self.exact_pieces()))

    def near_pieces(self) -> list[tuple[int, int, Path]]:
        bands = self.config.near.bands if self.config.near else 0
        return [
            (band, part, self.work / f"near-{band}-{part}.npy")
            for band in range(bands)
            for part in range(self.kept.ranges)
        ]

    def near(self, piece: int) -> None:
        if self.config.near:
            gone = np.asarray(open_array(self.work / "first.npy")) >= 0
            duplicates.near(self.kept, self.config.near, gone, *self.near_pieces()[piece])

    def resolve(self, _: int = 0) -> None:
        """Decide which document of each group stays."""
        if (self.work / "fates.npy").is_file():
            return
        keepers = np.array(open_array(self.work / "first.npy"))
        fates = duplicates.resolve(self.kept, keepers, [path for *_, path in self.near_pieces()])
        save_array(self.work / "keepers.npy", keepers)
        save_array(self.work / "fates.npy", fates)

    @cached_property
    def _mixer(self) -> Mixer:
        read: dict[Path, int] = {}
        before = {}
        for number, (places, count) in enumerate(zip(self.shards, self.counts, strict=True)):
            for part, (place, lines) in enumerate(zip(places, count["lines"], strict=True)):
                before[number, part] = read.get(place.part.path, 0)
                read[place.part.path] = before[number, part] + lines
        return Mixer(
            config=self.config,
            out=self.out,
            shards=self.shards,
            before=before,
            kept=self.kept,
            keepers=open_array(self.work / "keepers.npy"),
            fates=open_array(self.work / "fates.npy"),
            first_runs=np.cumsum([0, *(count["runs"] for count in self.counts)]).tolist(),
        )

    def mix(self, number: int) -> None:
        self._mixer.shard(number)

    def finish(self, _: int = 0) -> None:
        """Add up what the shards came to, and remove what only the stages needed."""
        if not (self.out / REPORT).is_file():
            found = [
                json.loads((self.work / f"{number:06d}.mixed.json").read_text(encoding="utf-8"))
                for number in range(len(self.shards))
            ]
            whole = summary(self.config, self.corpus, self.work, self.counts, found)
            write_atomic(self.out / REPORT, json.dumps(whole, indent=1) + "\n")  # lone surrogates are escaped
        shutil.rmtree(self.work)

    def pieces(self, stage: str) -> list[int]:
        """A stage's pieces, by bytes of the corpus, of which ranges of keys have equal parts."""
        if stage in ("clean", "mix"):
            return self.sizes()
        if stage not in ("exact", "near"):
            return [0]
        count = len(self.exact_pieces() if stage == "exact" else self.near_pieces())
        return count * [sum(self.sizes()) // max(1, count)]


def prepare(stages: Stages) -> None:
    """Make the folders; write what the run is, and what all processes read. TrainError: it is another run's folder."""
    for folder in (WORK, DOCUMENTS, FATES, QUARANTINE):
        (stages.out / folder).mkdir(parents=True, exist_ok=True)
    for partial in stages.out.rglob("*.partial"):
        partial.unlink()
    spec = {
        "config": stages.config.model_dump(mode="json"),
        "corpus": list(map(str, stages.corpus)),
        "files": _files(stages),
    }
    if (stages.out / SPEC).is_file():
        old = _same_config(stages)
        for part in ("corpus", "files"):
            if old[part] != spec[part]:
                raise TrainError(
                    f"{stages.out}: was begun with other documents ({part} differs); give another --out, or delete it"
                )
    else:
        write_atomic(stages.out / SPEC, json.dumps(spec, indent=1) + "\n")
    if stages.config.decontaminate and not (stages.work / decontaminate.FILE).is_file():
        decontaminate.write_items(stages.config.decontaminate, stages.work)
    if stages.config.quality and not (stages.work / scores.FACTS).is_file():
        scores.train_quality(stages.config.quality, stages.config.text_field, stages.work)


def _files(stages: Stages) -> dict[str, Any]:
    """What the corpus is: it must not change between two halves of a run."""
    found = hashlib.sha256()
    paths = list(dict.fromkeys(place.part.path for shard in stages.shards for place in shard))
    for path in paths:
        state = path.stat()
        found.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return {"count": len(paths), "names_sizes_times": found.hexdigest()}


def _same_config(stages: Stages) -> dict[str, Any]:
    """What the folder was begun with. TrainError: other settings, or no run of ours."""
    out, path = stages.out, stages.out / SPEC
    old: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not {"corpus", "files", "config"} <= old.keys():
        raise TrainError(f"{out}: its {SPEC} is something else's; give another --out")
    for name, value in stages.config.model_dump(mode="json").items():
        if old["config"].get(name) != value:
            raise TrainError(
                f"{out}: was begun with {name} = {json.dumps(old['config'].get(name))}, now it is {json.dumps(value)};"
                " give another --out, or delete it"
            )
    return old


def run(config: DataConfig, corpus: Sequence[Path], out: Path, processes: int | None = None) -> dict[str, Any]:
    """Do all stages that are not done; returns what OUT/report.json holds.

    Raises TaskError or TrainError for what the user can mend: a corpus without documents, another run's folder.
    """
    stages = Stages(config, tuple(corpus), out)
    # where all is done, what was read need not be there any more
    total = 0 if (out / REPORT).is_file() else sum(stages.sizes())
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            _run(stages, processes or (cores() if total > QUIET_BYTES else 1))
    except Timeout as error:
        raise TrainError(f"{out}: another process is at work there; wait for it, or give another --out") from error
    whole: dict[str, Any] = json.loads((out / REPORT).read_text(encoding="utf-8"))
    if not whole["written"]["documents"]:
        named = f"; {whole['bad']['named'][0]}" if whole["bad"]["named"] else ""
        raise TrainError(f"{out}: no document was left of {whole['documents']}{named}; see {out / REPORT}")
    return whole


def _run(stages: Stages, processes: int) -> None:
    if (stages.out / REPORT).is_file():
        if _same_config(stages)["corpus"] != list(map(str, stages.corpus)):
            raise TrainError(f"{stages.out}: is finished, of other documents; give another --out, or delete it")
        if stages.work.is_dir():
            stages.finish()
        return
    prepare(stages)
    try:
        for stage in STAGES:
            sizes = stages.pieces(stage)
            shown = Meter(STAGES[stage], sum(sizes)) if sum(sizes) > QUIET_BYTES else nullcontext()
            with workers(min(processes, max(1, len(sizes))), _prepare, stages) as over, shown as meter:
                for size, _ in zip(sizes, over(_piece, [(stage, piece) for piece in range(len(sizes))]), strict=True):
                    if meter:
                        meter.finish_part(size)
    finally:
        _MINE.clear()  # one process alone is this one: with it go the models that score


_MINE: list[Stages] = []
"""This process's."""


def _prepare(stages: Stages) -> None:
    _MINE[:] = [stages]


def _piece(piece: tuple[str, int]) -> None:
    stage, number = piece
    getattr(_MINE[0], stage)(number)
