"""A small inference server with the routes of vLLM and SGLang, which can be told to misbehave.

It computes with a model of transformers and samples with the library's own code.
"""

from __future__ import annotations

import copy
import json
import math
import threading
import warnings
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import torch
from peft import PeftModel
from safetensors.torch import load_file

from grpo_adapters.huggingface import Completion, SamplingConfig
from grpo_adapters.huggingface.decoding.decoder import DecodingTraits
from grpo_adapters.huggingface.decoding.generation import Drawing, sample_completions

HOST = "127.0.0.1"
Fault = str
"""What is done wrong with one of the next requests for completions:

``"error"`` answers 500, ``"refuse"`` 400, ``"hang"`` never answers, ``"cut"`` ends in the middle, ``"abort"`` gives up,
``"restart"`` forgets the weights before it answers, ``"no_log_probs"``, ``"nan"``, ``"foreign_token"``, ``"too_few"``,
``"other_words"`` answer with something else.
"""


class EngineServer:
    """The server, in a thread of its own.

    Args:
        model: what it serves.
        tokenizer: turns tokens into text.
        port: where; 0 for any that is free.
        max_length: tokens that it has room for.
        tells_raw: whether it tells log-probs of before temperature and filters.
        takes_adapters: whether it was started for adapters.
        is_open: whether the routes that weights are sent by are there.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        port: int = 0,
        max_length: int = 64,
        tells_raw: bool = False,
        takes_adapters: bool = True,
        is_open: bool = True,
    ) -> None:
        self.initial = model.eval()
        self.tokenizer = tokenizer
        self.port = port
        self.max_length = max_length
        self.tells_raw = tells_raw
        self.takes_adapters = takes_adapters
        self.is_open = is_open
        self.faults: deque[Fault] = deque()
        self.log: list[tuple[str, Any]] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.forget()

    def forget(self) -> None:
        """Be as when it was started."""
        self.model = copy.deepcopy(self.initial)
        self.adapters: dict[str, Any] = {}
        self.version = "default"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def requests(self, path: str) -> list[Any]:
        """What was sent to a route, in order."""
        return [body for own, body in self.log if own == path]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Answer, at the same address as before where there was one."""
        self.stopping.clear()
        self.http = _HTTPServer((HOST, self.port), self._handler())
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Answer no more, and forget the weights."""
        self.stopping.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
        self.forget()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # an answer would wait for the acknowledgement of its headers

            def do_GET(self) -> None:
                self.answer(None)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.answer(json.loads(content) if content else None)

            def answer(self, body: Any) -> None:
                address = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(address.query).items()}
                server.log.append((address.path, query or body))
                asks = address.path in ("/v1/completions", "/generate")
                fault = server.faults.popleft() if asks and server.faults else ""
                status, told = server.respond(address.path, body, fault)
                content = b"" if told is None else json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
                self.close_connection = fault == "cut" or server.stopping.is_set()

            def log_message(self, *arguments: Any) -> None: ...

        return Handler

    def respond(self, path: str, body: Any, fault: Fault) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        if self.stopping.is_set():
            return 503, None
        if fault == "error":
            return 500, {"error": {"message": "EngineCore encountered an issue"}}
        if fault == "refuse":
            return 400, {"error": {"message": "Token id 99 is out of vocabulary"}}
        if fault == "hang":
            self.stopping.wait(30)
        if fault == "restart":
            self.forget()
        routes: dict[str, Callable[[Any], Any]] = {
            "/health": lambda _: None,
            "/v1/models": self.models,
            "/v1/completions": lambda body: self.complete(body, fault),
            "/generate": lambda body: self.generate(body, fault),
        }
        if self.is_open:
            routes |= self.routes_of_weights()
        if path not in routes:
            return 404, {"detail": "Not Found"}
        with self.lock:
            try:
                return 200, routes[path](body)
            except LookupError as error:
                return 404, {"error": {"message": str(error.args[0])}}
            except Exception as error:
                return 500, {"error": {"message": f"Call to collective_rpc method failed: {error}"}}

    def routes_of_weights(self) -> dict[str, Callable[[Any], Any]]:
        """Those that are there in development mode."""
        routes: dict[str, Callable[[Any], Any]] = {
            "/weight_info": lambda _: {"weight_version": self.version},
            "/model_info": lambda _: {"weight_version": self.version},
            "/update_weight_version": lambda body: self.name_weights(body["new_version"]),
            "/collective_rpc": lambda body: self.load(body["kwargs"]["weights_path"]),
            "/update_weights_from_disk": self.update_from_disk,
            "/reset_prefix_cache": lambda _: {"success": True},
            "/get_world_size": lambda _: {"world_size": 1},
            "/finish_weight_update": lambda body: self.name_weights(body["weight_version"]),
        }
        if self.takes_adapters:
            routes["/v1/load_lora_adapter"] = self.load_adapter
            routes["/v1/unload_lora_adapter"] = lambda body: self.adapters.pop(body["lora_name"]) and None
        silent = ("pause", "resume", "wake_up", "sleep", "init_weight_transfer_engine", "start_weight_update")
        return routes | {f"/{name}": lambda _: None for name in (*silent, "update_weights")}

    def models(self, _: Any) -> Any:
        """The model and its adapters."""
        base = {"id": "small", "parent": None, "max_model_len": self.max_length}
        return {"data": [base, *({"id": name, "parent": "small"} for name in self.adapters)]}

    def name_weights(self, version: str) -> None:
        """Note which weights it has."""
        self.version = version

    def load(self, folder: str) -> Any:
        """Take weights over from a folder."""
        weights = {
            name: value for file in Path(folder).glob("*.safetensors") for name, value in load_file(file).items()
        }
        if not weights:
            raise OSError(f"no weights in {folder}")
        _, unexpected = self.model.load_state_dict(weights, strict=False)
        if unexpected:
            raise RuntimeError(f"no parameter {unexpected[0]}")
        return {"results": [None]}

    def load_adapter(self, body: Any) -> None:
        """Take an adapter over from a folder."""
        if not Path(body["lora_path"]).exists():
            raise LookupError(f"Loading lora failed: No adapter found for {body['lora_path']}")
        with warnings.catch_warnings():  # peft asks by a name that transformers gives up
            warnings.simplefilter("ignore", FutureWarning)
            adapted = PeftModel.from_pretrained(copy.deepcopy(self.model), body["lora_path"])
        self.adapters[body["lora_name"]] = adapted.eval()

    def update_from_disk(self, body: Any) -> Any:
        """As SGLang does."""
        try:
            self.load(body["model_path"])
        except (OSError, RuntimeError) as error:
            return {"success": False, "message": str(error)}
        self.version = body["weight_version"]
        return {"success": True, "message": "Succeeded to update model weights."}

    def sample(self, model: Any, prompt: list[int], count: int, seed: int | None, options: Any) -> list[Completion]:
        """Completions of a prompt."""
        generator = torch.Generator()
        _ = generator.seed() if seed is None else generator.manual_seed(seed)
        sampling = SamplingConfig(
            temperature=options["temperature"],
            top_k=options["top_k"] if options["top_k"] > 0 else None,
            top_p=options["top_p"],
            min_p=options["min_p"] or None,
            max_new_tokens=options["max_new_tokens"],
            stop_strings=tuple(options["stop"]),
            with_log_probs=True,
        )
        drawing = Drawing(model, self.tokenizer, options["stop_token_ids"], sampling, generator, DecodingTraits())
        [group] = sample_completions(drawing, [prompt], count)
        return [self.with_raw_log_probs(model, prompt, own) for own in group] if self.tells_raw else group

    @torch.no_grad()
    def with_raw_log_probs(self, model: Any, prompt: list[int], own: Completion) -> Completion:
        """The completion with log-probs of before temperature and filters."""
        tokens = torch.tensor([[*prompt, *own.token_ids]])
        log_probs = model(input_ids=tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        chosen = log_probs.gather(1, tokens[0, len(prompt) :, None]).squeeze(1).tolist()
        return Completion(own.token_ids, own.text, own.ended, tuple(chosen))

    def complete(self, body: Any, fault: Fault) -> Any:
        """As vLLM does."""
        if body["model"] not in ("small", *self.adapters):
            raise LookupError(f"The model `{body['model']}` does not exist.")
        model = self.adapters.get(body["model"], self.model)
        options = body | {"max_new_tokens": body["max_tokens"]}
        group = self.sample(model, body["prompt"], body["n"], body["seed"], options)
        if fault == "other_words":
            return {"text": "hello"}
        choices = [
            {
                "index": index,
                "text": own.text,
                "token_ids": [999] if fault == "foreign_token" else list(own.token_ids),
                "logprobs": None if fault == "no_log_probs" else {"token_logprobs": told(own, fault)},
                "finish_reason": "abort" if fault == "abort" else "stop" if own.ended else "length",
            }
            for index, own in enumerate(group)
        ]
        return {"model": body["model"], "choices": choices[1:] if fault == "too_few" else choices}

    def generate(self, body: Any, fault: Fault) -> Any:
        """As SGLang does."""
        params = body["sampling_params"]
        told = [
            {
                "output_ids": list(own.token_ids),
                "meta_info": {
                    "finish_reason": {"type": "abort" if fault == "abort" else "stop" if own.ended else "length"},
                    "output_token_logprobs": [
                        [value, token, None] for value, token in zip(own.log_probs or (), own.token_ids, strict=True)
                    ],
                    "weight_version": self.version,
                },
            }
            for own in self.sample(self.model, body["input_ids"], params["n"], None, params)
        ]
        return told if params["n"] > 1 else told[0]


def told(own: Completion, fault: Fault) -> list[float]:
    """The log-probs of a completion."""
    return [math.nan if fault == "nan" else value for value in own.log_probs or ()]


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone, or of a server that is stopped."""
