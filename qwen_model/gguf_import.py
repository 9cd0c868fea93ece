"""GGUF to a checkpoint folder: dequantised once to float32 safetensors, config and tokenizer rebuilt beside it.

Every number is the one the file stores: quantised blocks are expanded exactly, and the output matrix and the embedding
stay apart where the file keeps them apart (quantised files often do, though the model tied them). Beside the numbers of
linear layers stands what they were expanded from, which decoding reads.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from qwen_model.config import ModelError
from qwen_model.gguf_file import GGUFFile, StoredTensor
from qwen_model.new_folder import new_folder
from qwen_model.qwen_tokenizer import SPLIT
from qwen_model.safetensors_writer import Outgoing, write_safetensors
from qwen_model.weight_files import CODES, SAFETENSORS, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

IMPORT_VERSION = 3
"""Raised when the same file would be written differently; part of the model's fingerprint."""

QUANTISATION = "gguf_quantisation"
"""Our field of the written config.json."""

QUANTISATIONS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
"""What tensors may be stored in."""

PIECE = 1 << 18
"""Numbers that are expanded at a time: what stays in a core's cache."""

_ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}
_LAYER_TENSORS = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    **{f"attn_{letter}.{kind}": f"self_attn.{letter}_proj.{kind}" for letter in "qkv" for kind in ("weight", "bias")},
}
_MODEL_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_DIGITS_THEN_BYTES: list[dict[str, Any]] = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
]
_QWEN_THEN_BYTES: list[dict[str, Any]] = [
    {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
]
# GGUF names the pre-tokenizer and drops the normaliser; Qwen's is NFC
_PRETOKENIZERS = {"qwen2": (_QWEN_THEN_BYTES, {"type": "NFC"}), "smollm": (_DIGITS_THEN_BYTES, None)}
_TURN_ENDS = ("<|endoftext|>", "<|im_end|>", "</s>")
_CONTROL = 3
_USER_DEFINED = 4


def import_gguf(source: Path, folder: Path, progress: Callable[[int, int], None]) -> None:
    """Write `folder` from the GGUF file `source`. `progress` is told the tensors done and their number.

    The folder appears whole or not at all, and memory holds a few pieces of one tensor at a time. Raises ModelError for
    a damaged file or one of an unknown kind.
    """
    try:
        with source.open("rb") as opened:
            file = GGUFFile(opened)
            config = _config(file.fields, {tensor.name for tensor in file.tensors}, source)
            tokenizer, tokenizer_config, eos = _tokenizer(file.fields, source)
            config["eos_token_id"] = eos
            named = _named(file, config, source)
            numbers, codes = _numbers(file, named), _codes(file, named)
            total, done = len(numbers) + len(codes), itertools.count()

            def counted(outgoing: Outgoing) -> Outgoing:
                def pieces() -> Iterator[memoryview]:
                    progress(next(done), total)
                    yield from outgoing.pieces()

                return replace(outgoing, pieces=pieces)

            with new_folder(folder, "free space or set HARNESS_CACHE to a larger disk") as made:
                write_safetensors(made / SAFETENSORS, {name: counted(numbers[name]) for name in numbers})
                write_safetensors(made / CODES, {name: counted(codes[name]) for name in codes})
                for name, value in (
                    ("config.json", config),
                    ("generation_config.json", {"eos_token_id": eos}),
                    ("tokenizer.json", tokenizer),
                    ("tokenizer_config.json", tokenizer_config),
                ):
                    (made / name).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
            progress(total, total)
    except ModelError:
        if not folder.is_dir():  # else another process finished the same conversion first
            raise
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError, struct.error) as error:
        raise ModelError(f"{source}: damaged or truncated GGUF ({error}); delete it and fetch it again") from error


