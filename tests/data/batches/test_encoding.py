import logging

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from luthier.data.batches.encoders import Encoder, encode_words, opening_tokens
from luthier.data.batches.encoding import encode, encode_rows
from luthier.data.loading import load_data
from luthier.data.settings import DataSettings
from luthier.errors import DataError, ModelError
from luthier.extraction.encoding import encode_documents
from tests.data.tokenizers import decoder_tokenizer, word_tokenizer

UNSEEN = "\u200b"


def bert_tokenizer() -> BertTokenizerFast:
    """One token a letter; invisible characters are left out."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b"]
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})


def ids(rows, schema, tokenizer, **options):
    return encode_rows(rows, schema, tokenizer, **({"max_length": 32} | options))


def test_sentences_and_pairs(tokenizer):
    encoded = ids([{"text": "ab c", "label": 1, "row": 4}], "single_sentence", tokenizer)[0]
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert tokens == ["[CLS]", "a", "##b", "c", "[SEP]"]
    assert (encoded["labels"], encoded["row"], encoded["length"]) == (1, 4, 5)
    pair = ids([{"text": "a", "text_pair": "b", "label": 0}], "pair", tokenizer)[0]
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]
    assert ids([{"text": "a", "label": 0.25}], "regression", tokenizer)[0]["labels"] == 0.25


def test_long_rows_are_told_or_cut_and_told(tokenizer, caplog):
    rows = [{"text": "a " * n, "label": 0, "row": n} for n in (3, 9, 20, 6)]
    with pytest.raises(
        DataError, match=r"2 of 4 rows are longer than 8 tokens \(10 less 2 kept .*rows 9, 20; .*row 20 with 22"
    ):
        ids(rows, "single_sentence", tokenizer, max_length=10, reserved=2)
    with caplog.at_level(logging.WARNING):
        encoded = ids(rows, "single_sentence", tokenizer, max_length=10, reserved=2, too_long="truncate")
    assert encoded["length"][:] == [5, 8, 8, 8]
    assert encoded[1]["input_ids"][-1] == tokenizer.sep_token_id
    assert "2 of 4 rows were cut to 8 tokens; the longest, row 20, had 22" in caplog.text


def test_no_room_is_told(tokenizer):
    with pytest.raises(DataError, match="no room for text"):
        ids([{"text": "a", "label": 0}], "single_sentence", tokenizer, max_length=10, reserved=10)


def test_first_sub_words_carry_the_labels(tokenizer):
    row = {"tokens": ["ab", "c", "def"], "tags": [2, 0, 1]}
    encoded = ids([row], "token_labels", tokenizer)[0]
    assert encoded["labels"] == [-100, 2, -100, 0, 1, -100, -100, -100]
    assert encoded["word_starts"] == [1, 3, 4]
    unlabelled = ids([{"tokens": ["ab", "c"]}], "token_labels", tokenizer)[0]
    assert "labels" not in unlabelled
    assert unlabelled["word_starts"] == [1, 3]


_LLAMA = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+"), "isolated")
_PARTED = {
    "byte-level": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "byte-level with a blank before a text": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "digits apart": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "split before": pre_tokenizers.Sequence(
        [_LLAMA, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
    "blanks as a letter": pre_tokenizers.Metaspace(prepend_scheme="first"),
    "blanks as a letter, none before a text": pre_tokenizers.Metaspace(prepend_scheme="never"),
    "at blanks": pre_tokenizers.BertPreTokenizer(),
}


@pytest.mark.parametrize("parted", _PARTED)
def test_words_of_a_list_are_read_as_words_of_a_text(parted):
    words = ["Anna", "Berg's", "firm", ",", "Acme", "(", "12", ")", "paid", "a", "b", "."]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = _PARTED[parted]
    trained = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator([" ".join(words)], trained)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")
    columns = {"tokens": [words, words[4:]], "row": [1, 2], "tags": [list(range(12)), list(range(8))]}
    found = encode_words(columns, Encoder(tokenizer, 64))
    for own, starts, some in zip(found["input_ids"], found["word_starts"], columns["tokens"], strict=True):
        assert own == tokenizer(" ".join(some))["input_ids"]
        ends = [*starts[1:], len(own)]
        pieces = [tokenizer.convert_ids_to_tokens(own[start:end]) for start, end in zip(starts, ends, strict=True)]
        assert ["".join(one).strip("\u0120\u2581") for one in pieces] == some
    windows = encode_documents({"tokens": [words * 9], "row": [1]}, Encoder(tokenizer, 40))["input_ids"]
    whole = tokenizer(" ".join(words * 9))["input_ids"]
    assert len(windows) > 2
    for ids in windows:
        assert len(ids) <= 40
        assert ids in [whole[place : place + len(ids)] for place in range(len(whole))]


def test_words_that_the_model_does_not_see_shift_no_label(caplog):
    tokenizer = bert_tokenizer()
    row = {"tokens": ["a", UNSEEN, "b", "c", "ab"], "tags": [5, 6, 7, 8, 9], "row": 3}
    assert ids([row], "token_labels", tokenizer)[0]["labels"] == [-100, 5, 7, 8, 9, -100, -100]
    cut = {"max_length": 5, "too_long": "truncate"}
    assert ids([row], "token_labels", tokenizer, **cut)[0]["labels"] == [-100, 5, 7, 8, -100]
    assert ids([row], "token_labels", tokenizer, **cut)[0]["word_starts"] == [1, -1, 2, 3, -1]
    assert "2 words of 1 rows become no tokens or lie behind the cut" in caplog.text
    del row["tags"]
    rows = [row, {"tokens": [UNSEEN], "row": 4}]
    assert ids(rows, "token_labels", tokenizer, **cut)["word_starts"][:] == [[1, -1, 2, 3, -1], [-1]]


def test_a_row_that_becomes_no_tokens_at_all_has_a_place_in_the_batch():
    tokenizer = bert_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    rows = ids([{"tokens": [UNSEEN]}, {"tokens": ["a", UNSEEN]}], "token_labels", tokenizer)
    assert (rows["word_starts"][:], rows["input_ids"][:]) == ([[-1], [0, -1]], [[0], [5]])
    with pytest.raises(DataError, match="row 1 becomes no tokens"):
        ids([{"tokens": [UNSEEN], "tags": [1]}], "token_labels", tokenizer)


def test_a_row_without_labelled_tokens_is_told(tokenizer):
    rows = [{"tokens": ["a"], "tags": [0], "row": 1}, {"tokens": ["a", "b"], "tags": [-100, -100], "row": 2}]
    with pytest.raises(DataError, match=r"1 rows have no labelled token left .* the first is row 2"):
        ids(rows, "token_labels", tokenizer)


def test_answers_are_found_in_overlapping_windows(tokenizer):
    context = " ".join("abcdefghijklmnopqrst")
    start = context.index("q")
    row = {"question": "a b", "context": context, "answers": {"text": ["q r"], "answer_start": [start]}, "row": 9}
    windows = ids([row], "extractive_qa", tokenizer, max_length=16)
    assert len(windows) > 1
    assert set(windows["row"]) == {9}
    seen = 0
    for window in windows:
        first, last = window["start_positions"], window["end_positions"]
        if first:
            seen += 1
            assert context[window["offsets"][first][0] : window["offsets"][last][1]] == "q r"
        assert window["offsets"][0] == [-1, -1]
        assert len(window["offsets"]) == len(window["input_ids"]) <= 16
    assert seen


def test_answers_longer_than_a_window_and_long_questions_are_told(tokenizer):
    context = " ".join("abcdefghijklmnopqrst")
    row = {"question": "a", "context": context, "answers": {"text": [context], "answer_start": [0]}, "row": 3}
    with pytest.raises(DataError, match=r"answers of 1 rows fit in no window .*row 3"):
        ids([row], "extractive_qa", tokenizer, max_length=12)
    with pytest.raises(DataError, match="leave no room for their context"):
        ids([{**row, "question": "a " * 20}], "extractive_qa", tokenizer, max_length=16)


def test_unanswerable_questions_point_at_the_first_token(tokenizer):
    row = {"question": "a", "context": "b c", "answers": {"text": [], "answer_start": []}}
    encoded = ids([row], "extractive_qa", tokenizer)[0]
    assert (encoded["start_positions"], encoded["end_positions"]) == (0, 0)
    assert "start_positions" not in ids([{"question": "a", "context": "b"}], "extractive_qa", tokenizer)[0]


def test_choices_are_nested(tokenizer):
    encoded = ids([{"context": "a", "choices": ["b", "c d"], "label": 1}], "multiple_choice", tokenizer)[0]
    assert [len(one) for one in encoded["input_ids"]] == [5, 6]
    assert (encoded["labels"], encoded["length"]) == (1, 6)


def test_only_the_reply_is_learned():
    tokenizer = decoder_tokenizer(eos_token="<eos>")
    encoded = ids([{"prompt": "a b", "response": "c"}], "prompt_response", tokenizer)[0]
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["a", "b", "c", "<eos>"]
    assert encoded["labels"] == [-100, -100, *encoded["input_ids"][2:]]


def test_a_chat_template_marks_the_turns():
    tokenizer = decoder_tokenizer(eos_token="<eos>", pad_token="[PAD]")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'u ' if m.role == 'user' else 'r ' }}{{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}r {% endif %}"
    )
    encoded = ids([{"prompt": "a", "response": "b"}], "prompt_response", tokenizer)[0]
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["u", "a", "r", "b"]
    assert encoded["labels"][:3] == [-100] * 3


def test_a_long_prompt_loses_its_start_first():
    tokenizer = decoder_tokenizer(eos_token="<eos>")
    row = {"prompt": "a b c d e f g h", "response": "y z"}
    encoded = ids([row], "prompt_response", tokenizer, max_length=8, too_long="truncate")[0]
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert tokens == ["d", "e", "f", "g", "h", "y", "z", "<eos>"]
    row = {"prompt": "a b c d", "response": "s t u v w x y z"}
    encoded = ids([row], "prompt_response", tokenizer, max_length=8, too_long="truncate")[0]
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["c", "d", "s", "t", "u", "v", "w", "x"]


def test_replies_of_encoder_decoders_are_labels(tokenizer):
    encoded = ids([{"prompt": "a", "response": "b c"}], "prompt_response", tokenizer, encoder_decoder=True)[0]
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == ["[CLS]", "a", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(encoded["labels"]) == ["b", "c"]


def test_blocks_hold_every_token_once():
    tokenizer = decoder_tokenizer(eos_token="<eos>")
    rows = [{"text": "a b c", "row": 5}, {"text": "d e", "row": 6}, {"text": "f g h", "row": 7}]
    blocks = ids(rows, "plain_text", tokenizer, max_length=4)
    tokens = [tokenizer.convert_ids_to_tokens(block["input_ids"]) for block in blocks]
    assert tokens == [["a", "b", "c", "<eos>"], ["d", "e", "<eos>", "f"], ["g", "h", "<eos>"]]
    assert blocks["row"][:] == [5, 6, 7]
    assert all(block["labels"] == block["input_ids"] for block in blocks)


def test_a_text_of_no_tokens_is_told():
    with pytest.raises(DataError, match="row 8 becomes no tokens"):
        ids([{"text": "\u200b ", "label": 0, "row": 8}], "single_sentence", _silent())


def _silent():
    from tokenizers import normalizers

    tokenizer = decoder_tokenizer(eos_token="<eos>")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    return tokenizer


def test_splits_of_loaded_data(write, tokenizer):
    data = load_data(DataSettings(train=write("a.csv", "text,label\na b,x\nc,y\n")))
    encoded = encode(data, tokenizer, max_length=16)
    assert set(encoded["train"].column_names) == {
        "input_ids", "attention_mask", "token_type_ids", "labels", "row", "length",
    }  # fmt: skip
    with pytest.raises(DataError, match="no split 'test'"):
        encode(data, tokenizer, max_length=16, splits=("test",))


def collate(rows, schema, tokenizer, multiple=None, **options):
    from luthier.data.batches.collating import make_collator

    return make_collator(schema, tokenizer, multiple)(list(ids(rows, schema, tokenizer, **options)))


def test_batches_are_padded_on_the_tokenizers_side(tokenizer):
    rows = [{"text": "a b c", "label": 1, "row": 2}, {"text": "a", "label": 0, "row": 5}]
    batch = collate(rows, "single_sentence", tokenizer)
    assert batch["input_ids"].shape == (2, 5)
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["row"].tolist() == [2, 5]
    assert batch["labels"].dtype == torch.int64
    tokenizer.padding_side = "left"
    assert collate(rows, "single_sentence", tokenizer)["attention_mask"][1].tolist() == [0, 0, 1, 1, 1]
    assert collate(rows, "single_sentence", tokenizer, 8)["input_ids"].shape == (2, 8)


def test_batches_of_every_task(tokenizer):
    batch = collate([{"text": "a", "label": 0.5}, {"text": "b", "label": 2.0}], "regression", tokenizer)
    assert batch["labels"].dtype == torch.float32
    words = [{"tokens": ["ab"], "tags": [1]}, {"tokens": ["a", "b", "c"], "tags": [0, 1, 2]}]
    assert collate(words, "token_labels", tokenizer)["labels"].tolist() == [
        [-100, 1, -100, -100, -100],
        [-100, 0, 1, 2, -100],
    ]
    choices = [{"context": "a", "choices": ["b", "c d"], "label": 1}] * 3
    batch = collate(choices, "multiple_choice", tokenizer)
    assert (batch["input_ids"].shape, batch["labels"].shape) == ((3, 2, 6), (3,))
    assert batch["input_ids"][0, 0, -1] == tokenizer.pad_token_id
    answers = [
        {"question": "a", "context": "b c d", "answers": {"text": ["c"], "answer_start": [2]}},
        {"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [0]}},
    ]
    batch = collate(answers, "extractive_qa", tokenizer)
    assert batch["start_positions"].tolist() == batch["end_positions"].tolist() == [4, 3]
    tokenizer.padding_side = "left"
    assert collate(answers, "extractive_qa", tokenizer)["start_positions"].tolist() == [4, 5]


def test_the_end_token_pads_where_there_is_no_other(caplog):
    tokenizer = decoder_tokenizer(eos_token="<eos>")
    with caplog.at_level(logging.INFO):
        batch = collate([{"text": "a b"}, {"text": "c"}], "single_sentence", tokenizer)
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert "end token '<eos>' is used" in caplog.text
    with pytest.raises(ModelError, match=r"neither a padding token nor an end token(.|\n)*fix: add one"):
        collate([{"text": "a"}], "single_sentence", decoder_tokenizer())


def test_what_is_padded_or_batched_with_does_not_change_a_row():
    tokenizer = word_tokenizer()
    short, long = {"text": "a b", "label": 0}, {"text": "a b c d e", "label": 1}
    alone = collate([short], "single_sentence", tokenizer)
    together = collate([long, short], "single_sentence", tokenizer)
    kept = together["attention_mask"][1].bool()
    assert together["input_ids"][1][kept].tolist() == alone["input_ids"][0].tolist()


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m['content'] }} z {% endfor %}"])
def test_a_prompt_is_gone_on_from_as_it_was_learned(tokenizer, template):
    tokenizer.eos_token, tokenizer.chat_template = "[SEP]", template
    row = {"prompt": "ab c", "response": "d", "row": 1}
    learned = ids([row], "prompt_response", tokenizer)[0]
    (opening,) = opening_tokens([row], Encoder(tokenizer, 32), 16)
    assert opening == learned["input_ids"][: len(opening)]
    assert set(learned["labels"][: len(opening)]) == {-100}
    assert learned["labels"][len(opening)] != -100


def test_a_text_is_gone_on_from_as_it_was_learned(tokenizer):
    row = {"text": "ab c d", "row": 1}
    (block,) = ids([row], "plain_text", tokenizer)["input_ids"]
    (opening,) = opening_tokens([row], Encoder(tokenizer, 32), 16)
    assert block[: len(opening)] == opening == tokenizer("ab c d", add_special_tokens=False)["input_ids"]


def test_a_long_prompt_keeps_its_end_and_room_to_write(tokenizer):
    encoder = Encoder(tokenizer, 24, too_long="truncate")
    (opening,) = opening_tokens([{"text": "a " * 30 + "b", "row": 1}], encoder, 16)
    assert tokenizer.convert_ids_to_tokens(opening) == [*"aaaaaaa", "b"]
    assert encoder.cut == [(1, 31)]
