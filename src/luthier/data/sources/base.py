"""What a source string names, and its bytes. Nothing here imports the package that holds a file, or runs its code."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.metadata
import importlib.util
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from luthier.data.sources.zstandard import open_zstandard
from luthier.data.table import listing
from luthier.errors import DataError, nearest
from luthier.storage.nearby import did_you_mean
from luthier.storage.paths import is_file, is_folder, is_there, user_path

# Of BRAT, and in how many folders above its files it is looked for.
BRAT_TYPES, _LEVELS = "annotation.conf", 3
DATA_VARIABLE = "LUTHIER_DATA"
NO_SUCH_FILE = "there is no such file"
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "txt",
    ".conll": "conll",
    ".conllu": "conll",
}
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DAMAGED = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
    RuntimeError,
    NotImplementedError,
)
# What the readers of archives stumble over besides, in a directory of members that is damaged.
_DAMAGED_DIRECTORY = (ValueError, LookupError, TypeError, OverflowError, struct.error)


def unpacked(name: str) -> str:
    """A file's name without the endings that tell of compression."""
    for ending in (".gz", ".zst"):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
    return name


@dataclass(frozen=True)
class FileSource:
    """One file on this machine, or one member of an archive.

    Attributes:
        path: the file.
        member: path inside the archive, or None.
        name: the source as the user wrote it.
    """

    path: Path
    member: str | None
    name: str

    @property
    def format(self) -> str | None:
        """Format by the name of the file, or None."""
        return FORMATS.get(PurePosixPath(unpacked(self.member or self.path.name).lower()).suffix)

    @property
    def file_name(self) -> str:
        """Name of the file, or of the member."""
        return PurePosixPath(self.member).name if self.member is not None else self.path.name

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The decompressed bytes.

        Raises:
            DataError: the file can't be read, or the archive is damaged or has no such member.
        """
        with self._readable() as stack:
            yield self._open(stack)

    def beside(self) -> dict[str, FileSource]:
        """The files in its folder, or its folder in the archive, by their names; none where a folder can't be listed.

        Raises:
            DataError: as `open`.
        """
        if self.member is None:
            found: list[Path] = []
            with contextlib.suppress(PermissionError), os.scandir(self.path.parent) as entries:
                found = [self.path.parent / one for one in sorted(one.name for one in entries if one.is_file())]
            return {one.name: FileSource(one, None, str(one)) for one in found}
        archive, folder = self.name.partition("!")[0], PurePosixPath(self.member).parent
        with self._readable() as stack, _directory_read():
            members = _names_in(_archive(stack, stack.enter_context(self.path.open("rb")), self.path))
        beside = (one for one in members if PurePosixPath(one).parent == folder)
        return {PurePosixPath(one).name: FileSource(self.path, one, f"{archive}!{one}") for one in beside}

    @contextlib.contextmanager
    def _readable(self) -> Iterator[contextlib.ExitStack]:
        try:
            with contextlib.ExitStack() as stack:
                yield stack
        except _DAMAGED as error:
            raise DataError(
                f"can't be read: {error}", where=self.name, fix="is the file whole, and readable?"
            ) from error

    def read(self) -> bytes:
        """All decompressed bytes; raises as `open` does."""
        with self.open() as stream:
            return stream.read()

    def _open(self, stack: contextlib.ExitStack) -> IO[bytes]:
        name = (self.member or self.path.name).lower()
        stream: IO[bytes] = stack.enter_context(self.path.open("rb"))
        if self.member is not None:
            with _directory_read():
                archive = _archive(stack, stream, self.path)
                stream = stack.enter_context(_open_member(archive, self.member, self.name))
        if name.endswith(".zst"):
            return cast("IO[bytes]", stack.enter_context(open_zstandard(stream)))
        return cast("IO[bytes]", stack.enter_context(gzip.open(stream))) if name.endswith(".gz") else stream


@dataclass(frozen=True)
class FolderSource:
    """A folder of files that are read together: texts (`.txt`), annotations (`.ann`), known types (`.conf`).

    Attributes:
        path: the folder.
        name: the source as the user wrote it.
    """

    path: Path
    name: str

    @property
    def files(self) -> list[FileSource]:
        """Every such file in it, in order, and the known types where these stand in a folder above it."""
        read = sorted(p for p in self.path.rglob("*") if p.suffix in (".txt", ".ann", ".conf") and p.is_file())
        found = [FileSource(p, None, f"{self.name.rstrip('/')}/{p.relative_to(self.path).as_posix()}") for p in read]
        types = configuration_of(self.path)
        return found if types is None or types in read else [*found, FileSource(types, None, str(types))]


def configuration_of(folder: Path) -> Path | None:
    """The file with the known types of a folder of BRAT files: its own, or that of the nearest of three above it."""
    above = folder.resolve().parents[:_LEVELS]
    places = [folder / BRAT_TYPES, *(place / BRAT_TYPES for place in above)]
    return next((place for place in places if is_file(place)), None)


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hugging Face Hub."""

    id: str
    config: str | None
    revision: str | None
    split: str | None
    name: str


