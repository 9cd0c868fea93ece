"""What a run says of itself: `log.jsonl`, a line per step, and TensorBoard's files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from qwen_train.errors import TrainError

LOG = "log.jsonl"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line that a kill cut off is left out."""
    path = folder / LOG
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise TrainError(f"{path}: line {number} is not JSON ({error}); mend or delete the line") from error
    return found


class Log:
    """Appends to a run's log, and drops lines behind step `start`, of a run that went further than its checkpoint."""

    def __init__(self, folder: Path, start: int) -> None:
        from tensorboard.summary import Writer

        folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_log(folder) if row["step"] <= start]
        self.resumed_with = {row["kind"] for row in kept if row["step"] == start}
        """What it says of the step already."""
        path = folder / LOG
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = Writer(str(folder / "tensorboard"))

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """One line: `kind` is "train", a check's name, or "changed" where a run goes on with other settings."""
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._board.add_scalar(f"{kind}/{name}", float(value), step)
