"""The back end over HTTP, against a server that speaks the protocol: retries, rate limit, budget, refusals."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.errors import ModelError, RecipeError, WorkspaceError
from luthier.generation.asking import Asking
from luthier.generation.endpoint import Budget, Endpoint
from luthier.generation.settings import EndpointSettings
from luthier.generation.writing import Request, Written
from luthier.models.settings import ModelSettings
from luthier.redteaming.settings import PermittedEndpoint
from luthier.runs.runner import with_secrets
from luthier.settings import Settings
from luthier.storage.keys import digest_of


class Server:
    """Answers chat completions; `faults` are sent first, as (code, headers)."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, dict[str, str]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.ending = ""
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                with outer.lock:
                    fault = outer.faults.pop(0) if outer.faults else None
                    if fault is None:
                        outer.bodies.append(json.loads(content))
                        outer.keys.append(self.headers.get("Authorization"))
                if self.path != "/v1/chat/completions":
                    return self._send(404, {}, b"{}")
                if fault is not None:
                    return self._send(fault[0], fault[1], b'{"error": {"message": "busy"}}')
                said = outer.bodies[-1]["messages"][-1]["content"]
                answer = {
                    "id": "x",
                    "object": "chat.completion",
                    "choices": [
                        {
                            "index": 0,
                            "message": {
                                "role": "assistant",
                                "content": f"about {json.loads(content)['messages'][-1]['content']}" + outer.ending,
                            },
                            "finish_reason": "length" if "long" in said else "stop",
                        }
                    ],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
                }
                return self._send(200, {}, json.dumps(answer).encode())

            def _send(self, code: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(code)
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(content)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def settings(server: Server, **more: Any) -> PermittedEndpoint:
    return PermittedEndpoint(url=server.url, model="mine", **more)


def asked(count: int = 5) -> list[Request]:
    return [Request(f"r{i}", f"the kettle {i}", temperature=0.6, seed=i) for i in range(count)]


def written(endpoint: Endpoint, requests: list[Request], **more: Any) -> dict[str, Any]:
    return {one.id: one for part in endpoint.write(requests, 16, **more) for one in part}


def test_it_asks_as_the_protocol_says(server):
    requests = [*asked(), Request("s", "a long story", "be kind", 0.0)]
    found = written(Endpoint(settings(server, api_key="secret-key", at_once=1)), requests, skip=frozenset(["r1"]))
    assert set(found) == {"r0", "r2", "r3", "r4", "s"}
    assert found["r2"].text == "about the kettle 2"
    assert (found["r2"].cut_off, found["s"].cut_off) == (False, True)
    assert (found["r2"].tokens, found["r2"].prompt_tokens) == (5, 10)
    body = server.bodies[-1]
    assert body["messages"] == [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a long story"}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("mine", 16, 0.0)
    assert set(server.keys) == {"Bearer secret-key"}


def test_it_tries_again_after_faults_that_may_pass(server):
    server.faults = [(529, {}), (429, {"Retry-After": "7"}), (500, {})]
    waited: list[float] = []
    endpoint = Endpoint(settings(server, at_once=1), sleep=waited.append)
    assert written(endpoint, asked(1))["r0"].text == "about the kettle 0"
    assert len(waited) == 3
    assert waited[1] == 7
    assert waited[0] < waited[2]
    assert endpoint.budget.requests == 4


def test_it_does_not_try_again_after_a_refusal(server):
    server.faults = [(401, {})]
    endpoint = Endpoint(settings(server), sleep=lambda _: pytest.fail("it waited"))
    with pytest.raises(ModelError, match="401"):
        written(endpoint, asked(1))


def http(code: int, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return f"HTTP/1.1 {code} Reason\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.mark.parametrize(
    "error",
    [
        {"code": "content_filter", "message": "no"},
        {"code": None, "type": "content_filter"},
        {"code": "other", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
    ],
)
@pytest.mark.parametrize("code", [400, 200])
def test_a_prompt_that_the_server_refuses_has_an_empty_answer(error, code):
    talk = Talk(http(code, {"error": error}))
    endpoint = Endpoint(PermittedEndpoint(url=talk.url, model="m", max_cost=1.0, price_in=1.0), sleep=lambda _: None)
    found = written(endpoint, asked(2))
    assert {name: (one.text, one.cut_off) for name, one in found.items()} == {"r0": ("", False), "r1": ("", False)}
    assert talk.asked == endpoint.budget.requests == 2
    talk.socket.close()


@pytest.mark.parametrize(
    ("code", "error", "tries", "said"),
    [
        (400, {"message": "max_tokens is\n too large"}, 1, "it answered 400 Reason: max_tokens is too large"),
        (400, "what is this", 1, "it answered 400 Reason: what is this"),
        (200, {"code": 429, "message": "slow down"}, 3, "it answered 429: slow down"),
        (200, {"message": "unknown model"}, 1, "it answered 400: unknown model"),
    ],
)
def test_what_the_server_says_is_told(code, error, tries, said):
    talk = Talk(http(code, {"error": error}))
    endpoint = Endpoint(PermittedEndpoint(url=talk.url, model="m", retries=2, at_once=1), sleep=lambda _: None)
    with pytest.raises(ModelError, match=said):
        written(endpoint, asked(1))
    assert talk.asked == endpoint.budget.requests == tries
    talk.socket.close()


def test_a_key_that_ends_in_a_line_break_is_sent_without_it(server):
    written(Endpoint(settings(server, api_key="secret-key\n")), asked(1))
    assert server.keys == ["Bearer secret-key"]


def test_it_gives_up_after_the_last_try(server):
    server.faults = [(503, {})] * 3
    with pytest.raises(ModelError, match="503"):
        written(Endpoint(settings(server, retries=2), sleep=lambda _: None), asked(1))
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ModelError, match=r"no answer: URLError: .*refused"):
        written(Endpoint(settings(server, retries=1), sleep=lambda _: None), asked(1))


class Talk:
    """Sends what it is given to whoever connects, as it stands, and ends."""

    def __init__(self, *parts: bytes, pause: float = 0.0) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.asked = 0
        threading.Thread(target=self._serve, args=(parts, pause), daemon=True).start()

    def _serve(self, parts: tuple[bytes, ...], pause: float) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.asked += 1
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("parts", "pause", "said"),
    [
        ((b"\x00\x01 what is this\r\n\r\n",), 0.0, "no answer: BadStatusLine"),
        ((HEAD + b"Content-Length: 30\r\n\r\n<html>down for today</html>   ",), 0.0, "is no JSON"),
        ((HEAD + b'Content-Length: 500\r\n\r\n{"choices": [',), 0.0, "is no JSON"),
        ((HEAD + b"Content-Length: 4\r\n\r\n[42]",), 0.0, "is no JSON"),
        ((HEAD + b"Content-Length: 500\r\n\r\n", *[b" "] * 100), 0.02, "no answer: TimeoutError"),
    ],
)
def test_garbage_html_and_trickles_are_no_answers(parts, pause, said):
    talk = Talk(*parts, pause=pause)
    endpoint = Endpoint(
        PermittedEndpoint(url=talk.url, model="m", retries=1, seconds=0.1 if pause else 5, at_once=1),
        sleep=lambda _: None,
    )
    with pytest.raises(ModelError, match=said):
        written(endpoint, asked(1))
    assert talk.asked == endpoint.budget.requests == 2
    talk.socket.close()


def test_a_server_that_counts_no_tokens_can_not_keep_a_cap_on_money(server, monkeypatch):
    endpoint = Endpoint(settings(server, max_cost=1.0, price_in=1.0))
    answer = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
    monkeypatch.setattr(endpoint, "_once", lambda body: answer)
    with pytest.raises(ModelError, match="max_cost"):
        written(endpoint, asked(1))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            {"content": [{"type": "thinking", "thinking": []}, *[{"type": "text", "text": x} for x in ("He", "llo")]]},
            "Hello",
        ),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"content": None, "refusal": "I can't."}, "I can't."),
        ({"content": None, "tool_calls": [{}]}, ""),
        ({"content": 5}, None),
        ({"content": ["Hello"]}, None),
        ({"content": [{"type": "text", "text": 5}]}, None),
        ({"content": "Hello", "usage": float("inf")}, None),
    ],
)
def test_what_an_answer_says_in_every_form_of_the_protocol(server, monkeypatch, message, text):
    endpoint = Endpoint(settings(server))
    usage = {"prompt_tokens": message.pop("usage", 1)}
    monkeypatch.setattr(endpoint, "_once", lambda body: {"choices": [{"message": message}], "usage": usage})
    if text is not None:
        assert endpoint.ask(asked(1)[0], 8).text == text
        return
    with pytest.raises(ModelError, match="none of the chat protocol"):
        endpoint.ask(asked(1)[0], 8)


