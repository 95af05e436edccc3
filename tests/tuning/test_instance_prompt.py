"""The equations of instance prompts: the generator, and the full model against an independent reference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, RobertaConfig, RobertaModel

from luthier.models.layers.trunk import find_trunk
from luthier.tuning.instance_prompt import InstancePromptConfig, PHMLinear
from luthier.tuning.instance_prompt.tuner import build_generator
from tests.tuning.instance_prompt_models import LAYERS, SEPARATOR, WIDTH, encoder, kron_sum, pairs, reference, tuned

LENGTHS = [(4, 2), (2, 6), (5, 5)]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 8), (8, 24), (8, 8)])
@pytest.mark.parametrize("rows", [1, 2, 64])
@pytest.mark.parametrize("rank", [None, 2])
def test_a_phm_layer_is_the_sum_of_kronecker_products(inputs: int, outputs: int, rows: int, rank: int | None):
    torch.manual_seed(1)
    layer = PHMLinear(inputs, outputs, 4, rank=rank)
    x = torch.randn(rows, inputs, requires_grad=True)
    wanted = x @ kron_sum(layer.a, layer.right_factors())
    got = layer(x)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(got)
    parameters = [x, *layer.parameters()]
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), parameters, retain_graph=True),
        torch.autograd.grad((wanted * weight).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_a_phm_layer_forms_its_matrix_only_for_many_rows():
    layer = PHMLinear(8, 32, 4)
    formed = []
    layer.matrix = lambda a=None: formed.append(1) or PHMLinear.matrix(layer, a)  # type: ignore[method-assign]
    layer(torch.randn(2, 8))
    assert not formed
    layer(torch.randn(64, 8))
    assert formed


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize(
    ("position", "multi", "source"),
    [
        (0, True, "previous_layer"),
        (1, True, "previous_layer"),
        (0, True, "first_pass"),
        (1, False, "first_pass"),
        (2, True, "previous_layer"),
        (3, True, "first_pass"),
        (4, True, "previous_layer"),
        (4, False, "first_pass"),
    ],
)
def test_the_model_equals_the_reference(kind: str, position: int, multi: bool, source: str):
    base = encoder(kind)
    bare = copy.deepcopy(base)
    model = tuned(base, position=position, multi_layer=multi, vector_source=source, separator_token_id=2)
    batch = pairs(LENGTHS)
    logits = model(**batch).logits
    generator = model.base_model.prompt_layer.instance_prompt_generators["default"]
    for row, (a, b) in enumerate(LENGTHS):
        ids = batch["input_ids"][row, : a + b + 4].tolist()
        at = {0: 1, 1: a + 1, 2: a + 3, 3: a + b + 3, 4: a + b + 5}[position]
        settings = {"multi": multi, "previous": source == "previous_layer", "generator": generator}
        ends = (SEPARATOR, SEPARATOR) if position == 4 else ()
        wanted = reference(bare, ids, at=at, **settings, with_prompt=ends)
        torch.testing.assert_close(logits[row], wanted, rtol=1e-10, atol=1e-10)


def test_the_reference_is_the_model_where_there_is_no_prompt():
    base = encoder()
    batch = pairs(LENGTHS[:1])
    wanted = reference(base, batch["input_ids"][0].tolist(), at=None, multi=False, previous=False, generator=None)
    torch.testing.assert_close(base(**batch).logits[0], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("multi", [True, False])
def test_with_zero_matrices_it_is_prompt_tuning(multi: bool):
    base = encoder()
    bare = copy.deepcopy(base)
    model = tuned(base, multi_layer=multi)
    generator = model.base_model.prompt_layer.instance_prompt_generators["default"]
    with torch.no_grad():
        for parameter in generator.networks.parameters():
            parameter.zero_()
    batch = pairs(LENGTHS)
    embeds = bare.roberta.embeddings.word_embeddings(batch["input_ids"])
    bias = generator.bias.view(-1, 3, WIDTH)
    embeds = torch.cat([embeds[:, :1], bias[:1].expand(3, -1, -1), embeds[:, 1:]], 1)
    mask = torch.cat([batch["attention_mask"][:, :1].expand(-1, 3), batch["attention_mask"]], 1)
    if multi:
        for index, layer in enumerate(bare.roberta.encoder.layer):

            def add(_layer: Any, args: Any, index: int = index) -> Any:
                return (args[0] + torch.nn.functional.pad(bias[index], (0, 0, 1, args[0].shape[1] - 4)), *args[1:])

            if index:
                layer.register_forward_pre_hook(add)
    wanted = bare(inputs_embeds=embeds, attention_mask=mask).logits
    torch.testing.assert_close(model(**batch).logits, wanted, rtol=1e-11, atol=1e-11)


def test_replacing_discards_what_the_layer_below_made():
    """With the hidden states at the prompt replaced, the first prompt no longer counts above the first layer."""
    model = tuned(encoder(), insertion="replace", vector_source="first_pass")
    batch = pairs(LENGTHS)
    seen: list[torch.Tensor] = []
    trunk = model.base_model.prompt_layer.trunk
    trunk.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 1:4]))
    model(**batch)
    prompted = seen[-1]
    with model.disable_adapter():
        s = model.get_base_model().roberta(**batch).last_hidden_state[:, 0]
    generator = model.base_model.prompt_layer.instance_prompt_generators["default"]
    torch.testing.assert_close(prompted, generator(s, 1), rtol=1e-10, atol=1e-10)


def test_key_value_vectors_pass_through_the_projections():
    """Splicing 2 t hidden states into the inputs of key and value is what the layer computes."""
    base = encoder()
    bare = copy.deepcopy(base)
    model = tuned(base, insertion="key_value", multi_layer=False, vector_source="first_pass")
    batch = pairs(LENGTHS[:1])
    logits = model(**batch).logits
    s = bare.roberta(**batch).last_hidden_state[:, 0]
    made = model.base_model.prompt_layer.instance_prompt_generators["default"](s, 0)
    attention = bare.roberta.encoder.layer[0].attention.self
    hidden = bare.roberta.embeddings(batch["input_ids"])

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(1, x.shape[1], 4, -1).transpose(1, 2)

    q = heads(attention.query(hidden))
    k = heads(attention.key(torch.cat([hidden[:, :1], made[:, :3], hidden[:, 1:]], 1)))
    v = heads(attention.value(torch.cat([hidden[:, :1], made[:, 3:], hidden[:, 1:]], 1)))
    mixed = (q @ k.transpose(2, 3) / 2).softmax(-1) @ v
    mixed = mixed.transpose(1, 2).reshape(1, hidden.shape[1], WIDTH)
    attention.register_forward_hook(lambda *_: (mixed, None))
    torch.testing.assert_close(logits, bare(**batch).logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[:1]], ids=["ragged", "even"])
@pytest.mark.parametrize("first_layer", [0, 1])
def test_a_prompt_in_its_own_segment_keeps_its_separators(lengths: list[tuple[int, int]], first_layer: int):
    """In the first prompted layer the prompt stands between two separators; in those above, only it is replaced."""
    base = encoder()
    model = tuned(
        base, position=4, insertion="replace", vector_source="first_pass", separator_token_id=2, first_layer=first_layer
    )
    trunk, batch, seen = model.base_model.prompt_layer.trunk, pairs(lengths), {}
    for index, layer in enumerate(trunk.layers):
        layer.register_forward_pre_hook(lambda _, args, index=index: seen.__setitem__(index, args[0]))
    bare = {}
    with model.disable_adapter():
        s = model.get_base_model().roberta(**batch).last_hidden_state[:, 0]
        bare |= seen
    model(**batch)
    generator = model.base_model.prompt_layer.instance_prompt_generators["default"]
    for row, (a, b) in enumerate(lengths):
        start = a + b + 5
        for slot, index in enumerate(range(max(1, first_layer), LAYERS)):
            made = generator(s, slot + (first_layer == 0))
            torch.testing.assert_close(seen[index][row, start : start + 3], made[row], rtol=1e-10, atol=1e-10)
            separators = seen[index][row, [start - 1, start + 3]]
            assert not torch.isclose(separators, made[row, :2]).any()
        if first_layer:
            text = slice(0, a + b + 4)
            torch.testing.assert_close(seen[1][row, text], bare[1][row, text], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", [True, False])
def test_residual_and_layer_norm_follow_the_generated_prompt(norm: bool):
    plain, changed = tuned(encoder()), tuned(encoder(), residual=True, layer_norm=norm)
    own, other = (m.base_model.prompt_layer.instance_prompt_generators["default"] for m in (plain, changed))
    s = torch.randn(2, WIDTH)
    wanted = own(s, 1)
    if norm:
        wanted = torch.nn.functional.layer_norm(
            wanted, (WIDTH,), other.norms[0].weight, other.norms[0].bias, other.norms[0].eps
        )
    torch.testing.assert_close(other(s, 1), wanted + s[:, None])


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("vector_dropout", ["every_layer", "first_layer"])
@pytest.mark.parametrize("layer", [0, 1])
def test_dropout_acts_where_it_is_set_to(after: bool, vector_dropout: str, layer: int):
    model = tuned(encoder(), dropout=0.5, dropout_after_activation=after, vector_dropout=vector_dropout)
    generator = model.base_model.prompt_layer.instance_prompt_generators["default"].train()
    net, s = generator.networks[0], torch.randn(2, WIDTH)
    torch.manual_seed(7)
    made = generator(s, layer)
    torch.manual_seed(7)
    drop, gelu = torch.nn.Dropout(0.5), torch.nn.functional.gelu
    dropped = drop(s) if layer == 0 or vector_dropout == "every_layer" else s
    hidden = dropped @ net.down.matrix() + net.down_bias
    hidden = drop(gelu(hidden)) if after else gelu(drop(hidden))
    wanted = hidden @ net.up.matrix() + generator.bias[layer]
    torch.testing.assert_close(made, wanted.view(2, 3, WIDTH), rtol=1e-11, atol=1e-12)


def test_the_output_bias_starts_at_zero_where_it_is_set_to():
    config = InstancePromptConfig(bias_init="zero", generator="dnn", multi_layer=False)
    assert not build_generator(config, find_trunk(encoder())).bias.any()


SIZES = [
    ({"sharing": "shared"}, 19_472),
    ({}, 137_232),
    ({"sharing": "none"}, 467_328),
    ({"generator": "dnn"}, 221_200),
    ({"vector_source": "given", "vector_width": 300, "phm_order": 4}, 144_704),
    ({"multi_layer": False, "bottleneck": 256, "share_a": True}, 107_776),
    ({"multi_layer": False, "bottleneck": 256}, 111_872),
]


@pytest.mark.parametrize(("options", "parameters"), SIZES)
def test_sizes_are_those_of_the_paper(options: dict[str, Any], parameters: int):
    with torch.device("meta"):
        model = RobertaModel(
            RobertaConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
        )
        generator = build_generator(InstancePromptConfig(**options), find_trunk(model))
    assert sum(p.numel() for p in generator.parameters()) == parameters


def test_low_rank_factors_are_smaller():
    full, low = (tuned(encoder(), generator=g) for g in ("phm", "low_rank_phm"))
    count = [sum(p.numel() for p in m.base_model.prompt_layer.parameters()) for m in (full, low)]
    assert count[0] > count[1]


def test_first_numbers_follow_the_released_code():
    torch.manual_seed(3)
    model = RobertaModel(
        RobertaConfig(hidden_size=1024, num_hidden_layers=1, num_attention_heads=16, intermediate_size=8, vocab_size=8)
    )
    generator = build_generator(InstancePromptConfig(), find_trunk(model))
    net = generator.networks[0]
    for matrix in (net.down.matrix(), net.up.matrix()):
        assert float(matrix.std()) == pytest.approx(0.010, rel=0.15)
    assert generator.bias.abs().max() <= 0.5
    assert float(generator.bias.std()) == pytest.approx(0.289, rel=0.05)
    s = torch.randn(8, 1024)
    instance = generator.eval()(s, 0) - generator.bias[0].view(5, 1024)
    assert instance.std() < 0.05 * generator.bias.std()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"bottleneck": 10, "phm_order": 4}, "1, 2, 5, 10"),
        ({"bottleneck": 24, "phm_order": 3}, "1, 2, 4, 8"),
        ({"vector_source": "given", "vector_width": 18, "bottleneck": 8, "phm_order": 4}, "1, 2"),
    ],
)
def test_an_order_that_divides_not_every_width_is_refused_with_those_that_do(options: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=rf"phm_order is \d.*{named}"):
        tuned(encoder(), **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"generator": "cnn"}, "phm, dnn, low_rank_phm"),
        ({"position": 5}, "-1, 0, 1, 2, 3, 4"),
        ({"prompt_length": 0}, "above 0"),
        ({"position": -1}, "use 0"),
        ({"dropout": 1.0}, "below 1"),
        ({"generator": "dnn", "share_a": True}, "share_a would have no effect"),
        ({"vector_dropout": "first_layer", "multi_layer": False}, "vector_dropout would have no effect"),
        ({"phm_rank": 2}, "phm_rank would have no effect"),
        ({"insertion": "key_value", "position": 1}, "position would have no effect"),
        ({"first_layer": LAYERS}, f"the model has {LAYERS} layers"),
        ({"residual": True, "vector_source": "given", "vector_width": 8}, "leave it out"),
    ],
)
def test_settings_that_can_not_be_are_refused(options: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=complaint):
        tuned(encoder(), **options)


LAYERED = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@pytest.mark.parametrize("kind", ["mpnet", "gptj", "stablelm"])
def test_attention_that_would_not_take_the_vectors_is_refused(kind: str):
    """It has projections, and it, or the layer around it, drops what is handed down."""
    sizes: dict[str, dict[str, Any]] = {
        "mpnet": LAYERED,
        "stablelm": {**LAYERED, "num_key_value_heads": 4},
        "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
    }
    model = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=61, **sizes[kind]))
    with pytest.raises(ValueError, match=r"does nothing in|does not have: use 'add'"):
        tuned(model, insertion="key_value")
