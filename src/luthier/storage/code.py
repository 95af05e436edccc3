"""Which source files a piece of work runs, and one digest over what they do. Nothing is imported to find that out.

A file counts by its syntax tree, without docstrings, comments and the descriptions of settings, so that an edit of the
documentation changes nothing. Followed are the imports of a module, those inside functions too, and the modules that
it names as text: `"module:function"`, and what it hands to `import_module` or `register_adapter_type`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import json
import os
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from luthier.storage.files import sha256_of
from luthier.storage.hashing import cache_directory
from luthier.storage.keys import digest_of
from luthier.storage.one_version import first_sight
from luthier.storage.provenance import version

# What shows results, compares them, names the version or makes keys changes no result.
IGNORED = (
    "luthier._version",
    "luthier.cli",
    "luthier.compare",
    "luthier.docs",
    "luthier.report",
    "luthier.stages.parts",
    "luthier.storage.code",
    "luthier.storage.nearby",
    "luthier.storage.provenance",
)
# What lies among these and makes numbers that are kept with a stage's results.
COUNTED = ("luthier.report.intervals", "luthier.report.statistics")
# Distributions that compute wherever something runs, and those that do where a module imports them.
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers")
WHERE_IMPORTED = {
    "lm_eval": "lm-eval",
    "scipy": "scipy",
    "seqeval": "seqeval",
    "sklearn": "scikit-learn",
    "vllm": "vllm",
}
_FUNCTION = re.compile(r"([A-Za-z_]\w*(?:\.\w+)+):\w+")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.\w+)+")
_NAMING_CALLS = ("import_module", "register_adapter_type")
_MOST_NOTES = 5000
_WITH_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Nodes that hold no other that counts as a use.
_LEAVES = (ast.expr_context, ast.operator, ast.cmpop, ast.Name, ast.Pass)


class Facts(NamedTuple):
    """What counts of one source file.

    Attributes:
        digest: of its syntax tree.
        uses: (module, name in it or nothing) of everything that it imports.
        homes: public name -> module, of a package that imports its names when they are first used.
    """

    digest: str
    uses: list[list[str]]
    homes: dict[str, str]


class Sources:
    """Source files by the names of their modules.

    Args:
        places: top-level module or package -> its file or folder; those of `luthier`, and of what is imported in this
            process, are found without.
    """

    def __init__(self, places: Mapping[str, Path] | None = None) -> None:
        self._places: dict[str, Path | None] = {"luthier": Path(__file__).parents[1], **(places or {})}
        self._notes: dict[str, Facts] | None = None
        self._added = False
        # What one closure has seen of the disk: files by module, folders by package, and what lies in a folder.
        self._files: dict[str, Path | None] = {}
        self._folders: dict[str, Path | None] = {}
        self._names: dict[Path, frozenset[str]] = {}

    def code_digest(self, modules: Iterable[str]) -> str:
        """One digest over all that the modules run, and the versions of the libraries that compute."""
        found = self.closure(modules)
        imported = {used.partition(".")[0] for facts in found.values() for used, _ in facts.uses}
        libraries = [*LIBRARIES, *(WHERE_IMPORTED[top] for top in sorted(imported & WHERE_IMPORTED.keys()))]
        return digest_of(
            {
                "modules": {name: facts.digest for name, facts in sorted(found.items())},
                "libraries": {name: version(name) for name in libraries},
            }
        )

    def closure(self, modules: Iterable[str]) -> dict[str, Facts]:
        """The modules, and every one that they use of their own packages and of luthier."""
        modules = set(modules)
        followed = {name.partition(".")[0] for name in modules} | {"luthier"}
        found: dict[str, Facts] = {}
        waiting = list(modules)
        self._forget()
        while waiting:
            name = waiting.pop()
            if name in found or _is_ignored(name) or not self._is_followed(name, followed):
                continue
            path = self._file(name)
            if path is None:
                continue
            found[name] = facts = self._facts(path, name)
            waiting += [name.rpartition(".")[0]] if "." in name else []
            for module, imported in facts.uses:
                if self._is_followed(module, followed):
                    waiting += self._modules_of(module, imported)
        self._write_notes()
        return found

    def _modules_of(self, module: str, name: str) -> Iterator[str]:
        """The modules that `from module import name` reads; without a name, the module."""
        yield module
        if not name:
            return
        below = f"{module}.{name}"
        path = self._file(module)
        if self._file(below) is not None:
            yield below
        elif path is not None and path.name == "__init__.py" and not _is_ignored(module):
            homes = self._facts(path, module).homes
            if name in homes:
                yield from self._modules_of(homes[name], name)
            elif name == "*":
                yield from homes.values()

    def _is_followed(self, name: str, followed: set[str]) -> bool:
        """Whether a module is luthier's, of a package that a part is of, or lies beside such a module of the user's."""
        top = name.partition(".")[0]
        if top in followed:
            return True
        for other in followed - {"luthier"}:
            place = self._place(other)
            if place is not None and not _is_installed(place) and self._beside(place, top) is not None:
                self._places[top] = self._beside(place, top)
                followed.add(top)
                self._forget()
                return True
        return False

    @staticmethod
    def _beside(place: Path, top: str) -> Path | None:
        for path in (place.parent / top, place.parent / f"{top}.py"):
            if path.is_file() or (path / "__init__.py").is_file():
                return path
        folder = place.parent / top
        # A folder of the name of an installed package, such as `datasets`, is not what is imported.
        imported = _place_of(top) if folder.is_dir() else None
        return folder if imported is not None and imported.resolve() == folder.resolve() else None

    def _place(self, top: str) -> Path | None:
        if top not in self._places:
            self._places[top] = _place_of(top)
        return self._places[top]

    def _file(self, name: str) -> Path | None:
        """The source file of a module."""
        if name not in self._files:
            self._files[name] = self._look_up(name)
        return self._files[name]

    def _forget(self) -> None:
        for seen in (self._files, self._folders, self._names):
            seen.clear()

    def _look_up(self, name: str) -> Path | None:
        package, _, last = name.rpartition(".")
        if not package:
            place = self._place(name)
            alone = place is not None and place.is_file()
            return place if alone or place is None else self._in(place.parent, place.name)
        folder = self._folder(package)
        return None if folder is None else self._in(folder, last)

    def _in(self, folder: Path, name: str) -> Path | None:
        """The file of a package or of a module in a folder."""
        names = self._names_in(folder)
        if name in names and "__init__.py" in self._names_in(folder / name):
            return folder / name / "__init__.py"
        return folder / f"{name}.py" if f"{name}.py" in names else None

    def _folder(self, package: str) -> Path | None:
        if package not in self._folders:
            top, *below = package.split(".")
            place = self._place(top)
            self._folders[package] = None if place is None or place.is_file() else place.joinpath(*below)
        return self._folders[package]

    def _names_in(self, folder: Path) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]

    # -- what counts of a file ---------------------------------------------------------------------------------

    def _facts(self, path: Path, name: str) -> Facts:
        content = first_sight(f"source {path}", partial(_content_digest, path))
        module = name if path.name == "__init__.py" else name.rpartition(".")[0]
        notes = self._known_notes()
        label = f"{content} {module}"
        if label not in notes:
            notes[label] = facts_of(path.read_bytes(), module)
            self._added = True
        return notes[label]

    def _known_notes(self) -> dict[str, Facts]:
        if self._notes is None:
            try:
                stored = json.loads(_notes_file().read_text(encoding="utf8"))
                self._notes = {label: Facts(*entry) for label, entry in stored.items()}
            except (OSError, ValueError, TypeError, AttributeError):
                self._notes = {}
        return self._notes

    def _write_notes(self) -> None:
        if not self._added or self._notes is None:
            return
        self._added, place = False, _notes_file()
        kept = dict(list(self._notes.items())[-_MOST_NOTES:])
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = place.with_name(f"{place.name}.{os.getpid()}")
            scratch.write_text(json.dumps(kept), encoding="utf8")
            scratch.replace(place)
        except OSError:
            pass  # without notes the files are parsed again


@cache
def installed_sources() -> Sources:
    """The sources of this process."""
    return Sources()


def code_digest(modules: Iterable[str]) -> str:
    """One digest over all that some modules run, for keys. See `Sources`."""
    return installed_sources().code_digest(modules)


def facts_of(source: bytes, package: str) -> Facts:
    """What counts of a source file.

    Args:
        source: its content.
        package: that its relative imports start from.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return Facts(hashlib.sha256(source).hexdigest(), [], {})
    texts: list[str] = []
    _write_text(tree, texts.append)
    digest = hashlib.sha256("".join(texts).encode(errors="surrogatepass"))
    uses: set[tuple[str, str]] = set()
    _note_uses(tree, package, uses)
    return Facts(digest.hexdigest(), [list(use) for use in sorted(uses)], _homes(tree))


