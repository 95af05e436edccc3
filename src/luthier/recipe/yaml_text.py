"""YAML 1.2 with the line of every key, and duplicate keys found. `no` stays text and `1e-4` is a number."""

from __future__ import annotations

import io
import pathlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import RoundTripRepresenter

from luthier.errors import RecipeError
from luthier.recipe.problem import Problem
from luthier.recipe.yaml_limits import PlainConstructor, check_events, check_length, whole_text
from luthier.secrets import redact_values

Path = tuple[str | int, ...]
_OTHER_BREAK = re.compile("[\x85\u2028\u2029]")
_MERGE = "tag:yaml.org,2002:merge"
# On a command line a blank, the head of a block and an anchor are text, and so is a sign that YAML reads as a list, a
# mapping, a document or null.
_LONE = re.compile(r"\s+|[|>][^\n]*|[&*].*|[~:?-]|---|\.\.\.", re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s)#")


@dataclass
class YamlText:
    """Parsed YAML.

    Attributes:
        name: of the file, for messages.
        data: plain dicts, lists and scalars.
        lines: path of keys and indices -> 1-based line.
        problems: duplicate keys.
        overridden: path -> where its value comes from in place of the text.
        set_to: path -> the text that `--set` gives for it.
        folder: of the file; None for a text without one.
    """

    name: str
    data: Any
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    overridden: dict[Path, str] = field(default_factory=dict)
    set_to: dict[Path, str] = field(default_factory=dict)
    folder: pathlib.Path | None = None

    def override(self, path: Path, origin: str) -> None:
        """Note that a path now comes from elsewhere."""
        self.overridden[path] = origin

    def quoting(self, path: Path) -> str:
        """How to write text that looks like something else at a path; a shell takes quotes away."""
        if path not in self.set_to:
            return "write it in quotes"
        text = f'{".".join(map(str, path))}="{self.set_to[path].strip()}"'
        return f"write --set {shlex.quote(text)}"

    def place(self, path: Path) -> str:
        """`file:line` of the nearest enclosing key that the text has, or the override that it comes from."""
        origin = self._origin(path)
        if isinstance(origin, str):
            return origin
        return f"{self.name}:{origin}" if self.lines or origin > 1 else self.name

    def order(self, path: Path, line: int | None = None) -> tuple[int, int]:
        """What places are sorted by: those of the text by line, then those of overrides in their order."""
        origin = self._origin(path) if line is None else line
        return (0, origin) if isinstance(origin, int) else (1, list(self.overridden.values()).index(origin))

    def _origin(self, path: Path) -> int | str:
        """Line, or override, of the nearest enclosing key; what an override holds has no lines."""
        above = [path[:end] for end in range(len(path), 0, -1)]
        for one in above:
            if one in self.overridden:
                return self.overridden[one]
        for one in above:
            inside = [origin for below, origin in self.overridden.items() if below[: len(one)] == one]
            if one in self.lines or inside:
                return self.lines.get(one) or inside[0]
        return 1

    def resolve(self, location: tuple[int | str, ...]) -> tuple[Path, int | str | None]:
        """Turn a location of pydantic's, which also names union members, into a path of this text.

        Returns:
            The path as far as the text has it, and the last step of the location.
        """
        node, path = self.data, []
        for step in location:
            if (isinstance(node, dict) and step in node) or (isinstance(node, list) and isinstance(step, int)):
                node = node[step]  # type: ignore[index]
                path.append(step)
        return tuple(path), location[-1] if location else None


def parse_yaml(text: str, name: str) -> YamlText:
    """Parse YAML text.

    Raises:
        RecipeError: it is no YAML, or more than a recipe may hold; names the line.
    """
    check_length(text, name)
    yaml = _reader()
    try:
        check_events(_reader().parse(io.StringIO(text)), name)
        yaml.composer.warn_double_anchors = False
        root = yaml.compose(io.StringIO(text))
        result = YamlText(name, None)
        _walk(root, (), result)  # first, since construction puts what is merged among a mapping's own keys
        result.data = None if root is None else _unshared(yaml.constructor.construct_document(root))
    except RecipeError:
        raise
    except Exception as error:  # of the reader, or of what it builds
        raise _unreadable(error, text, name) from None
    return result


