"""The target of a run behind an address that speaks the OpenAI chat protocol, on this machine alone, so that other
tools can attack it before and after it was made safer."""

from __future__ import annotations

import json
import math
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from luthier.errors import DataError
from luthier.generation.loaded import LoadedModels
from luthier.generation.rollout import Rollout, prompt_ids
from luthier.generation.writing import Request, Written, seed_of, whole
from luthier.models.settings import ModelSettings
from luthier.models.tensors import read_json
from luthier.redteaming.local_server import LocalHandler, LocalServer, local_server
from luthier.redteaming.reading import stage_folders
from luthier.storage.files import write_json
from luthier.storage.paths import is_there, user_path

TARGETS = "targets.json"
# Of a model that the library saved: it lies in no GGUF file and on no Hub.
PLAIN: dict[str, Any] = {"revision": None, "gguf_file": None}
_MOST_BYTES = 8 << 20
_MOST_TOKENS, _MOST_ANSWERS = 4096, 16
_NOT_THE_PROTOCOL = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, TemplateError)
When = Literal["before", "after"]


class ChatServer(LocalServer):
    """Answers with one model, one request after another.

    Attributes:
        address: up to and with `/v1`.
        name: of the model.
    """

    address: str = ""
    name: str = ""


def target_of(run: str | Path, when: When) -> ModelSettings:
    """The model that a `redteam` stage began with, or the one that it left.

    Raises:
        DataError: there is no such stage, or it is not finished.
    """
    stage = stage_folders(run)[-1]
    place = stage / TARGETS
    if not place.is_file():
        raise DataError("the stage has left no model yet", where=str(stage), fix="run the recipe again to finish it")
    found = ModelSettings.model_validate(read_json(place)[when])
    inside = stage / found.reference
    return found.model_copy(update={"reference": str(inside.resolve())}) if inside.is_dir() else found


def write_targets(stage: Path, before: ModelSettings, after: Path) -> None:
    """Note both models; one inside the stage by its place there, so that a run can be moved, and another one on this
    machine by its whole path."""
    models = {"before": before, "after": before.model_copy(update=PLAIN | {"reference": str(after)})}
    told = {}
    for when, model in models.items():
        path = user_path(model.reference)
        reference = model.reference
        if is_there(path):
            path = path.resolve()
            inside = path.is_relative_to(stage.resolve())
            reference = path.relative_to(stage.resolve()).as_posix() if inside else str(path)
        told[when] = model.model_copy(update={"reference": reference}).model_dump(mode="json")
    write_json(stage / TARGETS, told)


def chat_server(model: ModelSettings, port: int = 0, *, name: str = "target") -> ChatServer:
    """A server for `127.0.0.1`; call its `serve_forever`.

    Args:
        model: any causal language model or adapter that Luthier loads.
        port: 0 takes a free one.
        name: that it answers under; a request may name any.

    Raises:
        ModelError: the model can't be loaded.
        WorkspaceError: the port is taken.
    """
    loaded, tokenizer, reserved = LoadedModels().get(model)
    rollout, lock = Rollout(loaded, tokenizer, reserved=reserved), threading.Lock()

    class Handler(LocalHandler):
        def do_GET(self) -> None:  # noqa: N802
            if self.path.rstrip("/") == "/v1/models" and self.is_local:
                return self._answer(HTTPStatus.OK, {"object": "list", "data": [{"id": name, "object": "model"}]})
            return self._refuse(HTTPStatus.NOT_FOUND, "there is /v1/models and /v1/chat/completions")

        def do_POST(self) -> None:  # noqa: N802
            if self.path.rstrip("/") != "/v1/chat/completions" or not self.is_local:
                return self._refuse(HTTPStatus.NOT_FOUND, "there is /v1/models and /v1/chat/completions")
            try:
                requests, most = asked(json.loads(self.content(_MOST_BYTES)))
                # A prompt that is too long would lose its start, and the answer be one to another prompt.
                long = len(prompt_ids(requests[:1], tokenizer, 1 << 30, 0)[0])
                if long >= rollout.limit:
                    raise ValueError(f"the prompt has {long} tokens, and the model reads {rollout.limit}")
            except _NOT_THE_PROTOCOL as error:
                return self._refuse(HTTPStatus.BAD_REQUEST, str(error) or type(error).__name__)
            try:
                with lock:
                    found = {
                        one.id: one for part in rollout.write(requests, min(most, rollout.limit - long)) for one in part
                    }
            except Exception as error:  # the next request may be a better one
                why = f"the model can't answer this: {type(error).__name__}"
                return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, why)
            return self._answer(HTTPStatus.OK, answered([found[one.id] for one in requests], name))

        def _refuse(self, status: HTTPStatus, why: str) -> None:
            self._answer(status, {"error": {"message": why, "type": "invalid_request_error"}})

        def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
            self.answer(status, "application/json", json.dumps(content).encode())

    server = local_server(ChatServer, port, Handler)
    server.address, server.name = f"http://127.0.0.1:{server.server_address[1]}/v1", name
    return server


def asked(body: dict[str, Any]) -> tuple[list[Request], int]:
    """The texts that a request asks for, and how long they may be.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is none of the chat protocol, or asks for a stream.
    """
    if body.get("stream"):
        raise ValueError("answers come whole: leave out `stream`")
    said = [(str(one["role"]), _text(one["content"])) for one in body["messages"]]
    system = "\n\n".join(text for role, text in said if role in ("system", "developer"))
    turns = [(role, text) for role, text in said if role not in ("system", "developer")]
    if not turns or turns[-1][0] != "user":
        raise ValueError("the last message has to be the user's")
    most = int(body.get("max_completion_tokens") or body.get("max_tokens") or 256)
    count, seed = int(body.get("n") or 1), body.get("seed")
    if not (0 < most <= _MOST_TOKENS and 0 < count <= _MOST_ANSWERS):
        raise ValueError(f"at most {_MOST_ANSWERS} answers of at most {_MOST_TOKENS:,} tokens")
    heat, share = _number(body, "temperature", 0.7), _number(body, "top_p", 0.9)
    if not (0 <= heat < math.inf and 0 < share <= 1):
        raise ValueError("temperature is from 0 on, and top_p above 0 and at most 1")
    # Without a seed the same question gets the same answers: a scan can be repeated.
    first = int(seed) if seed is not None else seed_of(json.dumps(body["messages"], sort_keys=True))
    last, before = turns[-1][1], tuple(turns[:-1])
    return [Request(str(k), last, system, heat, share, first + k, turns=before) for k in range(count)], most


def answered(texts: list[Written], name: str) -> dict[str, Any]:
    """The answer of the chat protocol."""
    read, written = sum(one.prompt_tokens for one in texts), sum(one.tokens for one in texts)
    return {
        "id": "chatcmpl-luthier",
        "object": "chat.completion",
        "created": 0,
        "model": name,
        "choices": [
            {
                "index": place,
                "message": {"role": "assistant", "content": one.text},
                "finish_reason": "length" if one.cut_off else "stop",
            }
            for place, one in enumerate(texts)
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _text(content: Any) -> str:
    """A message's text; clients may send it in parts."""
    return whole(content if isinstance(content, str) else "".join(str(part["text"]) for part in content))


def _number(body: dict[str, Any], name: str, otherwise: float) -> float:
    return otherwise if body.get(name) is None else float(body[name])
