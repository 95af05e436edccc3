"""Tasks posed as text: templates and answers, and how they are encoded."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from luthier.data.batches.encoding import encode, encode_rows, make_collator
from luthier.data.catalogue.lookup import known_sets
from luthier.data.loading import load_data
from luthier.data.rows.posing import TEMPLATES
from luthier.data.settings import DataSettings
from luthier.data.text_form import TextForm, template_columns
from luthier.errors import DataError
from tests.evaluation.text_models import tokenizer_of

WORDS = "review hint : a b c d e f positive negative good".split()
CSV = "review,hint,label\na b,c,positive\nd,e f,negative\nb b,a,positive\n"


def posed(train, **fields):
    return load_data(DataSettings(train=train, as_text=True, **fields))


def test_texts_stand_after_the_names_of_their_columns(write):
    data = posed(write("a.csv", CSV), text="review", text_pair="hint")
    assert data.form == TextForm("review: {text} hint: {text_pair}", ("negative", "positive"), ("negative", "positive"))
    assert (data.schema.name, data.encoded_schema, data.metrics) == ("pair", "prompt_response", ("accuracy", "f1"))
    assert data.splits["train"].column_names == ["row", "text", "text_pair", "label"]


def test_own_template_and_words(write):
    data = posed(write("a.csv", CSV), text="review", template="{{is}} {text} good", verbalizers={"positive": " good "})
    assert data.form.words == ("negative", "good")
    assert data.form.template.format_map(data.form.values({"text": "a {b}"})) == "{is} a {b} good"


def test_choices_are_named_and_answered_by_their_names(write):
    lines = [{"context": "it rained", "choices": ["wet", "dry"], "label": i % 2} for i in range(3)]
    path = write("a.jsonl", "\n".join(map(json.dumps, lines)))
    form = posed(path).form
    assert (form.labels, form.words) == (("0", "1"), ("choice1", "choice2"))
    row = {"context": "it rained", "choices": ["wet", "dry"]}
    assert form.template.format_map(form.values(row)) == "choice1: wet choice2: dry context: it rained"
    named = posed(path, verbalizers={"0": "False", "1": "True"}).form
    assert named.values(row)["choices"] == "False: wet True: dry"


@pytest.mark.parametrize(
    ("step", "words"), [(None, ("0.6", "0.8", "1.0", "1.2")), (1, ("1",)), (0.05, None), (0.001, None)]
)
def test_numbers_in_steps(write, step, words):
    path = write("a.csv", "text,label\nx,0.55\ny,1.2\nz,0.7\n")
    if step in (1, 0.001):
        with pytest.raises(DataError, match=r"make \d+ numbers(.|\n)*number_step"):
            posed(path, task="regression", number_step=step)
        return
    form = posed(path, task="regression", number_step=step).form
    assert form.words == words or (form.words[0], form.words[-1], len(form.words)) == ("0.55", "1.20", 14)


def test_every_benchmark_task_has_a_template_that_fits_it():
    for known in known_sets().values():
        if known.hub is not None:
            name = known.name.rpartition("/")[2]
            columns = template_columns(TEMPLATES[name])
            assert set(columns) <= set(known.columns), known.name
            assert TEMPLATES[name].startswith(f"{name} ")
            assert {"text", "text_pair", "context"} & set(columns), known.name


def test_record_is_posed_with_its_entities(write, monkeypatch):
    import datasets

    rows = {
        "passage": ["Ann met Bo."],
        "query": ["@placeholder was met"],
        "entities": [["Ann", "Bo"]],
        "answers": [["Bo"]],
        "idx": [{"passage": 3, "query": 7}],
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": datasets.Dataset.from_dict(rows)})
    data = posed("superglue/record")
    assert data.form.ranks_candidates
    prompts = {data.form.template.format_map(data.form.values(row)) for row in data.splits["train"]}
    assert prompts == {"record query: @placeholder was met entities: Ann, Bo passage: Ann met Bo."}
    assert [data.form.options(row) for row in data.splits["train"]] == [("Ann",), ("Bo",)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "{text}", "as_text": False}, "`template` has no effect without `as_text: true`"),
        ({"label_scoring": "generate", "as_text": False}, "`label_scoring` has no effect"),
        ({"template": "{txt}"}, r"names \{txt\}; it may name \{text\}"),
        ({"template": "{text.__class__}"}, "names {text.__class__}"),
        ({"template": "no column"}, "shows nothing of the example"),
        ({"template": "{text"}, "can't be read"),
        ({"task": "token_labels"}, "task token_labels can't be posed as text"),
        ({"task": "pair", "number_step": 1}, "`number_step` has no effect for task pair"),
        ({"task": "regression", "verbalizers": {"1": "one"}}, "`verbalizers` have no effect for task regression"),
    ],
)
def test_settings_that_can_not_be_meant(fields, message):
    with pytest.raises(ValidationError, match=message):
        DataSettings(**{"train": "a.csv", "as_text": True} | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"verbalizers": {"positve": "good"}}, r"names the label 'positve'(.|\n)*did you mean 'positive'"),
        ({"verbalizers": {"positive": "negative"}}, "two labels have the same text"),
        ({"template": "{text} {text_pair}"}, r"shows \{text_pair\}, which a single_sentence task does not have"),
        ({"number_step": 0.5}, "`number_step` has no effect for task single_sentence"),
        ({"labelled": False}, "the labels are not known"),
    ],
)
def test_data_that_can_not_be_posed(write, fields, message):
    with pytest.raises(DataError, match=message):
        posed(write("a.csv", CSV), text="review", **fields)


def test_tasks_without_labels_can_not_be_posed(write):
    with pytest.raises(DataError, match="task prompt_response can't be posed as text"):
        posed(write("a.csv", "prompt,response\na,b\n"))


def decoded(tokenizer, ids):
    return tokenizer.decode(ids)


def test_an_encoder_decoder_answers_beside_the_prompt(write):
    tokenizer = tokenizer_of(WORDS, "t5")
    data = posed(write("a.csv", CSV), text="review")
    rows = encode(data, tokenizer, max_length=20, encoder_decoder=True)["train"]
    assert decoded(tokenizer, rows[0]["input_ids"]) == "review : a b </s>"
    assert decoded(tokenizer, rows[0]["labels"]) == "positive </s>"
    assert [decoded(tokenizer, ids) for ids in rows[0]["options"]] == ["negative </s>", "positive </s>"]
    assert (rows["answer"][:], rows["gold"][:], rows["prompt_tokens"][:]) == ([1, 0, 1], [1, 0, 1], [5, 4, 5])
    batch = make_collator(data.encoded_schema, tokenizer)([rows[0], rows[1]])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "row"}


def test_a_decoder_learns_the_answer_alone(write):
    tokenizer = tokenizer_of(WORDS, "llama")
    row = encode(posed(write("a.csv", CSV), text="review"), tokenizer, max_length=20)["train"][1]
    assert decoded(tokenizer, row["input_ids"]) == "review : d negative </s>"
    assert row["labels"][:3] == [-100] * 3
    assert row["labels"][3:] == row["input_ids"][3:]
    assert row["prompt_tokens"] == 3


def test_a_chat_template_takes_the_prompt_as_the_users_turn():
    tokenizer = tokenizer_of([*WORDS, "[U]", "[A]"], "llama")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ ' U ' if m.role == 'user' else ' A ' }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} A {% endif %}"
    )
    form = TextForm("review: {text}", ("no", "yes"), ("negative", "positive"))
    row = encode_rows([{"text": "a", "label": 1}], "single_sentence", tokenizer, max_length=20, form=form)[0]
    assert decoded(tokenizer, row["input_ids"]) == "<unk> review : a <unk> positive"


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_long_text_loses_its_end_and_the_names_stay(kind):
    tokenizer = tokenizer_of(WORDS, kind)
    form = TextForm("review: {text} hint: {text_pair}", ("no", "yes"), ("negative", "good good"))
    rows = [{"text": "a b c d e f " * 9, "text_pair": "b", "label": 1}, {"text": "a", "text_pair": "b", "label": 0}]
    options = {"max_length": 20, "reserved": 4, "encoder_decoder": kind == "t5", "form": form}
    with pytest.raises(DataError, match="1 of 2 rows are longer than 16 tokens"):
        encode_rows(rows, "pair", tokenizer, **options)
    cut = encode_rows(rows, "pair", tokenizer, too_long="truncate", **options)
    prompt = decoded(tokenizer, cut[0]["input_ids"][: cut[0]["prompt_tokens"]])
    assert prompt.startswith("review : a b c d e")
    assert prompt.removesuffix(" </s>").endswith("hint : b")
    room = 16 if kind == "t5" else 16 - 3
    assert room - 2 <= cut[0]["prompt_tokens"] <= room
    with pytest.raises(DataError, match="the template alone is longer"):
        encode_rows(rows, "pair", tokenizer, too_long="truncate", **options | {"max_length": 9})


def test_answers_that_the_tokenizer_does_not_tell_apart():
    form = TextForm("review: {text}", ("no", "yes"), ("nix", "ja"))
    with pytest.raises(DataError, match="'nix' and 'ja' are the same to the model's tokenizer"):
        encode_rows([{"text": "a", "label": 0}], "single_sentence", tokenizer_of(WORDS, "t5"), max_length=9, form=form)


def test_a_stream_is_posed_as_it_is_read(write):
    tokenizer = tokenizer_of(WORDS, "t5")
    data = posed(write("a.csv", CSV), text="review", streaming=True, labels=["positive", "negative"])
    rows = list(encode(data, tokenizer, max_length=20, encoder_decoder=True)["train"])
    assert sorted(row["answer"] for row in rows) == [0, 0, 1]
    assert {decoded(tokenizer, row["labels"]) for row in rows} == {"positive </s>", "negative </s>"}
