"""Texts from a server that speaks the OpenAI chat protocol, with retries, a rate limit and a budget."""

from __future__ import annotations

import http.client
import json
import logging
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.errors import ModelError, WorkspaceError
from luthier.generation.settings import EndpointSettings
from luthier.generation.writing import Request, Written
from luthier.progress import track
from luthier.storage.files import write_json

logger = logging.getLogger(__name__)
_MAY_PASS = (408, 409, 425, 429)  # and all that are the server's own
_OWN_FAULTS = 500
_LONGEST_WAIT = 60.0
_MOST_BYTES, _MOST_TOLD = 64 << 20, 1 << 16
# The status of an answer that says none; asked again, it may be another.
_ANY_OTHER = 502
# Why an answer ended, and how servers say that they refuse the prompt itself.
_FILTERED = "content_filter"
_FILTERS = (_FILTERED, "content_policy_violation", "ResponsibleAIPolicyViolation")
_LONGEST_REASON = 300
# Parts of an answer's content that are said; others are thoughts, pictures and so on.
_SAID = ("text", "refusal")


class _RefusedError(Exception):
    """An answer without a text: why, the status that it is like, and how long to wait."""

    def __init__(self, reason: str, code: int, retry_after: str | None = None, *, filtered: bool = False) -> None:
        super().__init__(reason)
        self.code, self.retry_after, self.filtered = code, retry_after, filtered


class Budget:
    """What was asked and spent, kept in a file, so that a stopped stage counts on.

    Args:
        settings: with the limits and prices.
        place: the file; None keeps it in memory.
    """

    def __init__(self, settings: EndpointSettings, place: Path | None = None) -> None:
        self.settings, self.place, self._lock = settings, place, threading.Lock()
        self.requests = self.tokens_in = self.tokens_out = 0
        if place is not None and place.is_file():
            known = json.loads(place.read_text(encoding="utf8"))
            self.requests, self.tokens_in, self.tokens_out = (
                int(known[k]) for k in ("requests", "tokens_in", "tokens_out")
            )

    @property
    def cost(self) -> float:
        """Spent so far, in the currency of the prices."""
        s = self.settings
        return (self.tokens_in * s.price_in + self.tokens_out * s.price_out) / 1e6

    def take(self) -> None:
        """Count a request before it is sent.

        Raises:
            WorkspaceError: nothing is left.
        """
        with self._lock:
            s = self.settings
            if self.requests >= s.max_requests:
                raise WorkspaceError(
                    f"the budget of {s.max_requests:,} requests is spent",
                    where=s.url,
                    fix="what was written is kept; raise `max_requests` of the endpoint and run again to go on",
                )
            if s.max_cost is not None and self.cost >= s.max_cost:
                raise WorkspaceError(
                    f"the budget of {s.max_cost:g} is spent ({self.cost:.4g})",
                    where=s.url,
                    fix="what was written is kept; raise `max_cost` of the endpoint and run again to go on",
                )
            self.requests += 1
            self._note()

    def spend(self, tokens_in: int, tokens_out: int) -> None:
        """Count what an answer used."""
        with self._lock:
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out
            self._note()

    def _note(self) -> None:
        if self.place is not None:
            found = {"requests": self.requests, "tokens_in": self.tokens_in, "tokens_out": self.tokens_out}
            write_json(self.place, found)


