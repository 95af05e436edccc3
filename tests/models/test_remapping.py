"""Parameter remapping: every rule against tensors put together by hand, and against what the models compute."""

from typing import Any

import pytest
import torch
import transformers

from luthier.errors import ModelError
from luthier.models.remapping import depth_sources, remap_parameters

VOCABULARY = 40
TOKENS = torch.tensor([[2, 7, 9, 31, 4, 0], [5, 5, 38, 1, 3, 17]])


def bert(layers: int = 2, width: int = 16, *, cls: str = "BertForMaskedLM", seed: int = 0, **changes: Any) -> Any:
    sizes = {"num_attention_heads": width // 8, "intermediate_size": 3 * width, "max_position_embeddings": 16}
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, **{**sizes, **changes}
    )
    return made(cls, config, seed)


def llama(layers: int = 2, width: int = 32, *, cls: str = "LlamaForCausalLM", seed: int = 0, **changes: Any) -> Any:
    sizes = {"num_attention_heads": width // 8, "num_key_value_heads": width // 16, "intermediate_size": 2 * width}
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, **{**sizes, **changes}
    )
    return made(cls, config, seed)


def gpt2(layers: int = 2, width: int = 16, *, cls: str = "GPT2LMHeadModel", seed: int = 0) -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=width, n_layer=layers, n_head=width // 8, n_positions=16
    )
    return made(cls, config, seed)


def modernbert(layers: int = 2, width: int = 16, *, cls: str = "ModernBertForMaskedLM", seed: int = 0) -> Any:
    tokens = dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id"), 0)
    config = transformers.ModernBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 8,
        intermediate_size=3 * width,
        **tokens,
    )
    return made(cls, config, seed)


def distilbert(layers: int = 2, width: int = 16, *, cls: str = "DistilBertForMaskedLM", seed: int = 0) -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=width, n_layers=layers, n_heads=width // 8, hidden_dim=3 * width
    )
    return made(cls, config, seed)


def roberta(layers: int = 2, width: int = 16, *, cls: str = "RobertaForMaskedLM", seed: int = 0) -> Any:
    config = transformers.RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 8,
        intermediate_size=3 * width,
        max_position_embeddings=16,
    )
    return made(cls, config, seed)


def t5(layers: int = 2, width: int = 16, *, seed: int = 0) -> Any:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=24, num_layers=layers, num_heads=2, decoder_start_token_id=0
    )
    return made("T5ForConditionalGeneration", config, seed)


def made(cls: str, config: Any, seed: int) -> Any:
    """A model with its own random biases and norms: zeros and ones would hide what is not copied."""
    torch.manual_seed(seed)
    model = getattr(transformers, cls)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


MODELS = {
    "bert": bert,
    "llama": llama,
    "gpt2": gpt2,
    "modernbert": modernbert,
    "distilbert": distilbert,
    "roberta": roberta,
}
CLASSIFIERS = {
    "bert": (bert, "BertForSequenceClassification"),
    "llama": (llama, "LlamaForSequenceClassification"),
    "distilbert": (distilbert, "DistilBertForSequenceClassification"),
    "roberta": (roberta, "RobertaForSequenceClassification"),
}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TOKENS).logits
    return found


def layers(model: Any) -> list[dict[str, torch.Tensor]]:
    return [dict(layer.named_parameters()) for layer in model.bert.encoder.layer]


@pytest.mark.parametrize("width", ["overlap", "overlap_random", "function_preserving"])
@pytest.mark.parametrize("build", MODELS.values(), ids=list(MODELS))
def test_a_student_of_equal_sizes_gives_identical_logits(build: Any, width: Any) -> None:
    student, teacher = build(seed=1), build(seed=2)
    done = remap_parameters(student, teacher, width=width)
    assert torch.equal(logits(student), logits(teacher))
    assert (done.widened, done.own) == ((), ())
    assert set(done.copied) == {name for name, _ in student.named_parameters()}


def test_an_encoder_decoder_of_equal_sizes_gives_identical_logits() -> None:
    student, teacher = t5(seed=1), t5(seed=2)
    assert remap_parameters(student, teacher).sources == {"encoder": [0, 1], "decoder": [0, 1]}
    with torch.no_grad():
        one, two = (m(input_ids=TOKENS, decoder_input_ids=TOKENS).logits for m in (student, teacher))
    assert torch.equal(one, two)


def test_four_layers_become_six_and_the_last_ones_are_equal_but_separate() -> None:
    student, teacher = bert(6, seed=1), bert(4, seed=2)
    assert remap_parameters(student, teacher).sources == {"layers": [0, 1, 2, 3, 3, 3]}
    of_student, of_teacher = layers(student), layers(teacher)
    for layer, source in zip(of_student, [0, 1, 2, 3, 3, 3], strict=True):
        assert all(torch.equal(p, of_teacher[source][n]) for n, p in layer.items())
    places = [p.data_ptr() for layer in of_student[3:] for p in layer.values()]
    assert len(set(places)) == len(places)
    with torch.no_grad():
        next(iter(of_student[4].values())).add_(1.0)
    assert torch.equal(next(iter(of_student[5].values())), next(iter(of_teacher[3].values())))


