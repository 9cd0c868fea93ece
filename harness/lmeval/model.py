"""Our engine as a model of lm-evaluation-harness: `lm_eval.simple_evaluate(model=LmEvalModel("NAME"), tasks=...)`.

lm-eval hands over all requests of a kind together: they are planned as one, what they share is read once, and texts are
written side by side. What is encoded, cut off in front and cut off behind is as in its `hf` model (lm-eval 0.4.13).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from harness.backends import set_threads
from harness.lmeval.tasks import MAX_TOKENS, decoding
from harness.records import canonical
from qwen_model import ModelError, load_model, load_tokenizer
from qwen_model.checkpoint import find_checkpoint
from qwen_model.config import read_json
from qwen_model.generation import SLOTS, Generator, Request
from qwen_model.prefill import CausalLM, Reader
from qwen_model.sampling import Sampling
from qwen_model.scoring import Continuation, score
from tasks.api import TaskError

if TYPE_CHECKING:
    from qwen_model.decoder import Decoder

NAME = "qwen-harness"
"""Of this model in lm-eval's registry, once this module is imported."""

ANY_DEVICE = "cuda:0"
"""What lm-eval's command line asks for unless told otherwise: a GPU where there is one, as its `hf` model takes it."""

_OWN_SETTINGS = ("top_k", "repetition_penalty")
"""Generation settings that a task's `Decoding` has not."""