def test_two_models_of_one_server_have_budgets_of_their_own(server, tmp_path):
    asking = Asking(tmp_path)
    cheap, dear = (
        settings(server).model_copy(update={"model": name, "max_requests": n}) for name, n in (("a", 9), ("b", 2))
    )
    assert len(written(asking.writer_of(cheap, ModelSettings(reference="x"), ""), asked(4))) == 4
    with pytest.raises(WorkspaceError, match="budget of 2 requests"):
        written(asking.writer_of(dear, ModelSettings(reference="x"), ""), asked(4))
    assert len(list((tmp_path / "spent").iterdir())) == 2


def test_caps_and_keys_are_no_part_of_what_results_depend_on(server):
    first = LocalOrNot(backends=[settings(server, max_requests=5, api_key="a")])
    assert digest_of(first) == digest_of(
        LocalOrNot(backends=[settings(server, max_requests=50, api_key="b", at_once=1)])
    )
    assert digest_of(first) != digest_of(LocalOrNot(backends=[settings(server).model_copy(update={"model": "other"})]))


class LocalOrNot(Settings):
    """Settings with a back end deep inside."""

    backends: list[PermittedEndpoint]


def test_what_is_for_this_machine_goes_through_no_proxy(server, monkeypatch):
    proxy = Talk(http(200, {"choices": [{"message": {"content": "of the proxy"}}]}))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    assert Endpoint(settings(server)).ask(asked(1)[0], 8).text == "about the kettle 0"
    far = PermittedEndpoint(url="http://models.invalid/v1", model="m", may_test=True)
    assert Endpoint(far).ask(asked(1)[0], 8).text == "of the proxy"
    proxy.socket.close()


