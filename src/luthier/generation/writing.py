"""What writes texts: the request, the answer, and the contract of a back end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """One text to be written.

    Attributes:
        id: of what will be written.
        prompt: the user's turn.
        system: what stands in place of the system's text; empty for none.
        turns: what was said before, as (role, text).
        temperature: 0 takes the likeliest token.
        top_p: of nucleus sampling.
        seed: of the samples of this text alone, so that they depend on no batch.
        begins: what the text begins with; a model in this process goes on from there. The protocol of endpoints has no
            such thing, so that they leave it to the model.
        chat: whether the model's chat template writes the prompt, where it has one; else the model goes on from the
            prompt as it stands, which endpoints do not offer here.
    """

    id: str
    prompt: str
    system: str = ""
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0
    begins: str = ""
    chat: bool = True
    turns: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """Everything that was said, as chat templates and servers take it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        before = [{"role": role, "content": text} for role, text in self.turns]
        return [*system, *before, {"role": "user", "content": self.prompt}]


@dataclass(frozen=True)
class Written:
    """One text that was written.

    Attributes:
        cut_off: whether it ended because no more tokens were allowed.
        tokens, prompt_tokens: written, and read.
    """

    id: str
    text: str
    cut_off: bool
    tokens: int = 0
    prompt_tokens: int = 0


class Writer(Protocol):
    """A back end. `write` gives texts in parts, each when it is done; the parts depend on the requests alone.

    `skip` holds ids that need not be written: a part in which every id is there is left out.
    """

    def write(
        self, requests: Sequence[Request], max_new_tokens: int, skip: frozenset[str] = frozenset()
    ) -> Iterator[list[Written]]: ...


def seed_of(*parts: Any) -> int:
    """A seed that depends on the parts alone: of the run, the round, the parent, the number of the sample."""
    text = "\0".join(map(str, parts)).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def whole(text: str) -> str:
    """Text without halves of characters, which servers and files may send, and which no model can be trained on."""
    return text.encode("utf8", "replace").decode("utf8")


def text_id(*texts: str) -> str:
    """12 hexadecimal digits that stand for some texts."""
    return hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()[:12]
