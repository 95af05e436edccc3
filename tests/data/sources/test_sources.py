import gzip
import io
import sys
import tarfile
import zipfile

import pyarrow
import pytest

from luthier.data.sources.base import FileSource, HubSource, SetSource, digest, resolve
from luthier.errors import DataError


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zstandard(content: bytes) -> bytes:
    packed: bytes = pyarrow.compress(content, codec="zstd", asbytes=True)
    return packed


def test_plain_and_compressed_files(write):
    plain = resolve(write("a.csv", "text\nhello\n"))
    packed = resolve(write("b.csv.gz", gzip.compress(b"text\nhello\n")))
    other = resolve(write("c.csv.zst", zstandard(b"text\nhello\n")))
    assert plain.read() == packed.read() == other.read() == b"text\nhello\n"
    assert plain.format == packed.format == other.format == "csv"
    assert digest(plain) == digest(packed) == digest(other)


def test_places_in_a_zstandard_file_are_found_forwards_and_backwards(write):
    content = bytes(range(256)) * 20_000
    with resolve(write("a.txt.zst", zstandard(content))).open() as stream:
        for place in (3_000_000, 5, 5_119_990, 0):
            assert stream.seek(place) == stream.tell() == place
            assert stream.read(300) == content[place : place + 300]
        with pytest.raises(OSError, match="not known"):
            stream.seek(0, io.SEEK_END)


@pytest.mark.parametrize(("name", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred)])
def test_archive_members(write, name, pack):
    archive = write(name, pack({"in/side.tsv": b"x\n1\n", "more.jsonl.gz": gzip.compress(b"{}")}))
    assert resolve(f"{archive}!in/side.tsv").read() == b"x\n1\n"
    inner = resolve(f"{archive}!more.jsonl.gz")
    assert (inner.read(), inner.format) == (b"{}", "jsonl")
    with pytest.raises(DataError, match=r"no file 'in/sid\.tsv'(.|\n)*did you mean 'in/side\.tsv'"):
        resolve(f"{archive}!in/sid.tsv").read()
    with pytest.raises(DataError, match="is an archive"):
        resolve(archive)


@pytest.mark.parametrize("member", ["../a.csv", "/etc/passwd.csv", "in/../../a.csv", "..\\a.csv", "C:/a.csv"])
def test_archive_members_outside_are_refused(write, member):
    archive = write("a.zip", zipped({"a.csv": b"x"}))
    with pytest.raises(DataError, match="refused"):
        resolve(f"{archive}!{member}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", gzip.compress(b"hello" * 500)[:-12]),
        ("a.csv.gz", b"not gzip"),
        ("a.csv.zst", pyarrow.compress(b"hello" * 500, codec="zstd", asbytes=True)[:-3]),
        ("a.csv.zst", b"not zstandard"),
        ("a.zip!a.csv", zipped({"a.csv": b"x" * 900})[:300]),
        ("a.tar!a.csv", b"not a tar"),
    ],
    ids=["cut gzip", "no gzip", "cut zstandard", "no zstandard", "cut zip", "no tar"],
)
def test_damaged_archives_are_told(write, name, content):
    path = write(name.partition("!")[0], content)
    with pytest.raises(DataError, match="can't be read"):
        resolve(path + name[len(name.partition("!")[0]) :]).read()


def test_missing_file_names_the_nearest(write):
    path = write("train.csv", "x")
    with pytest.raises(DataError, match=rf"did you mean {path}\?"):
        resolve(path.replace("train", "trian"))


def test_folder_lists_its_files(write, tmp_path):
    write("set/a.csv", "x")
    with pytest.raises(DataError, match=r"is a folder(.|\n)*a\.csv"):
        resolve(str(tmp_path / "set"))


def test_package_file_is_found_without_importing(write, tmp_path, monkeypatch):
    write("trap_package/__init__.py", "raise SystemExit('imported')")
    write("trap_package/rows/a.csv", "text\nx\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = resolve("package:trap_package/rows/a.csv")
    assert source.read() == b"text\nx\n"
    assert "trap_package" not in sys.modules
    for outside in ("../a.csv", "/etc/hosts.csv", "rows/../../a.csv"):
        with pytest.raises(DataError, match="refused"):
            resolve(f"package:trap_package/{outside}")
    with pytest.raises(DataError, match="no installed package called 'no_such_package'"):
        resolve("package:no_such_package/a.csv")
    with pytest.raises(DataError, match="names no file"):
        resolve("package:trap_package")


def test_package_may_be_named_by_its_distribution():
    assert resolve("package:scikit-learn/datasets/data/iris.csv").read().startswith(b"150,4,")


def test_links_out_of_a_package_are_refused(write, tmp_path, monkeypatch):
    secret = write("secret.csv", "x")
    write("linked_package/__init__.py", "")
    (tmp_path / "linked_package" / "a.csv").symlink_to(secret)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match="leads out of"):
        resolve("package:linked_package/a.csv")


def test_data_folder(write, tmp_path, monkeypatch):
    monkeypatch.delenv("LUTHIER_DATA", raising=False)
    with pytest.raises(DataError, match=r"data:sst2: the environment variable LUTHIER_DATA is not set"):
        resolve("data:sst2")
    monkeypatch.setenv("LUTHIER_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="not a folder"):
        resolve("data:sst2")
    monkeypatch.setenv("LUTHIER_DATA", str(tmp_path))
    write("sst2/dev.tsv", "sentence\tlabel\n")
    write("own/a.csv", "text\n")
    assert resolve("data:sst2") == SetSource("data/sst2", None, "data:sst2")
    assert resolve("data:sst2#dev") == SetSource("data/sst2", "dev", "data:sst2#dev")
    assert isinstance(resolve("data:sst2/dev.tsv"), FileSource)
    assert isinstance(resolve("data:own/a.csv"), FileSource)
    with pytest.raises(DataError, match=r"there is no set 'sst3'(.|\n)*did you mean 'sst2'"):
        resolve("data:sst3")
    with pytest.raises(DataError, match=r"layout is not known(.|\n)*a\.csv"):
        resolve("data:own")
    for outside in ("../x.csv", "/etc/x.csv", "sst2/../../x.csv"):
        with pytest.raises(DataError, match="refused"):
            resolve(f"data:{outside}")


def test_hub_and_known_names():
    assert resolve("hub:org/set:config@v1#test") == HubSource(
        "org/set", "config", "v1", "test", "hub:org/set:config@v1#test"
    )
    assert resolve("org/set").id == "org/set"
    assert resolve("glue/rte") == SetSource("glue/rte", None, "glue/rte")
    assert resolve("super_glue/cb#train") == SetSource("superglue/cb", "train", "super_glue/cb#train")
    with pytest.raises(DataError, match="is no Hub id"):
        resolve("hub:../../etc")
    with pytest.raises(DataError, match="no such file"):
        resolve("nothing")