def test_it_follows_no_redirect(server):
    server.faults = [(302, {"Location": "http://example.invalid/"})]
    with pytest.raises(ModelError, match="302"):
        written(Endpoint(settings(server)), asked(1))


def test_the_budget_of_requests_ends_it_and_what_was_written_is_kept(server, tmp_path):
    s = settings(server, max_requests=4, at_once=2)
    kept: dict[str, Any] = {}
    endpoint = Endpoint(s, Budget(s, tmp_path / "spent.json"))
    parts = (one for part in endpoint.write(asked(), 16) for one in part)
    with pytest.raises(WorkspaceError, match="4 requests is spent"):
        kept.update((one.id, one) for one in parts)
    assert len(kept) == 4
    again = s.model_copy(update={"max_requests": 6})
    more = written(Endpoint(again, Budget(again, tmp_path / "spent.json")), asked(), skip=frozenset(kept))
    assert set(kept) | set(more) == {one.id for one in asked()}
    assert json.loads((tmp_path / "spent.json").read_text()) == {"requests": 5, "tokens_in": 50, "tokens_out": 25}


def test_a_slow_answer_keeps_no_other_waiting(server, monkeypatch):
    endpoint, last = Endpoint(settings(server, at_once=2)), threading.Event()

    def ask(request: Request, most: int) -> Written:
        if request.id == "r0":
            assert last.wait(10)
        if request.id == "r4":
            last.set()
        return Written(request.id, "", False)

    monkeypatch.setattr(endpoint, "ask", ask)
    assert set(written(endpoint, asked())) == {"r0", "r1", "r2", "r3", "r4"}


def test_the_budget_of_money_ends_it(server):
    s = settings(server, max_cost=1e-4, price_in=2.0, price_out=10.0, at_once=1)
    endpoint = Endpoint(s)
    with pytest.raises(WorkspaceError, match="is spent"):
        written(endpoint, asked())
    assert endpoint.budget.requests == 2  # 70 millionths each
    assert endpoint.budget.cost == pytest.approx(1.4e-4)


def test_the_rate_is_kept(server):
    now = [100.0]
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    endpoint = Endpoint(settings(server, requests_per_minute=30, at_once=1), sleep=sleep, clock=lambda: now[0])
    written(endpoint, asked(4))
    assert waited == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"url": "https://models.example.org/v1"}, "not this machine"),
        ({"url": "ftp://localhost/v1"}, "match"),
        ({"url": "http://localhost:1/v1", "max_cost": 1}, "price_in"),
        *[({"url": f"http://localhost:1/{path}"}, "no address has") for path in ("mod\u00e8le", "a b", "a\nb")],
        *[({"url": f"http://{host}/v1"}, "is no address") for host in ("localhost:80o0", "localhost:99999", "[::1")],
        ({"url": "http:///v1"}, "names no server"),
        *[({"url": "http://localhost:1/v1", "api_key": f"a{x}b"}, "no key has") for x in ("\u2013", "\n")],
        ({"url": "http://localhost:1/v1", "seconds": 1e12}, "86400"),
    ],
)
def test_what_is_refused(more, said):
    with pytest.raises(ValidationError, match=said):
        PermittedEndpoint(**{"model": "m", **more})
    PermittedEndpoint(url="https://models.example.org/v1", model="m", may_test=True)


def test_what_the_environment_fills_in_is_checked_once_it_is_there(monkeypatch):
    monkeypatch.setenv("LUTHIER_TEST_HOST", "localhost")
    monkeypatch.setenv("LUTHIER_TEST_KEY", "abcd\u2013efgh")
    written = {"url": "http://${env:LUTHIER_TEST_HOST}:8000/v1", "model": "m"}
    assert with_secrets(EndpointSettings(**written)).url == "http://localhost:8000/v1"
    with pytest.raises(RecipeError, match=r"`api_key` has .* no key has") as caught:
        with_secrets(EndpointSettings(**written, api_key="${env:LUTHIER_TEST_KEY}"))
    assert "efgh" not in f"{caught.value}{caught.value.__cause__}"