def _write_text(node: Any, put: Callable[[str], object]) -> None:
    """A syntax tree as text: no places, no empty fields, so that it is the same under every version of Python."""
    if isinstance(node, ast.AST):
        put(f"({type(node).__name__}")
        for name in node._fields:
            value = getattr(node, name, None)
            if name == "body" and isinstance(node, _WITH_DOCSTRINGS):
                value = node.body[1:] if node.body and _is_text(node.body[0]) else node.body
            elif name == "keywords" and isinstance(node, ast.Call) and _name_of(node.func) == "Field":
                value = [one for one in node.keywords if one.arg != "description"]
            if value is not None and value != []:
                put(f" {name}=")
                _write_text(value, put)
        put(")")
    elif isinstance(node, list):
        for one in node:
            _write_text(one, put)
            put(",")
    else:
        put(repr(node))


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _note_uses(node: ast.AST, package: str, found: set[tuple[str, str]]) -> None:
    """Add (module, name in it or nothing) of everything that a syntax tree imports or names."""
    if isinstance(node, ast.If) and _name_of(node.test) == "TYPE_CHECKING":
        for statement in node.orelse:
            _note_uses(statement, package, found)
        return
    if isinstance(node, ast.Import):
        found.update((alias.name, "") for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        steps = package.split(".")
        start = steps[: len(steps) - node.level + 1] if node.level else []
        module = ".".join([*start, *([node.module] if node.module else [])])
        found.update((module, alias.name) for alias in node.names)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str) and (named := _FUNCTION.fullmatch(node.value)):
            found.add((named[1], ""))
    elif isinstance(node, ast.Call) and _name_of(node.func) in _NAMING_CALLS:
        for value in (argument.value for argument in node.args if isinstance(argument, ast.Constant)):
            if isinstance(value, str) and _MODULE.fullmatch(value):
                found.add((value, ""))
    for name in node._fields:
        value = getattr(node, name, None)
        for below in value if isinstance(value, list) else (value,):
            if isinstance(below, ast.AST) and not isinstance(below, _LEAVES):
                _note_uses(below, package, found)


