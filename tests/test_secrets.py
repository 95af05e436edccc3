"""Secrets are hidden in every form that text takes on its way into a file or onto a screen."""

import base64
import html
import io
import json
import logging
import traceback
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier import secrets
from luthier.errors import RecipeError
from luthier.recipe.yaml_text import dump_yaml
from luthier.registry import discover
from luthier.storage.files import write_json, write_text
from luthier.storage.jsonlines import JsonLog

ODD = "tök\"en's \\ <&> 密🔑/x"
FORMS = {
    "as it is": str,
    "json": json.dumps,
    "json with letters": lambda x: json.dumps(x, ensure_ascii=False),
    "json in json": lambda x: json.dumps(json.dumps({"a": x})),
    "repr": repr,
    "ascii": ascii,
    "repr of bytes": lambda x: repr(x.encode("utf8", "surrogatepass")),
    "html": html.escape,
    "html without quotes": lambda x: html.escape(x, quote=False),
    "html by number": lambda x: "".join(c if c.isalnum() and c.isascii() else f"&#{ord(c)};" for c in x),
    "html twice": lambda x: html.escape(html.escape(x)),
    "url": quote,
    "whole url": lambda x: quote(x, safe=""),
    "form": quote_plus,
    "url twice": lambda x: quote(quote(x)),
    "url in json": lambda x: json.dumps(quote(x)),
}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(secrets, "_known", {})
    monkeypatch.setattr(secrets, "_told", set())


def use(secret: str) -> None:
    secrets._known.clear()
    secrets._known[secret] = "LUTHIER_TEST_TOKEN"


def yaml_in_quotes(text: str) -> str:
    from ruamel.yaml import YAML

    yaml, stream = YAML(pure=True), io.StringIO()
    yaml.default_style, yaml.allow_unicode = '"', False  # type: ignore[assignment]
    yaml.width = 20
    yaml.dump({"key": text}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "secret",
    [ODD, "plain-token", 'qu"ote', "back\\slash", "\\\\\\\\", "\\n\\", "tab\tand\nline", "é" * 4, "a&b;c&", "💡💡💡💡"],
)
def test_no_form_of_a_secret_is_left(form, secret):
    use(secret)
    left = secrets.redact(FORMS[form](f"before {secret} after"))
    expected = FORMS[form]("before A after").replace("A", secrets.HIDDEN)
    assert left.replace("'", '"') == expected.replace("'", '"')


@pytest.mark.parametrize("secret", [ODD, "some words in a long row of them", "C:\\Users\\me", "plain-token"])
def test_yaml_that_folds_a_secret_hides_it(secret):
    use(secret)
    left = secrets.redact(yaml_in_quotes(f"before {secret} after"))
    assert " ".join(left.replace("\\", "").split()).replace(f"{secrets.HIDDEN} after", f"{secrets.HIDDEN}after") == (
        f'"key": "before {secrets.HIDDEN}after"'
    )
    left = dump_yaml({"key": "x " * 50 + secret})
    assert left.rstrip("'\n").endswith(secrets.HIDDEN)


@pytest.mark.parametrize("before", ["", "a", "ab"])
@pytest.mark.parametrize("after", ["", "c", "cd"])
def test_a_secret_inside_base64_is_hidden(before, after):
    use("user:hunter2")
    encoded = base64.b64encode(f"{before}user:hunter2{after}".encode()).decode()
    left = secrets.redact(encoded).replace(secrets.HIDDEN, "")
    assert len(left.rstrip("=")) <= 4 + len(before + after)
    assert secrets.redact(b"user:hunter2".hex()) == secrets.HIDDEN


long_enough = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\\\"'<&>/% +\n\t\x00\x7f\x85é密🔑")),
    min_size=4,
    max_size=12,
).filter(lambda s: secrets.HIDDEN[0] not in s)


@given(long_enough)
def test_whatever_the_secret_nothing_of_it_is_left(secret):
    use(secret)
    for name, form in FORMS.items():
        left = secrets.redact(form(secret))
        assert secrets.HIDDEN in left, name
        assert len(left.replace(secrets.HIDDEN, "")) <= len(form("")), name


@given(long_enough, st.text(max_size=20))
def test_json_stays_json(secret, text):
    use(secret)
    data = {"text": f"{text}{secret}{text}", secret: [secret, 1.5, None]}
    from luthier.storage.files import json_text

    for options in ({}, {"ensure_ascii": True}):
        read = json.loads(json_text(data, **options))
        assert read[secrets.HIDDEN][0] == secrets.HIDDEN
        assert secret not in read["text"]


