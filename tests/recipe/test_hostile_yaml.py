"""YAML that was made to break its reader: an error with a line, soon, and nothing else."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import RecipeError
from luthier.recipe import yaml_limits
from luthier.recipe.loading import check_recipe, load_recipe
from luthier.recipe.yaml_text import parse_value, parse_yaml

BOMB = "name: b\na: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{one}'] * 10)}]\n" for one, after in zip("abcdefghij", "bcdefghijk", strict=True)
)
HEAD = "name: r\nmodel: m\n"


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_yaml(text, "r.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (BOMB, 5, "values"),
        ("a: 1\nb: &b [1, *b]", 2, "*b stands inside of what it means"),
        ("b: &b\n  c: {d: *b}", 2, "*b stands inside of what it means"),
        ("a: 1\nb: " + "[" * 5000, 2, "nested"),
        ("a: " + "{b: " * 5000, 1, "nested"),
        ("- " * 5000, 1, "nested"),
        ("? " * 5000, 1, "nested"),
        ("".join(" " * level + "a:\n" for level in range(60)), 51, "nested"),
        ("a:\nname: " + "x" * 10_000_000, 2, "100,000"),
        ("[" + "1," * 40_000 + "]", 1, "10,000 values"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", 2, "the tag !!python/object/apply:os.system is not allowed"),
        ("a: !!binary aGVsbG8=", 1, "the tag !!binary"),
        ("a: !!int x", 1, "the tag !!int"),
        ("a: ! x", 1, "the tag !"),
        ("a: 1\n---\nb: 2", 2, "a second document"),
        ("a: 1\n...\nb: 2", None, ""),
        ("a: 1\nb: \0", 2, "NUL"),
        ("a: 1\nb: \x07", 2, "special characters"),
        ('a: 1\nb: "\\0"', 2, "NUL"),
        ('a: "\\ud800"', 1, "surrogate"),
        ('a: "\\ude00\\ud83d"', 1, "surrogate"),
        ('a: "\\ud83d\\ude00\\ud83d"', 1, "surrogate"),
        ('a: 1\nb: "\\Uffffffff"', 2, ""),
        ("a: 1\nb:\n\tc: 2", 3, "tab"),
        ("%YAML 1.1\n---\na: no", None, "YAML 1.1"),
        ("a: " + "9" * 5000, 1, "40 digits"),
        ("a: *b", 1, "alias"),
        ("? {a: b}\n: c", 1, "unhashable"),
    ],
)
def test_hostile_yaml_is_an_error_with_its_line(text, line, words):
    message = refused(text)
    assert words in message
    assert f"r.yaml:{line}:" in message or line is None
    assert "fix: " in message


@pytest.mark.parametrize(
    "line", ["seed: 9223372036854775808", f"seed: -{'9' * 39}", "seed: 0x8000000000000000", f"stages: [1, {'9' * 20}]"]
)
def test_a_number_that_nothing_counts_to_is_an_error_with_its_line(line):
    source = parse_yaml(HEAD + line, "r.yaml")
    with pytest.raises(RecipeError) as caught:
        check_recipe(source)
    assert "beyond 9,223,372,036,854,775,807" in str(caught.value)
    assert "r.yaml:3:" in str(caught.value)


def test_the_bomb_is_a_small_file():
    assert len(BOMB) < 1000


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path):
    path = tmp_path / "r.yaml"
    with path.open("wb") as file:
        file.write(b"name: r\nmodel: ")
        file.truncate(1 << 40)
    with pytest.raises(RecipeError, match=r"r.yaml:2: the text has more than the 100,000 characters"):
        load_recipe(path)


@pytest.mark.parametrize("content", [b"\xff\xfen\0a\0", b"name: \xe9", b"\0\0\xfe\xff"])
def test_another_encoding_is_told(tmp_path: Path, content: bytes):
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(tmp_path / "r.yaml")


def test_anchors_and_merges_that_save_writing_work():
    data = parse_yaml("a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 3}\nc: [*a, *a]", "r").data
    assert data["b"] == {"x": 3, "y": [1, 2]}
    assert data["c"] == [data["a"]] * 2
    assert parse_yaml("a: &a 1\nb: &a 2\nc: *a\n", "r").data["c"] == 2


def test_dates_and_other_lookalikes_are_text():
    data = parse_yaml("a: 2024-01-31\nb: 2024-13-45\nc: no\nd: 12:30\ne: !!str 12\nf: 2024-01-31 10:00:00Z", "r").data
    assert list(data.values()) == ["2024-01-31", "2024-13-45", "no", "12:30", "12", "2024-01-31 10:00:00Z"]


@pytest.mark.parametrize("value", ["2024", "true", "1.5"])
def test_a_value_that_must_be_text_is_to_be_quoted(value):
    with pytest.raises(RecipeError, match="write it in quotes"):
        check_recipe(parse_yaml(f"name: {value}\nmodel: m\nstages: [evaluate]", "r"))


@pytest.mark.parametrize("text", ["plugins: 5", "plugins: {a: 1}", "plugins: ['', ., .x, 'a b', 5, null]", "stages: 5"])
def test_a_key_of_a_wrong_kind_is_an_error_of_the_recipe(text):
    with pytest.raises(RecipeError):
        check_recipe(parse_yaml(HEAD + text, "r"))


@pytest.mark.parametrize("key", ["x" * 90_000, "${env:X}" * 10_000])
def test_messages_do_not_repeat_a_long_text(key):
    with pytest.raises(RecipeError) as caught:
        check_recipe(parse_yaml(f"{HEAD}? '{key}'\n: 1\nstages: [{{tune: '{key[:5000]}'}}]", "r"))
    assert len(str(caught.value)) < 3000


def test_a_bomb_on_the_command_line_is_text():
    assert parse_value("&a [*a]") == "&a [*a]"
    assert parse_value("[" * 5000) == "[" * 5000


PIECES = st.sampled_from(
    [*"[]{},:?-&*!|>'\"%@`#~.0a \n\t", "\n  ", "\n- ", ": ", "- ", "&a ", "*a", "<<: ", "---\n", "...\n", "!!str ",
     "name: ", "model: ", "stages:\n", "- tune:\n", "method: ", "data: ", "{train: x}", "lora", "compare:\n", "over: ",
     "seed", "1e400", "-.inf", ".nan", "0x", "0o9", "2001-01-01", "true", "null", "\\x", "\ufeff", "\u2028", "é"]
)  # fmt: skip


def loads_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(RecipeError):
        load_recipe(path)


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_recipe_or_an_error_of_it(tmp_path_factory, content):
    loads_or_refuses(tmp_path_factory.getbasetemp() / "bytes.yaml", content)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=60).map("".join), st.booleans())
def test_any_text_like_yaml_is_a_recipe_or_an_error_of_it(tmp_path_factory, text, headed):
    loads_or_refuses(tmp_path_factory.getbasetemp() / "text.yaml", ((HEAD if headed else "") + text).encode())


nested = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
KEYS = ["name", "model", "seed", "stages", "compare", "plugins", "over", "preset", "search", "tune", "method", "data"]


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(KEYS), nested | st.dictionaries(st.sampled_from(KEYS), nested), max_size=6))
def test_any_values_are_a_recipe_or_an_error_of_it(data):
    from luthier.recipe.yaml_text import YamlText

    data.pop("plugins", None)
    with contextlib.suppress(RecipeError):
        check_recipe(YamlText("r", data))


def test_what_is_built_is_bounded_by_what_was_counted(monkeypatch):
    """The work is counted in nodes: of a bomb no more are looked at than the limit and one alias."""
    counted = []
    finish = yaml_limits._Check._finish
    monkeypatch.setattr(yaml_limits._Check, "_finish", lambda self, *a: (counted.append(self.nodes), finish(self, *a)))
    refused(BOMB)
    assert max(counted) <= yaml_limits.MOST_NODES
    assert len(counted) < 100