def _homes(tree: ast.Module) -> dict[str, str]:
    homes: dict[str, str] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            pairs = zip(statement.value.keys, statement.value.values, strict=True)
            texts = [(getattr(key, "value", None), getattr(value, "value", None)) for key, value in pairs]
            homes |= {k: v for k, v in texts if isinstance(k, str) and isinstance(v, str) and "." in v}
    return homes


def _is_ignored(name: str) -> bool:
    return name not in COUNTED and any(name == one or name.startswith(f"{one}.") for one in IGNORED)


def _place_of(top: str) -> Path | None:
    module = sys.modules.get(top)
    if module is not None:
        found: Any = next(iter(getattr(module, "__path__", [])), getattr(module, "__file__", None))
    else:
        spec = importlib.machinery.PathFinder.find_spec(top)
        found = spec and next(iter(spec.submodule_search_locations or []), spec.origin)
    path = Path(found) if found else None
    return path if path is not None and (path.is_dir() or path.suffix == ".py") else None


@cache
def _installed_places() -> tuple[Path, ...]:
    named = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("stdlib", "purelib"))]
    return tuple(Path(place).resolve() for place in named if place)


def _is_installed(place: Path) -> bool:
    return any(place.resolve().is_relative_to(one) for one in _installed_places())


_digests: dict[tuple[str, int, int], str] = {}


def _content_digest(path: Path) -> str:
    stat = path.stat()
    state = (str(path), stat.st_mtime_ns, stat.st_size)
    if state not in _digests:
        _digests[state] = sha256_of(path)
    return _digests[state]


@cache
def _own_digest() -> str:
    return sha256_of(Path(__file__))


def _notes_file() -> Path:
    return cache_directory() / "code" / f"{_own_digest()[:16]}.json"