@register_model(NAME)
class LmEvalModel(TemplateLM):  # type: ignore[misc]
    """All three of lm-eval's request types on our engine."""

    def __init__(
        self,
        model: str | Decoder | None = None,
        *,
        pretrained: str | None = None,
        backend: str = "native",
        dtype: str = "float32",
        device: str | None = None,
        max_length: int | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
        trust_remote_code: object = None,
        **unknown: object,
    ) -> None:
        """`model` is a catalogue name, a folder, a .gguf file or a decoder of `load_model`; `pretrained` says the same,
        as in lm-eval's `hf`. `backend` is native or hf, `max_length` the tokens to read at once, by default those that
        the model was trained at.

        lm-eval passes the last three to every model: batches are sized by tokens here, and a model's folder runs no
        code. Raises ModelError or DownloadError, one line that names the remedy.
        """
        super().__init__()
        if unknown:
            raise ModelError(
                f"model_args: {', '.join(sorted(unknown))} unknown; there are model, backend, dtype, device, max_length"
            )
        named = pretrained if model is None else model
        if named is None or None not in (model, pretrained):
            raise ModelError("model_args: name one model, such as model=qwen2.5-coder-0.5b-instruct or model=FOLDER")
        if device is None or (device == ANY_DEVICE and not torch.cuda.is_available()):
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._checkpoint = find_checkpoint(named) if isinstance(named, str) else named.checkpoint
        self._model: CausalLM = self._loaded(backend, dtype, device) if isinstance(named, str) else named
        self._device = self._model.device
        self._codec = load_tokenizer(self._checkpoint)
        self.max_length = max_length or self._model.train_length
        named_end = self._codec.config.get("eos_token") or self._codec.begin()[0]
        self._end = str(named_end["content"] if isinstance(named_end, dict) else named_end)
        generation = read_json(self._checkpoint.folder / "generation_config.json")
        # transformers' generate, and with it lm-eval's `hf`, punishes repetition in greedy decoding too
        self._penalty = float(generation.get("repetition_penalty") or 1.0)
        self._encode = functools.lru_cache(maxsize=4096)(self._encoded)

    def _loaded(self, backend: str, dtype: str, device: str) -> CausalLM:
        set_threads()
        if backend == "native":
            return load_model(self._checkpoint, dtype, device)
        if backend == "hf":
            from harness.hf import HFModel

            return HFModel(self._checkpoint.folder, dtype, device)
        raise ModelError(
            f"model_args: backend {backend!r} is not native or hf; lm-eval has models of its own for others"
        )

    def _reader(self) -> Reader:
        """A fresh one for each call: between calls no keys are held."""
        return Reader(self._model)

    # --- what lm-eval asks of every model ----------------------------------------------------------------------------

    @property
    def prefix_token_id(self) -> int:
        return self._codec.begin()[1]

    @property
    def eot_token_id(self) -> int:
        return self._codec.encode_rendered(self._end)[0]

    @property
    def max_gen_toks(self) -> int:
        return MAX_TOKENS

    @property
    def tokenizer_name(self) -> str:
        """Part of the key under which lm-eval keeps requests."""
        return str(self._checkpoint.folder.resolve()).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """For `config` in lm-eval's results file."""
        return {
            "model_num_parameters": sum(weight.numel() for weight in self._model.parameters()),
            "model_dtype": str(self._model.dtype),
            "model_revision": "",
            "model_sha": self._checkpoint.fingerprint,
        }

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self._codec.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation's text; without `add_generation_prompt` its last message is the answer's beginning.

        A template that refuses a system message gets the conversation without it, as in lm-eval's `hf`.
        """
        messages = [(message["role"], message["content"]) for message in chat_history]
        prefill = "" if add_generation_prompt else messages.pop()[1]
        try:
            return self._codec.render(messages, prefill)
        except ModelError:
            plain = [(role, text) for role, text in messages if role != "system"]
            if plain == messages:
                raise
            return self._codec.render(plain, prefill)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Token ids. Control tokens are read; a begin token is added where the tokenizer does so and none is there."""
        return list(self._encode(string, add_special_tokens is not False))

    def _encoded(self, text: str, begun: bool) -> tuple[int, ...]:
        added = self._codec.encode("") if begun and not text.startswith(self._codec.begin()[0]) else []
        return (*added, *self._codec.encode_rendered(text))

    # --- the three kinds of requests ---------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: object
    ) -> list[tuple[float, bool]]:
        """(nats, whether greedy) of each continuation; `TemplateLM.loglikelihood` has encoded them."""
        items = [self._fitted(before, after) for _, before, after in requests]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(items)
        with tqdm(total=len(items), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            for known in score(self._reader(), items):
                for index, scored in known:
                    found[index] = scored.logprob, scored.greedy
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], found[index])
                bar.update(len(known))
        return found

    def _fitted(self, before: Sequence[int], after: Sequence[int]) -> Continuation:
        """A continuation behind what the length leaves of its context. Raises TaskError for none, and too long ones."""
        room = self.max_length + 1 - len(after)
        if not after or room < 1:
            raise TaskError(f"a continuation of {len(after)} tokens cannot be scored by a model of {self.max_length}")
        return Continuation(tuple(before[-room:]) or (self.prefix_token_id,), tuple(after))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood (nats) of whole texts, in lm-eval's windows."""
        owners: list[int] = []
        items: list[Continuation] = []
        for place, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1):
                owners.append(place)
                items.append(self._fitted(*make_disjoint_window(window)))
        parts: list[list[float]] = [[] for _ in requests]
        left = Counter(owners)
        reader = self._reader()
        # logits of all of a long window's positions would not fit into memory
        long = [index for index, item in enumerate(items) if len(item.tokens) > reader.piece]
        short = [index for index, item in enumerate(items) if len(item.tokens) <= reader.piece]
        with tqdm(total=len(items), disable=disable_tqdm, desc="Running loglikelihood_rolling requests") as bar:

            def know(index: int, logprob: float) -> None:
                place = owners[index]
                parts[place].append(logprob)
                left[place] -= 1
                if not left[place]:
                    total = math.fsum(parts[place])
                    self.cache_hook.add_partial("loglikelihood_rolling", requests[place].args, total)
                bar.update()

            for known in score(reader, [items[index] for index in short]):
                for index, scored in known:
                    know(short[index], scored.logprob)
            for index in long:
                item = items[index]
                text = item.context + item.tokens
                know(index, math.fsum(map(math.fsum, reader.logprobs(text, len(text), len(item.context)))))
        return [math.fsum(part) for part in parts]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop string, an end token or the length, all written side by side."""
        texts = [""] * len(requests)
        stops: list[list[str]] = []
        by_ends: defaultdict[tuple[int, ...], list[Request[int]]] = defaultdict(list)
        asked_before: Counter[str] = Counter()
        for place, request in enumerate(requests):
            context, settings = request.args
            made = self._request(place, context, settings, asked_before)
            stops.append([*made.stop, self._end])
            by_ends[self._ends(stops[-1])].append(made)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for ends, group in by_ends.items():
                codec = copy.copy(self._codec)
                codec.eos_ids = ends
                generator: Generator[int] = Generator(self._model, codec, self._reader(), SLOTS)
                generator.add(group)
                while generator.busy:
                    for done in generator.step():
                        text = postprocess_generated_text(codec.decode(done.tokens), stops[done.key], None)
                        texts[done.key] = text
                        self.cache_hook.add_partial("generate_until", requests[done.key].args, text)
                        bar.update()
        return texts

    def _request(self, place: int, context: str, settings: Mapping[str, Any], before: Counter[str]) -> Request[int]:
        """What lm-eval's settings ask for. Raises TaskError for a setting that is not ours, and for too many tokens."""
        own = {name: settings[name] for name in _OWN_SETTINGS if name in settings}
        asked = decoding({name: value for name, value in settings.items() if name not in own})
        room = self.max_length - asked.max_tokens
        if room < 1:
            raise TaskError(
                f"max_gen_toks: {asked.max_tokens} tokens leave no room for a prompt in the model's {self.max_length}; "
                f"give --gen_kwargs max_gen_toks={self.max_length // 2}"
            )
        # lm-eval's --seed seeds torch; repeats of one request draw apart, and no draw hangs on the order
        key = f"{torch.initial_seed()}\0{context}\0{canonical(settings)}"
        before[key] += 1
        digest = hashlib.sha256(f"{key}\0{before[key]}".encode(errors="surrogatepass")).digest()
        return Request(
            key=place,
            prompt=tuple(self.tok_encode(context)[-room:]) or (self.prefix_token_id,),
            max_tokens=asked.max_tokens,
            stop=asked.stop,
            sampling=Sampling(
                temperature=asked.temperature,
                top_p=asked.top_p,
                seed=int.from_bytes(digest[:6], "big"),
                **{"repetition_penalty": self._penalty, **own},
            ),
        )

    def _ends(self, stop: Sequence[str]) -> tuple[int, ...]:
        """Tokens that end a text: the checkpoint's, and stop strings that are control tokens."""
        ids = [self._codec.encode_rendered(text) for text in stop]
        control = [found[0] for found in ids if len(found) == 1 and not self._codec.decode(found)]
        return tuple(dict.fromkeys((*self._codec.eos_ids, *control)))