@pytest.mark.parametrize(
    ("rule", "student", "teacher", "expected"),
    [
        ("repeat_last", 6, 4, [0, 1, 2, 3, 3, 3]),
        ("repeat_last", 2, 4, [0, 1]),
        ("uniform", 6, 12, [0, 2, 4, 7, 9, 11]),
        ("uniform", 1, 3, [0]),
        ("uniform", 4, 2, [0, 0, 1, 1]),
        ("first", 2, 5, [0, 1]),
        ("last", 2, 5, [3, 4]),
        ([4, 0, 0], 3, 5, [4, 0, 0]),
    ],
)
def test_depth_rules(rule: Any, student: int, teacher: int, expected: list[int]) -> None:
    assert depth_sources(rule, student, teacher) == expected
    one, other = bert(student, seed=1), bert(teacher, seed=2)
    remap_parameters(one, other, depth=rule)
    for layer, source in zip(layers(one), expected, strict=True):
        assert all(torch.equal(p, layers(other)[source][n]) for n, p in layer.items())


@pytest.mark.parametrize("rule", ["first", "last", [0, 1], [0, 1, 2], [0, 1, -1]])
def test_depth_rules_that_don_t_fit_are_refused(rule: Any) -> None:
    with pytest.raises(ModelError, match=r"takes some of the teacher's layers|does not give each of 3 layers one of 2"):
        remap_parameters(bert(3), bert(2), depth=rule)


@pytest.mark.parametrize("rule", ["overlap", "overlap_random"])
def test_overlaps_of_a_wider_student(rule: Any) -> None:
    student, before, teacher = bert(width=32, seed=1), bert(width=32, seed=1), bert(width=16, seed=2)
    remap_parameters(student, teacher, width=rule)
    of_teacher, first = dict(teacher.named_parameters()), dict(before.named_parameters())
    for name, p in student.named_parameters():
        source = of_teacher[name]
        inside = tuple(slice(0, n) for n in source.shape)
        expected = torch.zeros_like(p) if rule == "overlap" and p.ndim == 2 else first[name].detach().clone()
        expected[inside] = source
        assert torch.equal(p, expected), name


def test_a_narrower_student_gets_the_leading_units_and_whole_heads() -> None:
    student, teacher = bert(width=16, seed=1), bert(width=32, seed=2)
    remap_parameters(student, teacher)
    query, source = (m.bert.encoder.layer[1].attention.self.query.weight for m in (student, teacher))
    assert torch.equal(query, source[:16, :16])


def test_parts_of_a_fused_layer_stay_apart() -> None:
    student, teacher = gpt2(width=32, seed=1), gpt2(width=16, seed=2)
    remap_parameters(student, teacher)
    wide, narrow = (m.transformer.h[0].attn.c_attn.weight for m in (student, teacher))
    for part in range(3):
        expected = torch.zeros(32, 32)
        expected[:16, :16] = narrow[:, 16 * part : 16 * part + 16]
        assert torch.equal(wide[:, 32 * part : 32 * part + 32], expected)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("build", MODELS.values(), ids=list(MODELS))
def test_function_preserving_gives_equal_logits_where_units_are_repeated_equally(build: Any, seed: int) -> None:
    width = 32 if build is llama else 16
    student, teacher = build(width=3 * width, seed=1), build(width=width, seed=2)
    remap_parameters(student, teacher, width="function_preserving", seed=seed)
    torch.testing.assert_close(logits(student), logits(teacher), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("build", [bert, llama])
def test_function_preserving_of_tied_and_untied_outputs(build: Any, tied: bool) -> None:
    student = build(width=64, seed=1, tie_word_embeddings=tied)
    teacher = build(width=32, seed=2, tie_word_embeddings=tied)
    remap_parameters(student, teacher, width="function_preserving")
    assert (student.get_output_embeddings().weight is student.get_input_embeddings().weight) == tied
    torch.testing.assert_close(logits(student), logits(teacher), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("build", "cls"), CLASSIFIERS.values(), ids=list(CLASSIFIERS))
def test_function_preserving_of_a_classifier(build: Any, cls: str) -> None:
    student, teacher = build(width=64, cls=cls, seed=1), build(width=32, cls=cls, seed=2)
    for model in (student, teacher):
        model.config.pad_token_id = 39
    remap_parameters(student, teacher, width="function_preserving")
    with torch.no_grad():
        one, two = (m(TOKENS).logits for m in (student, teacher))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_function_preserving_against_net2net_by_hand() -> None:
    """A feed-forward part alone, of which one unit is repeated unequally often: still exact, as no norm is widened."""
    student, teacher = bert(1, 16, seed=1, intermediate_size=40), bert(1, 16, seed=2, intermediate_size=24)
    remap_parameters(student, teacher, width="function_preserving", seed=3)
    torch.testing.assert_close(logits(student), logits(teacher), atol=1e-5, rtol=1e-5)
    wide, narrow = (m.bert.encoder.layer[0] for m in (student, teacher))
    rows, source = wide.intermediate.dense.weight, narrow.intermediate.dense.weight
    chosen = [int((source == row).all(1).nonzero()) for row in rows]
    assert chosen[:24] == list(range(24))
    assert sorted(set(chosen[24:])) != list(range(16))
    counts = torch.tensor([chosen.count(c) for c in chosen])
    assert set(counts.tolist()) == {1, 2}
    assert torch.equal(wide.output.dense.weight, narrow.output.dense.weight[:, chosen] / counts)


def test_function_preserving_refuses_what_it_can_t_do() -> None:
    with pytest.raises(ModelError, match="widens, and the student has"):
        remap_parameters(bert(width=16), bert(width=32), width="function_preserving")
    with pytest.raises(ModelError, match="knows no encoder-decoders"):
        remap_parameters(t5(), t5(), width="function_preserving")
    with pytest.raises(ModelError, match="share keys in other groups"):
        remap_parameters(llama(width=64, num_key_value_heads=2), llama(), width="function_preserving")


def test_an_architecture_that_scales_by_its_width_is_not_claimed_to_be_preserved() -> None:
    def gemma(width: int) -> Any:
        config = transformers.GemmaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
        )
        return made("GemmaForCausalLM", config, 1)

    with pytest.raises(ModelError, match="does not preserve what a gemma model computes"):
        remap_parameters(gemma(32), gemma(16), width="function_preserving")


