"""A target behind an OpenAI-compatible address answers what it writes without one."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from luthier.errors import DataError
from luthier.generation.endpoint import Endpoint
from luthier.generation.loaded import LoadedModels
from luthier.generation.rollout import Rollout
from luthier.generation.settings import EndpointSettings
from luthier.generation.writing import Request
from luthier.models.settings import ModelSettings
from luthier.redteaming.chat_server import ChatServer, asked, chat_server, target_of, write_targets


@pytest.fixture(scope="module")
def served(speaker) -> Iterator[ChatServer]:
    server = chat_server(ModelSettings(reference=str(speaker)), name="target-after")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def post(server: ChatServer, body: object, host: str = "") -> dict:
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    request = urllib.request.Request(server.address + "/chat/completions", json.dumps(body).encode(), headers)
    return json.loads(urllib.request.urlopen(request, timeout=30).read())


def test_answers_are_those_of_the_model_itself(served, speaker):
    requests = [
        Request("greedy", "how may i hide the kettle", temperature=0.0),
        Request("drawn", "tell me of the garden", "never hide it", temperature=0.9, top_p=0.95, seed=7),
        Request("later", "and the ladder", temperature=0.7, seed=3, turns=(("user", "hide it"), ("assistant", "no"))),
    ]
    model, tokenizer, reserved = LoadedModels().get(ModelSettings(reference=str(speaker)))
    alone = Rollout(model, tokenizer, reserved=reserved)
    expected = {one.id: one for part in alone.write(requests, 6) for one in part}
    endpoint = Endpoint(EndpointSettings(url=served.address, model="target-after"))
    for request in requests:
        assert endpoint.ask(request, 6) == expected[request.id]


def test_several_answers_of_one_request_differ_and_come_again(served):
    body = {"model": "x", "messages": [{"role": "user", "content": "how may i"}], "n": 4, "max_tokens": 6}
    first, again = post(served, body), post(served, body)
    texts = [one["message"]["content"] for one in first["choices"]]
    assert len(set(texts)) > 1
    assert texts == [one["message"]["content"] for one in again["choices"]]
    assert first["usage"]["total_tokens"] == first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]


def test_the_model_is_listed(served):
    found = json.loads(urllib.request.urlopen(served.address + "/models", timeout=30).read())
    assert [one["id"] for one in found["data"]] == ["target-after"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": [{"role": "user", "content": "hide"}], "stream": True}, "come whole"),
        ({"messages": [{"role": "assistant", "content": "hide"}]}, "last message"),
        ({"messages": [{"role": "user", "content": "hide"}], "n": 99}, "at most 16 answers"),
        ({"messages": [{"role": "user", "content": "hide"}], "temperature": -1}, "temperature"),
        ({"prompt": "hide"}, "messages"),
        ({"messages": [{"role": "user", "content": "hide"}], "max_tokens": float("inf")}, "infinity"),
        ({"messages": [{"role": "user", "content": "hide"}], "temperature": float("nan")}, "temperature"),
        ({"messages": [{"role": "user", "content": "hide it " * 99}], "max_tokens": 9}, "the model reads"),
        (["hide"], "list"),
    ],
)
def test_what_it_can_not_answer_is_refused_in_words(served, body, said):
    with pytest.raises(urllib.error.HTTPError) as error:
        post(served, body)
    assert error.value.code == 400
    assert said in json.loads(error.value.read())["error"]["message"]


def test_no_request_ends_it(served, speaker, capfd):
    half = {"messages": [{"role": "user", "content": "hide \ud83d"}], "max_tokens": 3}
    assert post(served, half)["choices"]
    nested = urllib.request.Request(served.address + "/chat/completions", b"[" * 100_000)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(nested, timeout=30)
    with socket.create_connection(served.server_address[:2]) as gone:
        gone.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 9\r\n\r\n{")
    assert post(served, half)["choices"]
    assert "Traceback" not in capfd.readouterr().err


def test_only_this_machine_is_answered(served):
    with pytest.raises(urllib.error.HTTPError) as error:
        post(served, {"messages": [{"role": "user", "content": "hide"}]}, host="evil.example:80")
    assert error.value.code == 404


def test_messages_in_parts_are_read():
    part = [{"type": "text", "text": "hide "}, {"type": "text", "text": "it"}]
    (request,), most = asked({"messages": [{"role": "user", "content": part}], "max_completion_tokens": 5, "seed": 2})
    assert (request.prompt, request.seed, most) == ("hide it", 2, 5)


def test_a_target_that_lies_outside_is_not_mistaken_for_one_inside(tmp_path, monkeypatch):
    """As where a recipe names its model by a relative path that the stage has, too."""
    monkeypatch.chdir(tmp_path)
    stage = tmp_path / "run" / "00-redteam"
    for folder in (stage / "model", stage / "seeds", tmp_path / "model"):
        folder.mkdir(parents=True)
    (stage / "seeds" / "train.jsonl").write_text("{}")
    write_targets(stage, ModelSettings(reference="model"), stage / "model")
    assert target_of(stage.parent, "before").reference == str(tmp_path / "model")
    assert target_of(stage.parent, "after").reference == str(stage / "model")
    write_targets(stage, ModelSettings(reference="hub:some/model"), stage / "model")
    assert target_of(stage.parent, "before").reference == "hub:some/model"


def test_both_targets_of_a_run_are_found_wherever_it_lies(tmp_path):
    stage = tmp_path / "run" / "00-redteam"
    for name in ("seeds", "start/model", "model"):
        (stage / name).mkdir(parents=True)
    (stage / "seeds" / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match="no model yet"):
        target_of(stage.parent, "after")
    write_targets(stage, ModelSettings(reference=str(stage / "start" / "model"), dtype="float32"), stage / "model")
    moved = tmp_path / "elsewhere"
    (tmp_path / "run").rename(moved)
    assert target_of(moved, "before").reference == str(moved / "00-redteam" / "start" / "model")
    assert target_of(moved, "after").reference == str(moved / "00-redteam" / "model")
    assert target_of(moved, "after").dtype == "float32"
