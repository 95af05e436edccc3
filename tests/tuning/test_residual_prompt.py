"""Residual Prompt Tuning against the paper's equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from transformers import ElectraConfig, ElectraForSequenceClassification

from luthier.errors import ModelError
from luthier.tuning.residual_prompt import ResidualPromptConfig, branch_ratio, parameter_counts
from tests.tuning.cases import ARCHITECTURES, VOCABULARY, WIDTH, base_model, batch_of, token_ids

NUMPY_ACTIVATION = {
    "relu": lambda x: x.clamp(min=0),
    "tanh": torch.tanh,
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
}


def prompted(kind: str = "encoder", **settings: Any) -> Any:
    settings = {"num_virtual_tokens": 4, "prompt_init_seed": 5, **settings}
    torch.manual_seed(1)
    config = ResidualPromptConfig(task_type=ARCHITECTURES[kind].task_type, **settings)
    return get_peft_model(base_model(kind), config).eval()


def encoder_of(model: Any) -> Any:
    return model.prompt_encoder["default"]


def prompt_of(model: Any) -> torch.Tensor:
    return model.get_prompt(batch_size=1)[0]


def phi(
    weights: dict[str, torch.Tensor], x: torch.Tensor, activation: str, layer_norm: bool, row: int = 0
) -> torch.Tensor:
    """Section 2: LN(W_up a(W_down x + b_down) + b_up) of one vector."""
    w = {name: value[row] for name, value in weights.items()}
    y = w["up.weight"] @ NUMPY_ACTIVATION[activation](w["down.weight"] @ x + w["down.bias"]) + w["up.bias"]
    if layer_norm:
        y = (y - y.mean()) / (y.var(unbiased=False) + 1e-5).sqrt() * w["norm.gain"] + w["norm.bias"]
    return y


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_network_is_the_papers(activation: str, residual: bool, layer_norm: bool, shared: bool) -> None:
    options = {"activation": activation, "residual": residual, "layer_norm": layer_norm, "shared": shared}
    model = prompted(bottleneck=8, **options).double()
    for p in encoder_of(model).parameters():
        torch.nn.init.normal_(p)
    rows, weights = encoder_of(model).embedding.weight, dict(encoder_of(model).network.named_parameters())
    expected = [phi(weights, x, activation, layer_norm, 0 if shared else i) + residual * x for i, x in enumerate(rows)]
    torch.testing.assert_close(prompt_of(model), torch.stack(expected), rtol=0, atol=1e-12)


def test_tied_halves_apply_one_network_twice() -> None:
    model = prompted(reparameterizer="mlp2", bottleneck=8).double()
    rows, weights = (
        encoder_of(model).embedding.weight,
        dict(encoder_of(model).network.first.named_parameters()),
    )
    once = [phi(weights, x, "relu", True) for x in rows]
    expected = torch.stack([phi(weights, y, "relu", True) + x for x, y in zip(rows, once, strict=True)])
    torch.testing.assert_close(prompt_of(model), expected, rtol=0, atol=1e-12)


def test_own_halves_differ() -> None:
    tied = prompted(reparameterizer="mlp2", bottleneck=8)
    own = prompted(reparameterizer="mlp2", bottleneck=8, tied=False)
    assert parameter_counts(own)["trainable"] - parameter_counts(tied)["trainable"] == 2 * 8 * WIDTH + 8 + 3 * WIDTH
    assert not torch.equal(prompt_of(tied), prompt_of(own))


@pytest.mark.parametrize(("residual", "layer_norm"), [(True, False), (False, True)])
def test_lstm_runs_over_the_rows(residual: bool, layer_norm: bool) -> None:
    model = prompted(reparameterizer="lstm", residual=residual, layer_norm=layer_norm).double()
    lstm, rows = encoder_of(model).network.lstm, encoder_of(model).embedding.weight
    half = WIDTH // 2
    outputs = torch.zeros(4, WIDTH, dtype=torch.float64)
    for suffix, order, part in (
        ("", range(4), slice(0, half)),
        ("_reverse", range(3, -1, -1), slice(half, WIDTH)),
    ):
        w = {name: getattr(lstm, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        h = c = torch.zeros(half, dtype=torch.float64)
        for i in order:
            i_, f, g, o = (w["weight_ih"] @ rows[i] + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]).chunk(4)
            c = f.sigmoid() * c + i_.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs[i, part] = h
    if layer_norm:
        outputs = torch.nn.functional.layer_norm(outputs, (WIDTH,), eps=1e-5)
    torch.testing.assert_close(prompt_of(model), outputs + residual * rows, rtol=0, atol=1e-12)


def test_transformer_sees_all_rows() -> None:
    model = prompted(reparameterizer="transformer", bottleneck=16, layers=1)
    before = prompt_of(model)
    with torch.no_grad():
        encoder_of(model).embedding.weight[3] += 1
    assert not torch.allclose(prompt_of(model)[0], before[0])


def test_separate_networks_with_equal_weights_are_the_shared_one() -> None:
    shared, separate = prompted(bottleneck=8).double(), prompted(bottleneck=8, shared=False).double()
    state = {n: v.expand(4, *v.shape[1:]) for n, v in encoder_of(shared).network.state_dict().items()}
    encoder_of(separate).network.load_state_dict(state)
    torch.testing.assert_close(prompt_of(separate), prompt_of(shared), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_silent_network_is_prompt_tuning(kind: str) -> None:
    model = prompted(kind, bottleneck=8)
    network, rows = encoder_of(model).network, encoder_of(model).embedding.weight
    for p in (network.up.weight, network.up.bias, network.norm.gain, network.norm.bias):
        torch.nn.init.zeros_(p)
    config = PromptTuningConfig(
        task_type=ARCHITECTURES[kind].task_type, num_virtual_tokens=4, num_transformer_submodules=1
    )
    plain = get_peft_model(base_model(kind), config).eval()
    plain.prompt_encoder["default"].embedding.weight.data.copy_(rows)
    batch = batch_of(kind, [6, 6])
    batch.pop("decoder_input_ids", None)
    batch["labels"] = ARCHITECTURES[kind].labels(2, 6)
    losses = [m(**batch).loss for m in (model, plain)]
    for loss in losses:
        loss.backward()
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(rows.grad, plain.prompt_encoder["default"].embedding.weight.grad)


def test_start_is_as_in_the_paper() -> None:
    torch.manual_seed(0)
    model = prompted(num_virtual_tokens=10, bottleneck=16)
    vocabulary, network = model.base_model.get_input_embeddings().weight, encoder_of(model).network
    for row in encoder_of(model).embedding.weight:
        assert (vocabulary == row).all(-1).any()
    assert network.down.weight.abs().max() <= WIDTH**-0.5
    assert network.up.weight.abs().max() <= 16**-0.5
    assert (network.norm.gain == 1).all()
    assert (network.norm.bias == 0).all()


def test_prompt_can_start_from_noise_text_and_file(tmp_path: Any) -> None:
    noise = encoder_of(prompted(prompt_init="uniform", num_virtual_tokens=200)).embedding.weight
    assert noise.min() < -0.45
    assert noise.max() > 0.45
    assert noise.abs().max() <= 0.5
    text = prompted(prompt_init="text", prompt_init_ids=[7, 9, 11], prompt_init_seed=None)
    vocabulary = text.base_model.get_input_embeddings().weight
    assert torch.equal(encoder_of(text).embedding.weight, vocabulary[[7, 9, 11, 7]])
    rows = torch.randn(4, WIDTH)
    save_file({"prompt": rows}, tmp_path / "prompt.safetensors")
    given = prompted(prompt_init="tensor", prompt_init_file=str(tmp_path / "prompt.safetensors"))
    assert torch.equal(encoder_of(given).embedding.weight, rows)


def test_seed_decides_the_first_prompt() -> None:
    first, same, other = (encoder_of(prompted(prompt_init_seed=s)).embedding.weight for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("content", [None, b"no tensors", {"a": (3, WIDTH)}, {"a": (4, WIDTH), "b": (4, WIDTH)}])
def test_bad_prompt_file_is_named(content: Any, tmp_path: Any) -> None:
    path = tmp_path / "prompt.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        save_file({name: torch.zeros(shape) for name, shape in content.items()}, path)
    with pytest.raises(ModelError, match=r"prompt\.safetensors.*first prompt"):
        prompted(prompt_init="tensor", prompt_init_file=str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reparameterizer": "mpl"}, "must be one of"),
        ({"activation": "gelu"}, "activation"),
        ({"dropout": 1.0}, "dropout"),
        ({"bottleneck": 0}, "bottleneck"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens"),
        ({"layers": 2}, "no effect"),
        ({"reparameterizer": "none", "bottleneck": 4}, "no effect"),
        ({"num_transformer_submodules": 2}, "before the encoder"),
        ({"prompt_init": "text"}, "needs"),
        ({"prompt_init_file": "x"}, "no effect"),
        ({"prompt_init": "wordy"}, "must be one of"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualPromptConfig(**settings)


def test_odd_width_is_refused_by_the_lstm() -> None:
    config = ResidualPromptConfig(reparameterizer="lstm", token_dim=5)
    from luthier.tuning.residual_prompt.encoder import ResidualPromptEncoder

    with pytest.raises(ValueError, match="even"):
        ResidualPromptEncoder(config, None)


@pytest.mark.parametrize(
    ("length", "bottleneck", "width", "expected"),
    [(100, 400, 1024, 925_072), (10, 400, 768, 624_784), (10, 800, 768, 1_239_584)],
)
def test_sizes_are_the_published_ones(length: int, bottleneck: int, width: int, expected: int) -> None:
    from luthier.tuning.residual_prompt.encoder import ResidualPromptEncoder

    config = ResidualPromptConfig(num_virtual_tokens=length, bottleneck=bottleneck, token_dim=width)
    assert sum(p.numel() for p in ResidualPromptEncoder(config, None).parameters()) == expected


def test_counts_tell_trained_stored_and_folded() -> None:
    network = 2 * 8 * WIDTH + 8 + 3 * WIDTH
    expected = {"trainable": 4 * WIDTH + network, "stored": 4 * WIDTH + network, "folded": 4 * WIDTH}
    assert parameter_counts(prompted(bottleneck=8)) == expected


def test_branch_ratio_is_that_of_every_row() -> None:
    model = prompted(bottleneck=8)
    rows, weights = encoder_of(model).embedding.weight, dict(encoder_of(model).network.named_parameters())
    expected = torch.stack([phi(weights, x, "relu", True).norm() / x.norm() for x in rows])
    torch.testing.assert_close(branch_ratio(model), expected)
    with pytest.raises(ValueError, match="not a residual prompt"):
        branch_ratio(model.base_model, "default")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_of_the_frozen_model_can_be_off(checkpointing: bool) -> None:
    def trains_with_noise(freeze: bool) -> bool:
        torch.manual_seed(0)
        base = base_model("encoder")
        for module in base.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        config = ResidualPromptConfig(task_type="SEQ_CLS", bottleneck=8, freeze_dropout=freeze)
        model = get_peft_model(base, config).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        batch = batch_of("encoder", [5, 5])
        first, second = model(**batch).logits, model.train()(**batch).logits
        assert not checkpointing or any(getattr(m, "gradient_checkpointing", 0) and m.training for m in base.modules())
        return not torch.equal(first, second)

    assert trains_with_noise(freeze=False)
    assert not trains_with_noise(freeze=True)


def test_dropout_in_the_network_acts_in_training_only() -> None:
    model = prompted(bottleneck=8, dropout=0.5)
    assert torch.equal(prompt_of(model), prompt_of(model))
    model.train()
    assert not torch.equal(prompt_of(model), prompt_of(model))


def test_embeddings_narrower_than_the_model() -> None:
    sizes = {"hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = ElectraForSequenceClassification(ElectraConfig(vocab_size=VOCABULARY, intermediate_size=20, **sizes))
    model = get_peft_model(base, ResidualPromptConfig(task_type="SEQ_CLS", bottleneck=8)).eval()
    assert prompt_of(model).shape == (10, 16)
    assert model(input_ids=token_ids(2, 5)).logits.shape == (2, 2)