class Endpoint:
    """Writes with a server; see `luthier.generation.writing.Writer`.

    Args:
        settings: which one, and its limits.
        budget: shared by all that ask it; None starts one.
        sleep, clock: of waiting.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        budget: Budget | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self.budget = settings, budget or Budget(settings)
        self._sleep, self._clock, self._lock, self._next = sleep, clock, threading.Lock(), 0.0

    def write(
        self, requests: Sequence[Request], max_new_tokens: int, skip: frozenset[str] = frozenset()
    ) -> Iterator[list[Written]]:
        """Texts as they come, while as many as may be are asked at once. Where one fails no more are asked, and those
        that are under way still come.

        Raises:
            ModelError: the server refuses, or can't be reached after all tries.
            WorkspaceError: the budget is spent.
        """
        left = [one for one in requests if one.id not in skip]
        size = self.settings.at_once
        with track(f"asking {self.settings.model}", len(requests)) as bar, ThreadPoolExecutor(size) as pool:
            coming, failed, number = iter(left), None, len(requests) - len(left)
            under_way = {pool.submit(self.ask, request, max_new_tokens) for request in islice(coming, size)}
            while under_way:
                ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                done = []
                for one in ended:
                    try:
                        done.append(one.result())
                    except (ModelError, WorkspaceError) as error:
                        failed = failed or error
                if failed is None:
                    under_way |= {
                        pool.submit(self.ask, request, max_new_tokens) for request in islice(coming, len(ended))
                    }
                if done:
                    yield done
                number += len(done)
                bar.update(number)
            if failed is not None:
                raise failed

    def ask(self, request: Request, max_new_tokens: int) -> Written:
        """One text.

        Raises:
            ModelError: the server refuses, or can't be reached after all tries.
            WorkspaceError: the budget is spent.
        """
        body = {
            "model": self.settings.model,
            "messages": request.messages(),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": max_new_tokens,
            "seed": request.seed % (1 << 31),
        }
        found = self._post(body)
        try:
            choice = found["choices"][0]
            text = _text_of(choice["message"])
            usage = found.get("usage") or {}
            read, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            if min(read, written) < 0:
                raise ValueError
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ModelError(
                "the answer is none of the chat protocol", where=self.settings.url, fix="is it the right address?"
            ) from error
        if self.settings.max_cost is not None and not read + written and choice.get("finish_reason") != _FILTERED:
            raise ModelError(
                "the server does not say how many tokens it used, so that `max_cost` can't be kept",
                where=self.settings.url,
                fix="leave `max_cost` out, and cap `max_requests`",
            )
        self.budget.spend(read, written)
        return Written(request.id, text, choice.get("finish_reason") == "length", written, read)

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        reason = ""
        for number in range(self.settings.retries + 1):
            self._wait_for_turn()
            self.budget.take()
            try:
                return self._once(body)
            except _RefusedError as error:
                if error.filtered:
                    return {"choices": [{"message": {"content": ""}, "finish_reason": _FILTERED}]}
                reason = str(error)
                if error.code not in _MAY_PASS and error.code < _OWN_FAULTS:
                    break
                pause = _pause(number, error.retry_after)
            except (OSError, http.client.HTTPException) as error:
                why = f": {error.reason}" if isinstance(error, urllib.error.URLError) else ""
                reason, pause = f"no answer: {type(error).__name__}{why}", _pause(number, None)
            if number < self.settings.retries:
                logger.info("%s: %s; again in %.1f s", self.settings.url, reason, pause)
                self._sleep(pause)
        raise ModelError(
            f"the endpoint can't be used: {reason}",
            where=self.settings.url,
            fix="look at the server, the name of the model and `api_key`; what was written is kept",
        )

    def _once(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            _RefusedError: it is none, or says why there is none.
            OSError, HTTPException: the server can't be reached.
        """
        headers = {"Content-Type": "application/json"}
        if self.settings.api_key:
            headers["Authorization"] = f"Bearer {self.settings.api_key.strip()}"
        address = self.settings.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers, method="POST")
        end = self._clock() + self.settings.seconds
        try:
            with self._opener().open(request, timeout=self.settings.seconds) as answer:
                content = self._body(answer, end)
        except urllib.error.HTTPError as error:
            with suppress(OSError, http.client.HTTPException):
                raise _refusal(error.code, error.reason, error.read(_MOST_TOLD), error.headers) from None
            raise _refusal(error.code, error.reason, b"", error.headers) from None
        found = _mapping(content)
        if found is None:
            raise _RefusedError("what it answered is no JSON", _ANY_OTHER)
        if found.get("error") and "choices" not in found:
            raise _refusal(_code_of(found["error"]), "", content, None)
        return found

    def _body(self, answer: http.client.HTTPResponse, end: float) -> bytes:
        """All that is sent until a time; a server that sends a byte now and then would else hold a run for ever."""
        parts, size = [], 0
        while part := answer.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if self._clock() > end or size > _MOST_BYTES:
                raise TimeoutError
        return b"".join(parts)

    def _opener(self) -> urllib.request.OpenerDirector:
        """A proxy that the environment names gets nothing of what is for this machine."""
        direct = [urllib.request.ProxyHandler({})] if self.settings.is_here else []
        return urllib.request.build_opener(_NoRedirect, *direct)

    def _wait_for_turn(self) -> None:
        if self.settings.requests_per_minute is None:
            return
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + 60 / self.settings.requests_per_minute
        if start > now:
            self._sleep(start - now)


def _mapping(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text_of(message: dict[str, Any]) -> str:
    """What a message says: its content, or the texts among the parts of it; of one without any the refusal.

    Raises:
        TypeError, AttributeError: it is none of the protocol.
    """
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or part.get("refusal") or "" for part in content if part["type"] in _SAID)
    text = content or message.get("refusal") or ""
    if not isinstance(text, str):
        raise TypeError
    return text


def _code_of(told: Any) -> int:
    """The status that an error in an answer names."""
    code = str(told.get("code", told.get("status")) if isinstance(told, dict) else None)
    return int(code) if code.isdecimal() and 100 <= int(code) < 600 else 400


def _refusal(code: int, reason: str, content: bytes, headers: Any) -> _RefusedError:
    """Why a server gave no text, in its own words where it has some."""
    told = (_mapping(content) or {}).get("error")
    message = told.get("message") if isinstance(told, dict) else told
    shown = " ".join(str(message or "").split())[:_LONGEST_REASON]
    inner = told.get("innererror") if isinstance(told, dict) else None
    named = {str(one.get(key)) for one in (told, inner) if isinstance(one, dict) for key in ("code", "type")}
    return _RefusedError(
        f"it answered {' '.join(filter(None, [str(code), reason]))}" + (f": {shown}" if shown else ""),
        code,
        headers.get("Retry-After") if headers is not None else None,
        filtered=bool(named & set(_FILTERS)),
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server may not send the key, or an attack, to another address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _pause(number: int, asked: str | None) -> float:
    """Seconds to wait: what the server asks for, or twice as long each time, spread a little."""
    try:
        return min(_LONGEST_WAIT, max(0.0, float(asked or "")))
    except ValueError:
        return min(_LONGEST_WAIT, 0.5 * 2**number * (1 + random.random() / 4))
