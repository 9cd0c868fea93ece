"""A small OpenAI-compatible server around a tiny checkpoint, computed by transformers, with faults on demand."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from qwen_model.checkpoint import load_tokenizer


class Served:
    """The model, what was asked so far, and what goes wrong next."""

    def __init__(self, folder: Path, ways: tuple[str, ...] = ("echo", "prompt_logprobs")) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.tokenizer = load_tokenizer(folder)
        self.ways = ways
        self.faults: list[tuple] = []
        """For the requests to come, in order: (status, headers), ("json",), ("sleep", seconds), ("drop",)."""
        self.asked: list[tuple[float, str, dict, dict]] = []
        """Time, path, body and headers of every request but those for the list of models."""
        self.under_way = self.most = 0
        self.lock, self.computing = threading.Lock(), threading.Lock()

    @torch.inference_mode()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        return self.model(torch.tensor([ids])).logits[0].log_softmax(-1)

    def write(self, ids: list[int], body: dict) -> tuple[str, str, str | None, int]:
        """Greedy, or drawn by the seed: text, finish_reason, stop_reason, tokens."""
        generator = torch.Generator().manual_seed(body.get("seed") or 0)
        written: list[int] = []
        stops = body.get("stop") or []
        while len(written) < body["max_tokens"]:
            logits = self.logprobs(ids + written)[-1]
            if body["temperature"]:
                probabilities = (logits / body["temperature"]).softmax(-1)
                token = int(torch.multinomial(probabilities, 1, generator=generator))
            else:
                token = int(logits.argmax())
            if token in self.tokenizer.eos_ids:
                return self.tokenizer.decode(written), "stop", None, len(written) + 1
            written.append(token)
            text = self.tokenizer.decode(written)
            for stop in stops:
                if stop in text:
                    return text[: text.index(stop)], "stop", stop, len(written)
        return self.tokenizer.decode(written), "length", None, len(written)

    def answer(self, path: str, body: dict) -> dict:
        if path.endswith("/chat/completions"):
            ids = self.tokenizer.encode_chat([(m["role"], m["content"]) for m in body["messages"]], "")
            text, finish, stop, count = self.write(ids, body)
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish, "stop_reason": stop}
            return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": count}}
        ids = body["prompt"] if isinstance(body["prompt"], list) else self.tokenizer.encode(body["prompt"])
        text, finish, stop, count = self.write(ids, body)
        choice = {"text": text, "finish_reason": finish, "stop_reason": stop, "logprobs": None}
        if body.get("echo") and "echo" in self.ways:
            rows = self.logprobs(ids)
            tokens = [self.tokenizer.decode([token]) for token in ids]
            own = [None] + [float(rows[place - 1, token]) for place, token in enumerate(ids) if place]
            best = [None] + [{"best": float(rows[place].max())} for place in range(len(ids) - 1)]
            choice["text"] = "".join(tokens) + text
            choice["logprobs"] = {"tokens": [*tokens, text], "token_logprobs": [*own, -0.1]}
            choice["logprobs"]["top_logprobs"] = [*best, {"best": -0.1}]
        if body.get("prompt_logprobs") and "prompt_logprobs" in self.ways:
            rows = self.logprobs(ids)
            entries: list[dict | None] = [None]
            for place, token in enumerate(ids[1:]):
                order = rows[place].argsort(descending=True).tolist()
                both = [(token, order.index(token) + 1), (order[0], 1)]
                entries.append(
                    {
                        str(one): {
                            "logprob": float(rows[place, one]),
                            "rank": rank,
                            "decoded_token": self.tokenizer.decode([one]),
                        }
                        for one, rank in both
                    }
                )
            choice["prompt_logprobs"] = entries
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": count}}


@contextmanager
def serving(served: Served):
    """The server's base address while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            models = [{"id": "tiny", "object": "model", "max_model_len": 2048}]
            self.reply(200, json.dumps({"object": "list", "data": models}).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with served.lock:
                served.asked.append((time.monotonic(), self.path, body, dict(self.headers)))
                served.under_way += 1
                served.most = max(served.most, served.under_way)
                fault = served.faults.pop(0) if served.faults else ()
            try:
                if fault and fault[0] == "sleep":
                    time.sleep(fault[1])
                elif fault and fault[0] == "drop":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                elif fault and fault[0] == "json":
                    self.reply(200, b'{"choices": [{"te')
                    return
                elif fault:
                    self.reply(fault[0], b'{"error": {"message": "as the test\\nasked for"}}', fault[1])
                    return
                with served.computing:
                    answer = json.dumps(served.answer(self.path, body)).encode()
                self.reply(200, answer)
            finally:
                with served.lock:
                    served.under_way -= 1

        def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError, ValueError):  # a client that gave up, a connection that a test closed
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
