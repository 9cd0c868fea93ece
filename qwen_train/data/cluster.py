"""The stages of `qwen-train data` as datatrove blocks, for its executors: local, Slurm, Ray (extra `cluster`).

    from datatrove.executor import SlurmPipelineExecutor
    options = {"time": "10:00:00", "partition": "cpu"}
    executors(config, corpus, out, tasks=500, executor=SlurmPipelineExecutor, **options)[-1].run()

Each executor waits for the one before it. The files are those of `qwen-train data`, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from qwen_train.data.config import DataConfig
from qwen_train.data.pipeline import STAGES, Stages, prepare


class Stage(PipelineStep):  # type: ignore[misc]
    """The pieces of one stage that fall to a task."""

    type = "qwen-train data"

    def __init__(self, stages: Stages, stage: str) -> None:
        self.name = stage
        super().__init__()
        self.stages = stages

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """Passes no documents on: they are in files."""
        for piece in range(rank, len(self.stages.pieces(self.name)), world_size):
            with self.track_time("piece"):
                getattr(self.stages, self.name)(piece)
            self.stat_update("pieces")
        yield from ()


def executors(
    config: DataConfig,
    corpus: Sequence[Path],
    out: Path,
    *,
    tasks: int,
    executor: Any = LocalPipelineExecutor,
    **options: Any,
) -> list[Any]:
    """One executor for each stage; running the last runs all. `out` is on a disk that every task sees.

    `options` go to the executor's class. Writes the run's settings, and raises TrainError in another run's folder.
    """
    stages = Stages(config, tuple(corpus), out)
    prepare(stages)
    made: list[Any] = []
    for stage in STAGES:
        single = stage in ("mark", "resolve", "finish")
        made.append(
            executor(
                pipeline=[Stage(Stages(config, tuple(corpus), out), stage)],
                tasks=1 if single else tasks,
                depends=made[-1] if made else None,
                logging_dir=str(out / "logs" / stage),
                **options,
            )
        )
    return made
