"""A small sweep's folder, as `harness ablate` writes it."""

from __future__ import annotations

import json
from pathlib import Path

ROWS = (
    "none,2048,6,1.2,3.3,3.0,3.6,1,10",
    "none,4096,6,3,20,15,30,1,10",
    "ntk,2048,6,1.2,3.5,3.0,3.6,1,10",
    "ntk,12288,6,1.2,3.4,3.0,3.6,1,10",
)


def write_sweep(folder: Path, rows: tuple[str, ...] = ROWS) -> Path:
    folder.mkdir(exist_ok=True)
    head = "cell,length,documents,nll,perplexity,low,high,seconds,peak_mb"
    (folder / "cells.csv").write_text("\n".join([head, *rows]) + "\n")
    names = list(dict.fromkeys(row.split(",")[0] for row in rows))
    cells = [{"name": name, "train_length": 2048, "failed": None} for name in names]
    (folder / "sweep.json").write_text(json.dumps({"cells": cells, "runs": []}))
    return folder
