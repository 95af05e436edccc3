"""Hidden characters are shown, all others are left alone."""

import pytest

from luthier.report.html import marked
from luthier.report.text import figure_text, one_line, visible


@pytest.mark.parametrize("hidden", ["\u202e", "\u2066", "\u200b", "\x00", "\x1b", "\x85", "\u2028", "\ud800", "\ufeff"])
def test_hidden_characters_become_marks(hidden: str):
    assert visible(f"a{hidden}b") == f"a⟨U+{ord(hidden):04X}⟩b"


@pytest.mark.parametrize("text", ["plain", "日本\u3000語", "a\u00a0b", "naïve é 😀", "עברית العربية"])
def test_other_text_is_left_alone(text: str):
    assert visible(text) == text


def test_lines_are_kept_where_asked():
    assert visible("a\nb\x00", keep="\n") == "a\nb⟨U+0000⟩"
    assert one_line("a\nb") == "a⟨U+000A⟩b"
    assert one_line("x" * 100, 10) == "x" * 9 + "…"


def test_marks_stand_out_from_text_that_looks_like_them():
    assert str(marked("<b>\u202e⟨U+202E⟩\n")) == '&lt;b&gt;<span class="mark">⟨U+202E⟩</span>⟨U+202E⟩\n'


@pytest.mark.parametrize(
    ("value", "text"),
    [(1240.0, "1,240"), (98765.4, "98,765"), (12, "12"), (0.12346, "0.1235"), (12.346, "12.35"), (1e40, "1e+40")],
)
def test_counts_and_measures_are_written_in_full_from_a_thousand_on(value: float, text: str):
    assert figure_text(value) == text