def parse_value(text: str) -> Any:
    """One value of a command line, read as YAML without comments; what is no YAML is taken as text, and so is what
    would be null for a reader of YAML alone, such as `|`. `\\t` is a tab."""
    if text == r"\t":
        return "\t"
    if _LONE.fullmatch(text):
        return text
    try:
        value = parse_yaml(text, "value").data
    except RecipeError:
        return text
    plain = not isinstance(value, dict | list) and not text.lstrip().startswith(("'", '"'))
    return text if plain and _COMMENT.search(text) else value


class _Written(RoundTripRepresenter):
    """Writes text that holds a line break of other alphabets than YAML's so that it is read again as it is."""

    def represent_text(self, text: str) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _OTHER_BREAK.search(text) else None)


_Written.add_representer(str, _Written.represent_text)


def dump_yaml(data: Any) -> str:
    """Plain data as YAML, keys in their order, with every secret in its texts blotted out before they are escaped."""
    yaml = YAML(pure=True)
    yaml.default_flow_style = False
    yaml.Representer = _Written
    yaml.allow_unicode = True
    yaml.width = 1 << 24  # folding loses blanks
    stream = io.StringIO()
    yaml.dump(redact_values(data), stream)
    return stream.getvalue()


def _reader() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = PlainConstructor
    yaml.allow_duplicate_keys = True
    return yaml


def _unreadable(error: Exception, text: str, name: str) -> RecipeError:
    mark = (error.problem_mark or error.context_mark) if isinstance(error, MarkedYAMLError) else None
    line = mark.line + 1 if mark else 1
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
    reason = error.problem if isinstance(error, MarkedYAMLError) else (str(error).splitlines() or [repr(error)])[0]
    return RecipeError(f"this is not YAML: {reason}", where=f"{name}:{line}", fix=_hint(text, mark, str(reason)))


def _walk(node: Any, path: Path, result: YamlText) -> None:
    if isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        merged: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                continue
            name = whole_text(key.value)
            line, below = key.start_mark.line + 1, (*path, name)
            if name in seen:
                what = f"the key is given twice, first in line {seen[name]}"
                fix = "merge them in one list: `<<: [*a, *b]`" if key.tag == _MERGE else "keep one of them"
                result.problems.append(Problem(below, what, fix, line=line))
            seen[name] = line
            if key.tag == _MERGE:
                merged |= dict.fromkeys(_keys_of(value), line)
                continue
            result.lines[below] = line
            _walk(value, below, result)
        for name, line in merged.items():
            result.lines.setdefault((*path, name), line)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            result.lines[(*path, index)] = value.start_mark.line + 1
            _walk(value, (*path, index), result)


def _keys_of(node: Any) -> Iterator[str]:
    """The keys of a mapping, or of several, those that are merged into it included."""
    if isinstance(node, SequenceNode):
        for one in node.value:
            yield from _keys_of(one)
    elif isinstance(node, MappingNode):
        for key, value in node.value:
            if key.tag == _MERGE:
                yield from _keys_of(value)
            elif isinstance(key, ScalarNode):
                yield whole_text(key.value)


def _unshared(value: Any) -> Any:
    """The value with a copy wherever an alias stands, so that one place can be changed without the others. It is no
    larger than `check_events` allows, which counts what aliases stand for."""
    if isinstance(value, dict):
        return {key: _unshared(below) for key, below in value.items()}
    return [_unshared(below) for below in value] if isinstance(value, list) else value


def _hint(text: str, mark: Any, reason: str) -> str:
    if "escape" in reason:
        return "a backslash begins an escape in double quotes: take single ones, or write a path with /"
    lines = text.splitlines()
    if mark and mark.line < len(lines) and "\t" in lines[mark.line]:
        return "indent with blanks, not with tabs"
    return "check the indentation, the colons and the brackets around this line"