def _config(fields: Mapping[str, Any], names: set[str], source: Path) -> dict[str, Any]:
    kind = fields["general.architecture"]
    if kind not in _ARCHITECTURES:
        raise ModelError(f"{source}: architecture {kind!r} is not one of {', '.join(_ARCHITECTURES)}")
    if "rope_freqs.weight" in names or f"{kind}.rope.scaling.type" in fields:
        raise ModelError(f"{source}: rope scaling is not supported; use a checkpoint without it")
    heads = int(fields[f"{kind}.attention.head_count"])
    width = int(fields[f"{kind}.embedding_length"])
    return {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": int(fields[f"{kind}.feed_forward_length"]),
        "num_hidden_layers": int(fields[f"{kind}.block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(fields.get(f"{kind}.attention.head_count_kv", heads)),
        "head_dim": int(fields.get(f"{kind}.attention.key_length", width // heads)),
        "rope_theta": float(fields.get(f"{kind}.rope.freq_base", 10000.0)),
        "rms_norm_eps": float(fields[f"{kind}.attention.layer_norm_rms_epsilon"]),
        "max_position_embeddings": int(fields[f"{kind}.context_length"]),
        "tie_word_embeddings": "output.weight" not in names,
        "hidden_act": "silu",
        QUANTISATION: _quantisation(fields),
    }


def _quantisation(fields: Mapping[str, Any]) -> str:
    """The file's own name of its quantisation, such as Q4_K_M."""
    import gguf

    if "general.file_type" not in fields:
        return "unknown"
    kind = gguf.LlamaFileType(int(fields["general.file_type"]))
    return str(kind.name).removeprefix("MOSTLY_").removeprefix("ALL_")


@dataclass(frozen=True, kw_only=True)
class _Named:
    """A tensor that has our name. `heads` is set where rows of heads are interleaved."""

    tensor: StoredTensor
    heads: int | None


def _named(file: GGUFFile, config: dict[str, Any], source: Path) -> dict[str, _Named]:
    named: dict[str, _Named] = {}
    for tensor in file.tensors:
        name = _tensor_name(tensor.name)
        if name is None:
            raise ModelError(f"{source}: tensor {tensor.name} is unknown in a {config['model_type']} model")
        if name in named:
            raise ModelError(f"{source}: tensor {tensor.name} is there twice; fetch the file again")
        if tensor.kind.name not in QUANTISATIONS:
            kinds = ", ".join(QUANTISATIONS)
            raise ModelError(f"{source}: tensor {tensor.name} is {tensor.kind.name}, not one of {kinds}")
        heads = None
        if config["model_type"] == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config["num_attention_heads" if name.endswith("q_proj.weight") else "num_key_value_heads"]
        named[name] = _Named(tensor=tensor, heads=heads)
    return named


def _numbers(file: GGUFFile, named: Mapping[str, _Named]) -> dict[str, Outgoing]:
    """All tensors in float32."""
    import numpy
    from gguf import quants

    def expand(kind: Any, rows: Array) -> Array:
        # gguf expands 16 rows at a time, which are too few; as one row these are expanded together
        return quants.dequantize(rows.reshape(1, -1), kind).astype(numpy.float32, copy=False)

    return {
        name: Outgoing(
            kind="F32", shape=one.tensor.shape, pieces=partial(_pieces, file, one, partial(expand, one.tensor.kind))
        )
        for name, one in named.items()
    }


def _codes(file: GGUFFile, named: Mapping[str, _Named]) -> dict[str, Outgoing]:
    """What the weights of linear layers were expanded from: NAME.codes, NAME.scales and perhaps NAME.mins."""
    import gguf

    from qwen_model import gguf_codes

    linear = {name: one for name, one in named.items() if name.endswith("_proj.weight")}
    head = "lm_head.weight"
    linear[head] = named[head if head in named else "model.embed_tokens.weight"]
    outgoing: dict[str, Outgoing] = {}
    for name, one in linear.items():
        kind = str(one.tensor.kind.name)
        if kind not in gguf_codes.KINDS:
            continue
        rows, size = one.tensor.shape
        grouped = rows, size // gguf_codes.GROUPS[kind]
        parts = [("codes", "I8", (rows, size), gguf_codes.codes), ("scales", "F32", grouped, gguf_codes.scales)]
        if kind in gguf_codes.WITH_MINS:
            parts.append(("mins", "F32", grouped, gguf_codes.mins))
        block_bytes = gguf.GGML_QUANT_SIZES[one.tensor.kind][1]
        for part, stored, shape, read in parts:
            convert = partial(_of_blocks, read, kind, block_bytes)
            outgoing[f"{name}.{part}"] = Outgoing(kind=stored, shape=shape, pieces=partial(_pieces, file, one, convert))
    return outgoing


def _of_blocks(read: Callable[..., Array], kind: str, block_bytes: int, rows: Array) -> Array:
    return read(kind, rows.reshape(-1, block_bytes))


def _pieces(file: GGUFFile, one: _Named, convert: Callable[[Array], Array]) -> Iterator[memoryview]:
    """What `convert` makes of a tensor's bytes (rows, bytes of a row), a few rows at a time."""
    import numpy

    tensor, heads = one.tensor, one.heads
    if heads is not None:
        # llama.cpp interleaves the rotated pairs of Llama's heads; ours are half-split
        rows = file.read(tensor, 0, tensor.rows)
        rows = rows.reshape(heads, -1, 2, tensor.row_bytes).swapaxes(1, 2).reshape(rows.shape)
    for start, stop in pieces(tensor.rows, max(1, PIECE // tensor.shape[-1])):
        some = file.read(tensor, start, stop) if heads is None else rows[start:stop]
        yield numpy.ascontiguousarray(convert(some)).data


def _tensor_name(name: str) -> str | None:
    if name in _MODEL_TENSORS:
        return _MODEL_TENSORS[name]
    prefix, _, rest = name.partition(".")
    layer, _, tail = rest.partition(".")
    if prefix != "blk" or tail not in _LAYER_TENSORS:
        return None
    return f"model.layers.{layer}.{_LAYER_TENSORS[tail]}"


def _tokenizer(fields: Mapping[str, Any], source: Path) -> tuple[dict[str, Any], dict[str, Any], list[int]]:
    """tokenizer.json, tokenizer_config.json and the end tokens of a byte-level BPE."""
    kind = fields.get("tokenizer.ggml.pre")
    if fields["tokenizer.ggml.model"] != "gpt2" or kind not in _PRETOKENIZERS:
        raise ModelError(f"{source}: tokenizer {kind!r} is not one of {', '.join(_PRETOKENIZERS)}")
    if fields.get("tokenizer.ggml.add_bos_token"):
        raise ModelError(f"{source}: a tokenizer that adds a begin token is not supported from GGUF; use the folder")
    steps, normalizer = _PRETOKENIZERS[kind]
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    special = [i for i, type_ in enumerate(types) if type_ in (_CONTROL, _USER_DEFINED)]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": tokens[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": types[i] == _CONTROL,
            }
            for i in special
        ],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            # control tokens too: those outside the vocabulary would be numbered anew
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in fields["tokenizer.ggml.merges"]],
        },
    }
    eos = int(fields["tokenizer.ggml.eos_token_id"])
    ends = [eos, *(i for i in special if tokens[i] in _TURN_ENDS and i != eos)]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": tokens[eos],
        "chat_template": fields.get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
    }
    return tokenizer, settings, ends
