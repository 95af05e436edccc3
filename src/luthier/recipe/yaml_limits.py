"""What a recipe's YAML may hold: judged from the parser's events, before anything is built from them.

A few hundred bytes of YAML can stand for billions of nodes (an alias of aliases), for an endless one (an alias of
itself), or for Python objects (a tag).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    NodeEvent,
    ScalarEvent,
)

from luthier.errors import RecipeError

MOST_CHARACTERS = 100_000
MOST_LEVELS = 50
MOST_NODES = 10_000
MOST_DIGITS = 40
_TEXT_TAG = "tag:yaml.org,2002:str"
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def whole_text(text: str) -> str:
    """The text with each surrogate pair as the one character that it stands for: JSON writes emoji so."""
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)


class PlainConstructor(SafeConstructor):
    """Builds text, numbers, true, false, null, lists and mappings. A date is text."""

    def construct_yaml_str(self, node: Any) -> Any:
        return whole_text(super().construct_yaml_str(node))

    def construct_yaml_int(self, node: Any) -> Any:
        if len(node.value) > MOST_DIGITS:
            raise ConstructorError(None, None, f"a number of more than {MOST_DIGITS} digits", node.start_mark)
        try:
            return super().construct_yaml_int(node)
        except ValueError:
            raise ConstructorError(None, None, f"{node.value!r} is no number", node.start_mark) from None


PlainConstructor.add_constructor("tag:yaml.org,2002:int", PlainConstructor.construct_yaml_int)
PlainConstructor.add_constructor("tag:yaml.org,2002:str", PlainConstructor.construct_yaml_str)
PlainConstructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def check_length(text: str, name: str) -> None:
    """Refuse a text that is longer than any recipe, or that holds what no text holds.

    Raises:
        RecipeError: names the line.
    """
    if len(text) > MOST_CHARACTERS:
        raise RecipeError(
            f"the text has more than the {MOST_CHARACTERS:,} characters of the longest recipe",
            where=f"{name}:{_line_of(text, MOST_CHARACTERS)}",
            fix="is it the right file? Put data into files of their own, and name them in the recipe",
        )
    if (nul := text.find("\0")) >= 0:
        raise RecipeError(
            "there is a NUL byte", where=f"{name}:{_line_of(text, nul)}", fix="save the recipe as UTF-8 text"
        )


def check_events(events: Iterable[Any], name: str) -> None:
    """Refuse what is nested too deeply, grows too large through its aliases, or is more than plain data.

    Raises:
        RecipeError: names the line, and what to write instead.
        YAMLError: the text is no YAML.
    """
    check = _Check(name)
    try:
        for event in events:
            check.take(event)
    except (RecipeError, YAMLError):
        raise
    except Exception as error:  # the reader stumbles over some texts with an error of its own
        where = f"{name}:{check.line}"
        raise RecipeError(f"this is not YAML: {error}", where=where, fix="check this line and the next") from error


class _Check:
    def __init__(self, name: str) -> None:
        self.name = name
        self.line = 1
        self.documents = 0
        self.nodes = 0
        self.sizes: dict[str, int] = {}  # of the finished nodes that have an anchor, in nodes, aliases written out
        self.open: list[tuple[str | None, int]] = []  # anchors, and how many nodes there were before

    def take(self, event: Any) -> None:
        self.line = event.end_mark.line + 1
        if isinstance(event, DocumentStartEvent):
            self._start_document(event)
        elif isinstance(event, CollectionEndEvent):
            self._finish(*self.open.pop())
        elif isinstance(event, NodeEvent):
            self._add(event)

    def _add(self, event: Any) -> None:
        if isinstance(event, AliasEvent):
            if event.anchor not in self.sizes and any(event.anchor == anchor for anchor, _ in self.open):
                self._refuse(event, f"*{event.anchor} stands inside of what it means", "write the values out")
            self.nodes += self.sizes.get(event.anchor, 1)
        else:
            self._check_plain(event)
            self.open.append((event.anchor, self.nodes))
            self.sizes.pop(event.anchor, None)
            self.nodes += 1
            if isinstance(event, ScalarEvent):
                self._finish(*self.open.pop())
        if self.nodes > MOST_NODES:
            self._refuse(
                event, f"more than {MOST_NODES:,} values, those of aliases counted", "use fewer aliases (*name)"
            )
        if len(self.open) > MOST_LEVELS:
            self._refuse(event, f"nested more than {MOST_LEVELS} levels deep", "are there brackets too many?")

    def _finish(self, anchor: str | None, before: int) -> None:
        if anchor is not None:
            self.sizes[anchor] = self.nodes - before

    def _check_plain(self, event: Any) -> None:
        tag = str(event.tag) if event.tag else None
        if tag and not (tag == _TEXT_TAG and isinstance(event, ScalarEvent)):
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f"the tag {shown} is not allowed", "remove it; `!!str` or quotes make any value text")
        if isinstance(event, CollectionStartEvent):
            return
        if _NO_TEXT.search(whole_text(event.value)):
            self._refuse(event, "a NUL character, or half of a surrogate pair", "remove its escape (\\0, \\u…)")

    def _start_document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            self._refuse(event, "a second document begins", "remove the line ---; a file holds one recipe")
        if event.version and tuple(event.version) != (1, 2):
            version = ".".join(map(str, event.version))
            self._refuse(event, f"YAML {version} is asked for", "remove the %YAML line; recipes are YAML 1.2")

    def _refuse(self, event: Any, what: str, fix: str) -> None:
        raise RecipeError(what, where=f"{self.name}:{event.start_mark.line + 1}", fix=fix)


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