@pytest.mark.parametrize("cls", ["BertForMaskedLM", "BertForSequenceClassification"])
def test_embeddings_and_head_can_be_left_out(cls: str) -> None:
    teacher = bert(seed=2, cls=cls)
    for embeddings, head in ((True, False), (False, True), (False, False)):
        student, before = bert(seed=1, cls=cls), dict(bert(seed=1, cls=cls).named_parameters())
        done = remap_parameters(student, teacher, embeddings=embeddings, head=head)
        for name, p in student.named_parameters():
            own = (not embeddings and name.startswith("bert.embeddings")) or (not head and not name.startswith("bert."))
            assert torch.equal(p, before[name] if own else teacher.get_parameter(name)), name
            assert (name in done.own) == own


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_tied_whatever_the_teacher_s_are(tied: bool) -> None:
    student, teacher = bert(seed=1), bert(seed=2, tie_word_embeddings=tied)
    remap_parameters(student, teacher)
    assert student.cls.predictions.decoder.weight is student.bert.embeddings.word_embeddings.weight
    assert torch.equal(student.cls.predictions.decoder.weight, teacher.bert.embeddings.word_embeddings.weight)


def test_an_untied_student_of_a_tied_teacher_gets_its_output_layer() -> None:
    student, teacher = bert(seed=1, tie_word_embeddings=False), bert(seed=2)
    remap_parameters(student, teacher)
    assert torch.equal(logits(student), logits(teacher))


def test_the_body_is_found_below_another_head_and_a_head_of_other_labels_stays() -> None:
    student = bert(seed=1, cls="BertForSequenceClassification", num_labels=5)
    before = {n: p.detach().clone() for n, p in student.classifier.named_parameters()}
    for cls, labels in (("BertModel", 2), ("BertForMaskedLM", 2), ("BertForSequenceClassification", 3)):
        teacher = bert(seed=2, cls=cls, num_labels=labels)
        remap_parameters(student, teacher)
        body = getattr(teacher, "bert", teacher)
        name = "encoder.layer.1.output.dense.weight"
        assert torch.equal(student.bert.get_parameter(name), body.get_parameter(name))
        assert all(torch.equal(p, before[n]) for n, p in student.classifier.named_parameters())


def test_more_positions_keep_their_own_start() -> None:
    student, before = bert(seed=1, max_position_embeddings=24), bert(seed=1, max_position_embeddings=24)
    teacher = bert(seed=2)
    remap_parameters(student, teacher)
    found, own = (m.bert.embeddings.position_embeddings.weight for m in (student, before))
    assert torch.equal(found[:16], teacher.bert.embeddings.position_embeddings.weight)
    assert torch.equal(found[16:], own[16:])


def test_models_that_don_t_belong_together_are_refused() -> None:
    with pytest.raises(ModelError, match="the student is a bert model and the teacher a roberta model"):
        remap_parameters(bert(), roberta())
    with pytest.raises(ModelError, match="a head of the student is 16 wide and one of the teacher 8"):
        remap_parameters(bert(num_attention_heads=1), bert())
    other = bert()
    other.resize_token_embeddings(48)
    with pytest.raises(ModelError, match="vocabulary has 40 tokens and the teacher's 48"):
        remap_parameters(bert(), other)
    done = remap_parameters(bert(seed=1), other, embeddings=False)
    assert "bert.embeddings.word_embeddings.weight" in done.own


def test_an_adapter_has_to_be_merged_first() -> None:
    import peft

    tuned = peft.get_peft_model(bert(), peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(ModelError, match="the teacher has adapters"):
        remap_parameters(bert(), tuned)
