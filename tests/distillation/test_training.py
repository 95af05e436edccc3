"""A graph of models in one job: what each learns, against loops by hand, and what must change nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForTokenClassification, TrainingArguments

from luthier.distillation import DistillationTrainer, Edge
from luthier.distillation.graph import Graph
from luthier.distillation.parts import NodeClipping
from luthier.errors import TrainingError
from luthier.objectives.part import Part
from luthier.objectives.part_list import PartList
from luthier.robustness.settings import RoastSettings
from luthier.training.checkpoints import newest_whole
from tests.processes import of_each
from tests.robustness import tiny
from tests.training.test_job import At, Killed, Trace, kill

ROWS = 12
BOTH = [Edge(teacher="l", student="s"), Edge(teacher="s", student="l")]


def large(**changes: Any) -> nn.Module:
    """Other weights than the small model's, and more of them."""
    model = tiny.bert(**changes)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model


def models(dropout: float = 0.0, frozen: str = "", double: bool = False) -> dict[str, nn.Module]:
    found = {"s": tiny.bert(dropout), "l": large(dropout=dropout)}
    for name, model in found.items():
        model.requires_grad_(name != frozen)
    return {name: model.double() for name, model in found.items()} if double else found


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {"max_steps": 6, "max_grad_norm": 1.0, "weight_decay": 0.01}
    return tiny.arguments(folder, **settings | changes)


def trainer(folder: Path, nodes: dict[str, nn.Module], edges: list[Edge], **more: Any) -> DistillationTrainer:
    own = {k: more.pop(k) for k in list(more) if k in DistillationTrainer.__init__.__annotations__ or k == "callbacks"}
    own |= own.pop("others", {})
    rows = [tiny.Rows(ROWS)[i] for i in range(ROWS)]
    defaults: dict[str, Any] = {"main": "s", "train_dataset": rows, "data_collator": tiny.collate}
    return DistillationTrainer(nodes, edges, args=arguments(folder, **more), **defaults | own)


