"""Each node's evaluations, and its own best weights, beside those of the main model that the trainer keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from luthier.errors import TrainingError
from luthier.objectives.part import Part
from luthier.storage.files import sha256_of
from luthier.storage.jsonlines import JsonLog
from luthier.storage.ranks import from_main, gathered, is_main
from luthier.training.validation import Evaluation, Validation
from luthier.training.weights import BestScore, load_trainable, save_trainable, trainable_state

Evaluate = Callable[[nn.Module], Evaluation]


def validation_of_nodes(main: Validation | None, others: Mapping[str, tuple[nn.Module, Evaluate]]) -> Validation | None:
    """The main model's validation, which scores the other nodes too, as `validation/NODE/METRIC`.

    Args:
        main: of the main model; None where nothing is evaluated.
        others: node -> its model, and how it is scored.
    """
    if main is None:
        return None

    def evaluate(model: nn.Module) -> Evaluation:
        found = main.evaluate(model)
        scores = dict(found.scores)
        for name, (other, own) in others.items():
            scores |= {_of_node(key, name): value for key, value in own(other).scores.items()}
        return Evaluation(scores, found.details)

    return Validation(evaluate, main.primary, main.higher_is_better)


def _of_node(score: str, node: str) -> str:
    split, _, metric = score.partition("/")
    return f"{split}/{node}/{metric}"


@dataclass(frozen=True)
class KeptNode:
    """A node whose best weights are kept.

    Attributes:
        name: of the node.
        place: what the job calls it.
        model: it.
    """

    name: str
    place: str
    model: nn.Module


class NodeScores(Part, TrainerCallback):
    """Keeps the weights of each node's best evaluation in files of their own, and goes on exactly after a stop.

    Args:
        nodes: all trained nodes but the main one.
        primary: the main model's score that tells the best weights.
        higher: whether more of it is better.
        folder: of the job's checkpoints.
        log: of the stage; how many tokens were seen at each evaluation is written there.
    """

    name = "node scores"

    def __init__(self, nodes: list[KeptNode], primary: str, higher: bool, folder: Path, log: JsonLog) -> None:
        self.nodes, self.primary, self.higher, self.folder, self.log = nodes, primary, higher, folder, log
        self.best = {node.name: BestScore() for node in nodes}
        self._of_checkpoint: set[str] = set()
        self._trainer: Any = None

    def begin(self, trainer: Any) -> None:
        self._trainer = trainer
        if is_main():
            self._sweep()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        trainer = self._trainer
        tokens = sum(gathered(trainer.tokens_seen))
        if is_main():
            self.log.write("nodes", step=state.global_step, epoch=state.epoch, tokens=tokens)
        for node in self.nodes:
            key = _of_node(self.primary, node.name)
            score, best = trainer.latest.scores.get(key), self.best[node.name]
            if score is None or not math.isfinite(score) or not self._is_better(score, best, node.name):
                continue
            prefix = f"validation/{node.name}/"
            own = {k: v for k, v in trainer.latest.scores.items() if k.startswith(prefix)}
            path = self.folder / _file(node.name, state.global_step)
            digest = from_main(partial(save_trainable, trainable_state(node.model), path))
            self.best[node.name] = BestScore(score, state.global_step, 0, own, {}, digest)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._of_checkpoint = self._files()
        if is_main():
            self._sweep()

    def state_dict(self, trainer: Any) -> dict[str, Any]:
        return {name: vars(best) for name, best in self.best.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = {name: BestScore(**best) for name, best in state.items()}
        self._of_checkpoint = self._files()

    def load_best(self) -> None:
        """Put each node's best weights into its model.

        Raises:
            TrainingError: a file changed after it was written.
        """
        for node in self.nodes:
            best = self.best[node.name]
            if not best.sha256:
                continue
            path = self.folder / _file(node.name, best.step)
            if not path.is_file() or sha256_of(path) != best.sha256:
                raise TrainingError(
                    f"the best weights of the node {node.name} changed after they were written",
                    where=str(path),
                    fix="delete the stage's `checkpoints` folder and run the same command again",
                )
            load_trainable(node.model, path)

    def _is_better(self, score: float, best: BestScore, node: str) -> bool:
        """Of equal scores that with the lower loss is better, as for the main model."""
        if best.score is None or score != best.score:
            return best.score is None or (score > best.score if self.higher else score < best.score)
        loss = f"validation/{node}/loss"
        lower: bool = self._trainer.latest.scores.get(loss, math.inf) < best.scores.get(loss, -math.inf)
        return lower

    def _files(self) -> set[str]:
        return {_file(name, best.step) for name, best in self.best.items() if best.sha256}

    def _sweep(self) -> None:
        """Delete weights that neither the newest checkpoint nor this run refers to."""
        keep = self._files() | self._of_checkpoint
        for path in [*self.folder.glob("node-*.safetensors"), *self.folder.glob(".writing-node-*.safetensors")]:
            if path.name not in keep:
                path.unlink(missing_ok=True)


def _file(node: str, step: int) -> str:
    return f"node-{node}-{step}.safetensors"