@dataclass(frozen=True)
class SetSource:
    """A set that the catalogue knows: `data/...` under the data folder, or `glue/...`, `superglue/...` on the Hub."""

    set: str
    split: str | None
    name: str


Source = FileSource | HubSource | SetSource


def resolve(source: str) -> Source:
    """What a source string names.

    Raises:
        DataError: it names nothing that can be found, or a path outside its place.
    """
    if source.startswith("package:"):
        return _in_package(source)
    if source.startswith("data:"):
        return _in_data_folder(source)
    if source.startswith("hub:"):
        return _on_hub(source)
    known = _known_short_name(source)
    if known:
        return known
    file = _local(source)
    if file:
        return file
    hint = did_you_mean(_split_member(source)[0])
    if _HUB_ID.fullmatch(re.split(r"[:@#]", source)[0]) and "/" in source and not hint:
        return _on_hub(source)
    others = "give a file, `package:NAME/path`, `data:SET`, or a data set on the Hub as `hub:ID`"
    raise DataError(NO_SUCH_FILE, where=source, fix=f"{hint} otherwise {others}" if hint else others)


def annotated_folder(source: str) -> FolderSource | None:
    """The folder on this machine that a source string names, where there are annotations in it; None for all else."""
    path = user_path(source)
    return FolderSource(path, source) if is_folder(path) and any(path.rglob("*.ann")) else None


def check_there_and_filled(source: str) -> None:
    """Raises:
    DataError: a source names nothing that can be found, or an empty file.
    """
    found = resolve(source)
    if isinstance(found, FileSource) and not found.path.stat().st_size:
        raise DataError("the file is empty", where=found.name, fix="is it the right file?")


def data_folder(wanted: str) -> Path:
    """The folder named by `LUTHIER_DATA`.

    Raises:
        DataError: the variable is not set or names no folder; says which set was looked for.
    """
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        raise DataError(
            f"the environment variable {DATA_VARIABLE} is not set, so the set can't be looked for",
            where=wanted,
            fix=f"set {DATA_VARIABLE} to the folder that holds the sets; docs/data.md tells where each comes from",
        )
    folder = Path(value)
    if not is_folder(folder):
        raise DataError(f"{DATA_VARIABLE} names {value}, which is not a folder", where=wanted)
    return folder


def inside(folder: Path, relative: str, name: str) -> Path:
    """`folder/relative`, which may not lead out of the folder, not even through a link.

    Raises:
        DataError: it does.
    """
    _refuse_outside(relative, name)
    path = folder / relative
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{relative!r} leads out of {folder}", where=name, fix="name a file inside it")
    return path


def digest(source: FileSource) -> str:
    """sha256 of the file's decompressed bytes, in hex."""
    total = hashlib.sha256()
    with source.open() as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()


def _refuse_outside(relative: str, name: str) -> None:
    parts = re.split(r"[/\\]", relative)
    if ".." in parts or relative.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", relative) or "\0" in relative:
        raise DataError(
            f"the path {relative!r} is refused: it leads out of its place", where=name, fix="use a path without `..`"
        )


def _split_member(text: str) -> tuple[str, str | None]:
    path, mark, member = text.partition("!")
    return (path, member) if mark else (text, None)


def _file(path: Path, member: str | None, name: str) -> FileSource:
    if is_folder(path):
        inside_it = sorted(p.name for p in path.iterdir())
        several = " (a source is one file: join files of one split)" if len(inside_it) > 1 else ""
        raise DataError(
            "is a folder, not a file", where=name, fix=f"name one of its files{several}: {listing(inside_it)}"
        )
    if not is_file(path):
        if is_there(path):
            raise DataError(
                "this is no ordinary file, such as a device or a pipe", where=name, fix="write the rows into a file"
            )
        raise DataError(NO_SUCH_FILE, where=name, fix=did_you_mean(path) or "name a file that is there")
    archive = path.name.lower().endswith(_ARCHIVES)
    if member is not None:
        if not archive:
            raise DataError(f"{path.name} is no zip or tar archive, so it has no members", where=name)
        _refuse_outside(member, name)
    elif archive:
        raise DataError("is an archive", where=name, fix=f"name the file inside it: {name}!path/in/archive.csv")
    return FileSource(path, member, name)


def _local(source: str) -> FileSource | None:
    text, member = _split_member(source)
    path = user_path(text)
    plain = unpacked(path.name).lower()
    looks_like_a_file = plain.endswith((*FORMATS, *_ARCHIVES)) or text.startswith(("/", "./", "../", "~"))
    return _file(path, member, source) if is_there(path) or looks_like_a_file else None