class Seen:
    """Collates, and keeps what it gave."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        self.batches.append(tiny.collate(rows))
        return dict(self.batches[-1])


def kl(teacher: Tensor, learner: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over rows of KL(teacher || learner), from probabilities."""
    p, q = (x.div(temperature).softmax(-1) for x in (teacher.detach(), learner))
    return (p * (p / q).log()).sum(-1).mean()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for name, p in one.named_parameters():
        torch.testing.assert_close(
            p, other.get_parameter(name), atol=2e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("teach", ["both", "to s", "none"])
@pytest.mark.parametrize("frozen", ["", "l"])
def test_a_graph_trains_as_a_loop_by_hand_does(tmp_path: Path, frozen: str, teach: str) -> None:
    if teach == "both" and frozen:
        pytest.skip("a frozen model learns nothing")
    edges = {"both": BOTH, "to s": BOTH[:1], "none": []}[teach]
    nodes, expected = models(frozen=frozen), models(frozen=frozen)
    seen = Seen()
    trainer(tmp_path, nodes, edges, data_collator=seen).train()

    optimisers = {n: torch.optim.AdamW(groups(m), lr=1e-3) for n, m in expected.items() if n != frozen}
    for batch in seen.batches[:6]:
        out = {n: model(**batch) for n, model in expected.items()}
        losses = {n: out[n].loss for n in optimisers}
        for edge in edges:
            losses[edge.student] = losses[edge.student] + kl(out[edge.teacher].logits, out[edge.student].logits)
        for loss in losses.values():  # apart: the summed backward pass has to be the same
            loss.backward()
        for name, optimiser in optimisers.items():
            nn.utils.clip_grad_norm_(expected[name].parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
    for name, model in nodes.items():
        assert_same(model, expected[name])


def groups(model: nn.Module) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]


def gradients(folder: Path, edges: list[Edge], **more: Any) -> dict[str, dict[str, Tensor]]:
    """Of the first step, before anything is clipped or moved."""
    found: dict[str, dict[str, Tensor]] = {}

    class Look(Part):
        def after_backward(self, trainer: Any) -> None:
            names = {place: name for name, place in trainer.nodes.places.items()}
            for place, model in trainer.models.items():
                found[names[place]] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            raise Killed

    made = trainer(folder, models(double=True), edges, **more)
    made.parts = PartList([*list(made.parts)[:-1], Look()])
    made.callback_handler.callbacks = [c for c in made.callback_handler.callbacks if "Parts" not in type(c).__name__]
    made.add_callback(made.parts.callback(made))
    with pytest.raises(Killed):
        made.train()
    return found


def test_terms_are_weighted_by_schedule_and_temperature(tmp_path: Path) -> None:
    """Gradients of edges are linear in their weights, and T^2 is only there when it is asked for."""
    plain = gradients(tmp_path / "a", [])
    one = gradients(tmp_path / "b", [Edge(teacher="l", student="s", temperature=2.0)])
    four = gradients(tmp_path / "c", [Edge(teacher="l", student="s", temperature=2.0, scale_by_t2=True)])
    weighted = gradients(tmp_path / "d", [Edge(teacher="l", student="s", temperature=2.0, weight=4.0)])
    for name, g in plain["s"].items():
        torch.testing.assert_close(four["s"][name] - g, 4 * (one["s"][name] - g))
        torch.testing.assert_close(weighted["s"][name], four["s"][name])
        assert torch.equal(plain["l"][name], one["l"][name])


def test_without_stop_gradient_the_teacher_moves_too(tmp_path: Path) -> None:
    plain = gradients(tmp_path / "a", [])
    found = gradients(tmp_path / "b", [Edge(teacher="l", student="s", stop_gradient=False)])
    assert any(not torch.equal(g, found["l"][name]) for name, g in plain["l"].items())


def test_each_model_is_clipped_on_its_own_norm(tmp_path: Path) -> None:
    nodes = models()
    norms: dict[str, float] = {}

    class Look(Part):
        def before_update(self, trainer: Any) -> None:
            norms.update({n: float(norm(trainer.models[p])) for n, p in trainer.nodes.places.items()})

    made = trainer(tmp_path, nodes, BOTH, max_steps=1, max_grad_norm=0.01)
    made.parts = PartList([*made.parts, Look()])
    made.add_callback(made.parts.callback(made))
    made.train()
    assert norms == {"s": pytest.approx(0.01, rel=1e-3), "l": pytest.approx(0.01, rel=1e-3)}


def norm(model: nn.Module) -> Tensor:
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("frozen", ["", "l"])
def test_accumulation_changes_nothing(tmp_path: Path, frozen: str) -> None:
    edges = [Edge(teacher="l", student="s", weight=2.0, temperature=2.0)] + ([] if frozen else [BOTH[1]])

    def trajectory(size: int, accumulation: int) -> list[Tensor]:
        trace = Trace()
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        trainer(tmp_path, models(frozen=frozen, double=True), edges, callbacks=[trace], **settings).train()
        return trace.weights

    whole, *others = trajectory(8, 1), trajectory(4, 2), trajectory(1, 8)
    for split in others:
        assert len(whole) == len(split) == 6
        for a, b in zip(whole, split, strict=True):
            assert (a - b).abs().max() < 1e-6


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_killed_run_goes_on_exactly_with_both_models_and_all_schedules(tmp_path: Path, step: int) -> None:
    edges = [
        Edge(teacher="l", student="s", weight={"kind": "linear", "start": 4, "end": 1}),
        Edge(teacher="s", student="l", weight={"kind": "inherit", "until": 0.5}, teacher_stop_step=4),
        Edge(teacher="t", student="s", temperature={"kind": "cosine", "start": 4, "end": 1}),
    ]

    def all_three() -> dict[str, nn.Module]:
        return models(0.1) | {"t": tiny.bert(0.5).requires_grad_(False)}

    straight, resumed = all_three(), all_three()
    expected = trainer(tmp_path / "a", straight, edges)
    expected.train()
    stopped = trainer(tmp_path / "b", all_three(), edges, callbacks=[Save(step), At(step, kill)])
    with pytest.raises(Killed):
        stopped.train()
    place = newest_whole(tmp_path / "b")
    going_on = trainer(tmp_path / "b", resumed, edges)
    going_on.train(resume_from_checkpoint=str(place))
    for name, model in straight.items():
        assert all(torch.equal(p, resumed[name].get_parameter(n)) for n, p in model.named_parameters()), name
    told = [[(part.weight, getattr(part, "temperature", 0)) for part in one.parts[:-1]] for one in (expected, going_on)]
    assert told[0] == told[1]
    saved = load_file(place / "trainable.safetensors")
    assert {name.split(".")[0] for name in saved} == {"model", "node-l"}


class Save(At):
    """Asks for a checkpoint one step before."""

    def __init__(self, step: int) -> None:
        super().__init__(step - 1, lambda: None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        control.should_save = state.global_step == self.step
        return control


def test_schedules_advance_by_optimiser_step(tmp_path: Path) -> None:
    seen: list[float] = []

    class Look(Part):
        def step_begin(self, trainer: Any) -> None:
            seen.append(trainer.parts[2].weight)

    edges = [Edge(teacher="l", student="s", weight={"kind": "linear", "start": 4, "end": 1, "until": 0.5})]
    made = trainer(tmp_path, models(), edges, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    made.parts = PartList([*made.parts, Look()])
    made.add_callback(made.parts.callback(made))
    made.train()
    assert seen == pytest.approx([4, 3, 2, 1, 1, 1])


def test_an_inherited_edge_leaves_the_rest_of_one_to_the_hard_loss(tmp_path: Path) -> None:
    made = trainer(tmp_path, models(frozen="l"), [Edge(teacher="l", student="s", weight={"kind": "inherit"})])
    seen = []

    class Look(Part):
        def step_begin(self, trainer: Any) -> None:
            seen.append((trainer.parts[0].weight, trainer.parts[1].weight))

    made.parts = PartList([*made.parts, Look()])
    made.add_callback(made.parts.callback(made))
    made.train()
    assert seen == [pytest.approx((i / 6, 1 - i / 6)) for i in range(6)]


def test_a_teacher_stays_bit_for_bit_and_is_not_run_when_its_edges_are_gone(tmp_path: Path) -> None:
    nodes = models(0.3, frozen="l")
    before, calls = tiny.weights(nodes["l"]), []
    nodes["l"].register_forward_hook(lambda m, *_: calls.append((m.training, torch.is_grad_enabled())))
    trainer(tmp_path, nodes, [Edge(teacher="l", student="s", teacher_stop_step=2)]).train()
    assert calls == [(False, False)] * 2
    assert all(torch.equal(p, before[n]) for n, p in nodes["l"].named_parameters())


def test_roast_acts_on_the_main_model_under_an_edge(tmp_path: Path) -> None:
    def trained(name: str, edges: list[Edge], parts: list[Part]) -> dict[str, nn.Module]:
        nodes = models(0.1)
        trainer(tmp_path / name, nodes, edges, main_parts=parts, max_grad_norm=0).train()
        return nodes

    alone = trained("a", BOTH[1:], RoastSettings(resample="step").parts())
    taught = trained("b", BOTH, RoastSettings(resample="step").parts())
    plain = trained("c", BOTH, [])
    assert not torch.equal(alone["s"].classifier.weight, taught["s"].classifier.weight)
    assert not torch.equal(plain["s"].classifier.weight, taught["s"].classifier.weight)


class Tokens:
    """Rows of 3 to 7 tokens, some of which have labels."""

    def __init__(self, count: int = ROWS) -> None:
        self.rows = [{**row, "labels": labels(i, len(row["input_ids"]))} for i, row in enumerate(tiny.Rows(count).rows)]

    @staticmethod
    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = tiny.collate([row | {"labels": 0} for row in rows])
        width = batch["input_ids"].shape[1]
        padded = [row["labels"] + [-100] * (width - len(row["labels"])) for row in rows]
        return batch | {"labels": torch.tensor(padded)}


def labels(row: int, length: int) -> list[int]:
    return [-100 if (row + i) % 3 else (row * i) % 3 for i in range(length)] if row != 5 else [-100] * length


def tagger(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tiny.WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
    )
    return BertForTokenClassification(config).double()


@pytest.mark.parametrize("positions", ["masked", "non_pad"])
@pytest.mark.parametrize(("size", "accumulation"), [(12, 1), (4, 3), (1, 12)])
def test_hard_and_soft_loss_share_the_labelled_items_of_the_step(
    tmp_path: Path, size: int, accumulation: int, positions: Any
) -> None:
    """Against one pass over all rows by hand. One row has no label at all, so that with batches of one M is empty."""
    edge = Edge(teacher="l", student="s", weight=3.0, positions=positions)
    found = gradients_of_tags(tmp_path, edge, size, accumulation)
    student, teacher = tagger(0), tagger(1)
    batch = Tokens.collate(Tokens().rows)
    counted = batch["labels"] != -100
    compared = counted if positions == "masked" else batch["attention_mask"].bool()
    one, two = (m(batch["input_ids"], batch["attention_mask"]).logits for m in (student, teacher))
    hard = F.cross_entropy(one[counted], batch["labels"][counted], reduction="sum")
    p, q = two[compared].detach().softmax(-1), one[compared].softmax(-1)
    ((hard + 3 * (p * (p / q).log()).sum()) / counted.sum()).backward()
    for name, g in found.items():
        torch.testing.assert_close(g, student.get_parameter(name).grad, atol=1e-7, rtol=1e-5)


def gradients_of_tags(folder: Path, edge: Edge, size: int, accumulation: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    class Look(Part):
        def after_backward(self, trainer: Any) -> None:
            found.update({n: p.grad.clone() for n, p in trainer.main_model.named_parameters() if p.grad is not None})

    made = trainer(
        folder,
        {"s": tagger(0), "l": tagger(1).requires_grad_(False)},
        [edge],
        train_dataset=Tokens().rows,
        data_collator=Tokens.collate,
        task="token_labels",
        max_steps=1,
        max_grad_norm=0,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
    )
    made.parts = PartList([*made.parts, Look()])
    made.train()
    return found


def test_edges_that_fit_no_graph_are_refused() -> None:
    with pytest.raises(TrainingError, match="no node 'x'"):
        Graph(models(), [Edge(teacher="x", student="s")], "s")
    with pytest.raises(TrainingError, match="'l' has to learn"):
        Graph(models(frozen="l"), BOTH, "s")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rates": {"S": 1e-3}}, "`learning_rates` names 'S', which is no model that learns"),
        ({"learning_rates": {"l": 1e-3}}, "`learning_rates` names 'l', which is no model that learns"),
        ({"hard_weights": {"l": 0.5}}, "`hard_weights` names 'l', which is no model that learns"),
        ({"edges": [Edge(teacher="l", student="s", start_step=6)]}, "begins behind 6 steps, and the run takes 6"),
        ({"others": {"eval_dataset": tiny.Rows(2)}}, "`eval_dataset` would have no effect"),
        ({"others": {"compute_metrics": dict}}, "`compute_metrics` would have no effect"),
        ({"others": {"compute_loss_func": max}}, "`compute_loss_func` would have no effect"),
        ({"eval_strategy": "steps"}, "`eval_strategy` would have no effect"),
        ({"save_total_limit": 3}, "`save_total_limit` would have no effect: the newest checkpoint is kept"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    edges = settings.pop("edges", BOTH[:1])
    with pytest.raises(TrainingError, match=message):
        trainer(tmp_path, models(frozen="l"), edges, **settings)


def test_recomputed_activations_change_no_model_that_learns(tmp_path: Path) -> None:
    ended = []
    for recompute in (False, True):
        nodes = models(frozen="l")
        made = trainer(tmp_path / str(recompute), nodes, BOTH[:1], gradient_checkpointing=recompute)
        assert [nodes[name].is_gradient_checkpointing for name in ("s", "l")] == [recompute, False]
        made.train()
        ended.append(list(nodes["s"].parameters()))
    for one, other in zip(*ended, strict=True):
        torch.testing.assert_close(one, other)


def test_models_are_saved_by_name(tmp_path: Path) -> None:
    nodes = models()
    made = trainer(tmp_path / "run", nodes, BOTH, max_steps=1)
    made.train()
    places = made.save_models(tmp_path / "saved")
    assert set(places) == {"s", "l"}
    again = type(nodes["l"]).from_pretrained(places["l"])
    assert all(torch.equal(p, again.get_parameter(n)) for n, p in nodes["l"].named_parameters())


def test_clipping_leaves_a_gradient_that_is_not_finite_to_be_found(tmp_path: Path) -> None:
    nodes = models()
    nodes["l"].classifier.bias.register_hook(lambda grad: torch.full_like(grad, float("inf")))
    with pytest.raises(TrainingError, match=r"first seen in node-l\.classifier\.bias"):
        trainer(tmp_path, nodes, BOTH).train()
    assert NodeClipping({}).norms == {}


# -- two processes ---------------------------------------------------------------------------------------------

GRAPHS: dict[str, tuple[str, list[Edge]]] = {
    "both": ("", BOTH),
    "in turns": ("", BOTH),
    "frozen": ("l", BOTH[:1]),
    "late": ("", [Edge(teacher="l", student="s", start_step=2), Edge(teacher="s", student="l", teacher_stop_step=2)]),
    "hard only from the half": ("", [Edge(teacher="l", student="s", weight={"kind": "inherit", "until": 0.5})]),
}


def trained(kind: str, folder: Path, rows: int, dropout: float = 0.0) -> dict[str, dict[str, Tensor]]:
    frozen, edges = GRAPHS[kind]
    nodes = models(dropout, frozen=frozen)
    update = {"update": "alternating"} if kind == "in turns" else {}
    trainer(folder, nodes, edges, per_device_train_batch_size=rows, max_steps=4, **update).train()
    return {name: tiny.weights(model) for name, model in nodes.items()}


def _process(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {kind: trained(kind, Path(folder), 2) for kind in GRAPHS}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder: Path = tmp_path_factory.mktemp("processes")
    of_each(2, _process, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", GRAPHS)
def test_two_processes_do_as_one_with_the_whole_batch(kind: str, of_two: Any, tmp_path: Path) -> None:
    expected = trained(kind, tmp_path, 4)
    for name, weights in expected.items():
        for key, value in weights.items():
            torch.testing.assert_close(of_two[0][kind][name][key], value, atol=1e-5, rtol=1e-4)
            assert torch.equal(of_two[0][kind][name][key], of_two[1][kind][name][key])
