"""Small tokenizers that are built without files."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<eos>", *"abcdefghijklmnopqrstuvwxyz"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter; `[CLS] a [SEP] b [SEP]`, and letters of a word are its sub-words."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordPiece(vocabulary | _continued(len(vocabulary)), unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def decoder_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """No special tokens around a text, and no padding token."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordPiece(vocabulary | _continued(len(vocabulary)), unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", **special)


def _continued(start: int) -> dict[str, int]:
    return {f"##{letter}": start + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