def test_overlapping_secrets_leave_no_ends():
    secrets._known.update({"abcdef": "A", "defghi": "B"})
    assert secrets.redact("1 abcdefghi 2") == f"1 {secrets.HIDDEN} 2"
    assert secrets.redact("abcdef.defghi") == f"{secrets.HIDDEN}.{secrets.HIDDEN}"


def test_a_secret_of_blanks_is_looked_for_in_linear_time():
    use(" " * 30)
    assert secrets.redact("\n  " * 500 + "x").endswith("x")


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        *((short, "has fewer than 4 characters") for short in ("1", "ab", "abc")),
        *((word, "holds a word of fewer than 8 letters") for word in ("data", "none", "reviews", "größe")),
        *((name, "holds a part of a name that recipes use") for name in ("validation", "learning", "batch_size")),
    ],
)
def test_a_value_that_stands_anywhere_by_chance_is_not_hidden_and_told_of_once(secret, reason, monkeypatch, caplog):
    discover()
    monkeypatch.setenv("LUTHIER_TEST_TOKEN", secret)
    assert secrets.expand(["${env:LUTHIER_TEST_TOKEN}", "${env:LUTHIER_TEST_TOKEN}"]) == [secret, secret]
    assert secrets.redact_values({secret: f"1 {secret}"}) == {secret: f"1 {secret}"}
    assert [r.getMessage().partition(", so")[0] for r in caplog.records] == [
        f"the environment variable LUTHIER_TEST_TOKEN {reason}"
    ]


@pytest.mark.parametrize("secret", ["passphrase", "hunter2", "a-b-c-d", "s3cr", "datasets/validation"])
def test_any_other_value_is_hidden_in_keys_too(secret, monkeypatch):
    monkeypatch.setenv("LUTHIER_TEST_TOKEN", secret)
    secrets.expand("${env:LUTHIER_TEST_TOKEN}")
    assert secrets.redact_values({f"a {secret}": [secret]}) == {f"a {secrets.HIDDEN}": [secrets.HIDDEN]}


def test_numbers_are_no_secrets():
    use("1234")
    assert dump_yaml({"seed": 1234, "text": "1234"}) == "seed: 1234\ntext: •••\n"
    assert secrets.redact_values({"loss": 0.12345, "text": "0.12345"}) == {"loss": 0.12345, "text": "0.•••5"}


def test_files_and_logs_hide_an_odd_secret(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("LUTHIER_TEST_TOKEN", ODD)
    secrets.expand("${env:LUTHIER_TEST_TOKEN}")
    write_json(tmp_path / "a.json", {ODD: [ODD, {"deep": (ODD,)}, Path(ODD)]})
    JsonLog(tmp_path / "log.jsonl").write("log", text=ODD, rows=[{"x": ODD}])
    try:
        raise RecipeError(f"can't read {ODD!r}")
    except RecipeError as error:
        write_text(tmp_path / "traceback.txt", "".join(traceback.format_exception(error)))
    for path in tmp_path.iterdir():
        assert not forms_in(path.read_bytes(), ODD), path
        assert secrets.HIDDEN in path.read_text(), path


def forms_in(content: bytes, secret: str) -> list[str]:
    """The forms of a secret that stand in some bytes."""
    return [name for name, form in FORMS.items() if form(secret).strip("\"'b").encode("utf8") in content]


def test_logged_messages_and_tracebacks_hide_secrets(monkeypatch, capsys):
    from luthier.cli.messages import hide_secrets_in_messages

    use(ODD)
    monkeypatch.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())
    stream = io.StringIO()
    log, handler = logging.getLogger("luthier.test_secrets"), logging.StreamHandler(stream)
    log.addHandler(handler)
    hide_secrets_in_messages()
    try:
        raise ValueError(f"{[ODD]}")
    except ValueError:
        log.exception("reading %r", ODD)
    log.removeHandler(handler)
    assert "reading" in stream.getvalue()
    assert not forms_in(stream.getvalue().encode(), ODD)


def test_a_base_in_a_secret_place_is_found_again_by_its_variable(monkeypatch):
    monkeypatch.setenv("LUTHIER_TEST_TOKEN", "/secret/place")
    assert secrets.expand("${env:LUTHIER_TEST_TOKEN}/bert") == "/secret/place/bert"
    written = secrets.as_reference("/secret/place/bert")
    assert written == "${env:LUTHIER_TEST_TOKEN}/bert"
    assert secrets.expand(written) == "/secret/place/bert"