def _in_package(source: str) -> FileSource:
    text, member = _split_member(source.removeprefix("package:"))
    package, _, relative = text.partition("/")
    if not package or not relative:
        raise DataError("names no file in the package", where=source, fix="write package:NAME/path/to/file.csv")
    folder = _package_folder(package)
    if folder is None:
        guess = nearest(package, installed_packages())
        raise DataError(
            f"there is no installed package called {package!r}",
            where=source,
            fix=(f"did you mean package:{guess}/{relative}? otherwise " if guess else "")
            + f"install it: pip install {package}",
        )
    return _file(inside(folder, relative, source), member, source)


def _package_folder(package: str) -> Path | None:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*|_[\w]*", package):
        return None
    module = package if package.isidentifier() else None
    if module is None:
        wanted = re.sub(r"[-_.]+", "-", package).lower()
        for name, owners in importlib.metadata.packages_distributions().items():
            if wanted in {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}:
                module = name
                break
    spec = importlib.util.find_spec(module) if module else None
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def installed_packages() -> list[str]:
    """Names of what is installed, as `package:` takes them."""
    return sorted({name.replace("-", "_") for one in importlib.metadata.distributions() if (name := one.name)})


def _in_data_folder(source: str) -> Source:
    from luthier.data.catalogue.lookup import is_known

    text, _, split = source.removeprefix("data:").partition("#")
    text, member = _split_member(text)
    _refuse_outside(text, source)
    folder = data_folder(source)
    name = text.strip("/")
    top = folder / name.partition("/")[0]
    if not name or not is_folder(top):
        known = sorted(p.name for p in folder.iterdir() if p.is_dir())
        guess = nearest(top.name, known) if name else None
        raise DataError(
            f"there is no set {top.name!r} under {folder}" if name else "names no set",
            where=source,
            fix=f"did you mean {guess!r}?" if guess else f"known: {listing(known)}",
        )
    if is_known(f"data/{name}") and member is None:
        return SetSource(f"data/{name}", split or None, source)
    path = inside(top, name.partition("/")[2], source)
    if is_folder(path):
        raise DataError(
            "is a folder whose layout is not known", where=source, fix=f"name a file in it: {listing(_files_in(path))}"
        )
    return _file(path, member, source)


def _files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != "SOURCE.txt")


def _on_hub(source: str) -> HubSource | SetSource:
    text, _, split = source.removeprefix("hub:").partition("#")
    text, _, revision = text.partition("@")
    name, _, config = text.partition(":")
    if not _HUB_ID.fullmatch(name):
        raise DataError(
            f"{name!r} is no Hub id", where=source, fix="write hub:ID, hub:ID:config, or hub:ID:config@revision"
        )
    return HubSource(name, config or None, revision or None, split or None, source)


def _known_short_name(source: str) -> SetSource | None:
    from luthier.data.catalogue.lookup import is_known

    text, _, split = source.partition("#")
    name = text.lower().replace("super_glue", "superglue").replace(":", "/")
    if name.startswith(("glue/", "superglue/")) and is_known(name):
        return SetSource(name, split or None, source)
    return None


@contextlib.contextmanager
def _directory_read() -> Iterator[None]:
    try:
        yield
    except _DAMAGED_DIRECTORY as error:
        raise zipfile.BadZipFile(f"the archive's directory is damaged: {error}") from error


def _archive(stack: contextlib.ExitStack, stream: IO[bytes], path: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if path.name.lower().endswith(".zip"):
        return stack.enter_context(zipfile.ZipFile(stream))
    return stack.enter_context(tarfile.open(fileobj=stream))


def _names_in(archive: zipfile.ZipFile | tarfile.TarFile) -> list[str]:
    if isinstance(archive, zipfile.ZipFile):
        return [info.filename for info in archive.infolist() if not info.is_dir()]
    return [info.name for info in archive.getmembers() if info.isfile()]


def _open_member(
    archive: zipfile.ZipFile | tarfile.TarFile, member: str, name: str
) -> contextlib.AbstractContextManager[IO[bytes]]:
    names = _names_in(archive)
    if member not in names:
        raise _no_member(member, names, name)
    found = archive.open(member) if isinstance(archive, zipfile.ZipFile) else archive.extractfile(member)
    if found is None:
        raise _no_member(member, names, name)
    return found


def _no_member(member: str, names: list[str], name: str) -> DataError:
    guess = nearest(member, names)
    return DataError(
        f"the archive has no file {member!r}",
        where=name,
        fix=f"did you mean {guess!r}?" if guess else f"it holds: {listing(names)}",
    )
