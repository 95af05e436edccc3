"""Light classifiers on stored representations: linear, or with one hidden layer. They are trained by scikit-learn.

Shapes: N texts, D width of a representation, C classes, h hidden width.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from luthier.errors import DataError, ModelError
from luthier.models.tensors import check_safetensors
from luthier.report.text import one_line
from luthier.representing.representation import Representation
from luthier.secrets import redact_values
from luthier.storage.files import reporting_failed_writes

logger = logging.getLogger(__name__)

# What the weight of the squared coefficients is chosen among.
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
# The least deviation that a column is divided by, as a share of the root mean square of all columns' deviations.
LEAST_DEVIATION = 1e-3
_MOST_NAMED = 4
_FORMAT = 1
_ENTRY = "luthier"
Layer = tuple[np.ndarray, np.ndarray]


class HeadPrediction(NamedTuple):
    """What one head says about N texts.

    Attributes:
        labels: the likeliest, N of them.
        probabilities: (N, C) float64, in the order of the head's own `labels`.
    """

    labels: list[str]
    probabilities: np.ndarray


@dataclass(frozen=True, repr=False)
class Head:
    """A classifier on representations. Make one with `LinearHead.fit` or `MLPHead.fit`.

    Attributes:
        labels: C class names.
        layers: weight (inputs, outputs) and bias (outputs,) of each layer, float32; ReLU stands between them.
        representation: what it was trained on.
        pairs: whether those were pairs of texts.
        columns: what its training file called the text, or both texts; nothing where it was no file.
    """

    kind: ClassVar[str] = ""
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    representation: Representation
    pairs: bool = False
    columns: tuple[str, ...] = ()

    def __repr__(self) -> str:
        names = ", ".join(one_line(name, 24) for name in self.labels[:_MOST_NAMED])
        more = ", …" if len(self.labels) > _MOST_NAMED else ""
        return (
            f"{type(self).__name__}({len(self.labels)} classes: {names}{more}; width {self.width}; "
            f"{self.parameters:,} parameters)"
        )

    @property
    def width(self) -> int:
        """D."""
        return len(self.layers[0][0])

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(x.size for layer in self.layers for x in layer)

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, C) float64.

        Raises:
            ModelError: the vectors are of another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ModelError(f"the head reads vectors of width {self.width}, not of the shape {vectors.shape}")
        states = np.asarray(vectors, dtype=np.float64)
        for number, (weight, bias) in enumerate(self.layers):
            states = (np.maximum(states, 0) if number else states) @ weight + bias
        return states

    def predict(self, vectors: np.ndarray) -> HeadPrediction:
        """(N, D) -> labels and probabilities."""
        logits = self.logits(vectors)
        exponent = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        probabilities = exponent / exponent.sum(axis=1, keepdims=True)
        return HeadPrediction([self.labels[i] for i in probabilities.argmax(axis=1)], probabilities)

    def write(self, path: Path) -> None:
        """Write a safetensors file: `<layer>.weight` and `<layer>.bias`, and the rest as JSON in its metadata.

        Raises:
            WorkspaceError: the disk is full or can't be written.
        """
        from safetensors.numpy import save_file

        about = {
            "format": _FORMAT,
            "kind": self.kind,
            "labels": list(self.labels),
            "representation": asdict(self.representation),
            "pairs": self.pairs,
            "columns": list(self.columns),
        }
        tensors = {
            f"{number}.{name}": np.ascontiguousarray(x)
            for number, layer in enumerate(self.layers)
            for name, x in zip(("weight", "bias"), layer, strict=True)
        }
        with reporting_failed_writes(path):
            save_file(tensors, path, metadata={_ENTRY: json.dumps(redact_values(about), sort_keys=True)})


@dataclass(frozen=True, repr=False)
class LinearHead(Head):
    """Multinomial logistic regression."""

    kind: ClassVar[str] = "linear"

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        labels: Sequence[str],
        *,
        representation: Representation,
        l2: float | None = None,
        standardise: bool = True,
        max_iterations: int = 1000,
    ) -> Self:
        """Train on all rows at once.

        Args:
            vectors: (N, D).
            labels: N class names.
            representation: of the encoder that made the vectors (`SharedEncoder.representation`).
            l2: weight of the squared norm of the coefficients against the summed loss; None takes that of `PENALTIES`
                with the lowest loss in five-fold cross-validation.
            standardise: give every column mean 0 and deviation 1 before; the head takes raw vectors all the same. A
                column that hardly varies is divided by `LEAST_DEVIATION` of the root mean square of all deviations
                instead of its own, so that no weight of the head blows up what is noise of the arithmetic.
            max_iterations: of the optimiser (L-BFGS).

        Raises:
            DataError: the rows don't fit together, or have a single class.
        """
        from sklearn.linear_model import LogisticRegression

        _positive(l2=1.0 if l2 is None else l2, max_iterations=max_iterations)
        if l2 is None:
            l2 = _chosen_penalty(vectors, labels, standardise, max_iterations)
        model = LogisticRegression(C=1 / l2, max_iter=max_iterations)
        scale = _fitted(model, vectors, labels, standardise)
        return cls(tuple(map(str, model.classes_)), _layers([model.coef_.T], [model.intercept_], scale), representation)


@dataclass(frozen=True, repr=False)
class MLPHead(Head):
    """One hidden layer with ReLU."""

    kind: ClassVar[str] = "mlp"

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        labels: Sequence[str],
        *,
        representation: Representation,
        hidden: int = 128,
        l2: float = 1e-4,
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        standardise: bool = True,
        max_iterations: int = 200,
        seed: int = 0,
    ) -> Self:
        """Train with Adam until the training loss stands still.

        Args:
            vectors, labels, representation, standardise: as in `LinearHead.fit`.
            hidden: h.
            l2: weight of the squared norm of all weights.
            learning_rate, batch_size: of Adam.
            max_iterations: passes over the rows, at most.
            seed: of first weights and order.

        Raises:
            DataError: as `LinearHead.fit`.
        """
        from sklearn.neural_network import MLPClassifier

        _positive(hidden=hidden, learning_rate=learning_rate, batch_size=batch_size, max_iterations=max_iterations)
        model = MLPClassifier(
            hidden_layer_sizes=(hidden,),
            alpha=l2,
            learning_rate_init=learning_rate,
            batch_size=min(batch_size, len(labels)),
            max_iter=max_iterations,
            random_state=seed,
        )
        scale = _fitted(model, vectors, labels, standardise)
        return cls(tuple(map(str, model.classes_)), _layers(model.coefs_, model.intercepts_, scale), representation)


HEADS: dict[str, Any] = {cls.kind: cls for cls in (LinearHead, MLPHead)}


def read_head(path: Path) -> Head:
    """Read what `Head.write` wrote.

    Raises:
        ModelError: the file is damaged, or holds no head.
    """
    from safetensors import safe_open

    check_safetensors(path)
    with safe_open(path, framework="np") as file:
        text = (file.metadata() or {}).get(_ENTRY)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        about = json.loads(text or "")
        layers = tuple((tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in range(len(tensors) // 2))
        made = TypeAdapter(Representation).validate_python(about["representation"])
        labels, columns = (tuple(map(str, names)) for names in (about["labels"], about.get("columns", ())))
        head: Head = HEADS[about["kind"]](labels, layers, made, bool(about.get("pairs")), columns)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError("the file holds no head", where=str(path), fix="train it again") from error
    return head


def _chosen_penalty(vectors: np.ndarray, labels: Sequence[str], standardise: bool, max_iterations: int) -> float:
    """The penalty with the lowest log loss over rows that were left out; 1 where no class has two rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    names = np.array([str(label) for label in labels])
    folds = min(5, max((int((names == name).sum()) for name in set(names)), default=0))
    if folds < 2 or np.ndim(vectors) != 2 or len(vectors) != len(names) or not np.isfinite(vectors).all():
        return 1.0
    losses = dict.fromkeys(PENALTIES, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer rows than folds
        splits = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(vectors, names))
    for fitted, left_out in splits:
        if len(set(names[fitted])) < 2:
            continue
        for penalty in PENALTIES:
            model = LogisticRegression(C=1 / penalty, max_iter=max_iterations)
            scale = _fitted(model, vectors[fitted], names[fitted], standardise)
            chances = model.predict_proba(scale.transform(np.asarray(vectors[left_out], dtype=np.float64)))
            column = {name: number for number, name in enumerate(model.classes_)}
            right = [chances[i, column[name]] if name in column else 0.0 for i, name in enumerate(names[left_out])]
            losses[penalty] -= float(np.log(np.maximum(right, 1e-6)).sum())
    return min(PENALTIES, key=lambda penalty: losses[penalty])


def _fitted(model: Any, vectors: np.ndarray, labels: Sequence[str], standardise: bool) -> Any:
    """Fit a classifier of scikit-learn, and return the scaler of its inputs."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import StandardScaler

    names = np.array([str(label) for label in labels])
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise DataError(f"a head needs one label a vector, not {len(names)} labels for vectors {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise DataError(f"vector {int((~np.isfinite(vectors)).any(axis=1).argmax())} has NaN or infinite numbers")
    if len(set(names)) < 2:
        raise DataError(
            f"a head needs rows of two classes at least, not only {', '.join(sorted(set(names))) or 'none'}"
        )
    scale = StandardScaler(with_mean=standardise, with_std=standardise).fit(vectors)
    if standardise:
        scale.scale_ = _bounded(np.sqrt(scale.var_))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scale.transform(vectors), names)
    if np.max(model.n_iter_) >= model.max_iter:
        logger.warning("the head was still learning after %d iterations: raise max_iterations", model.max_iter)
    return scale


def _bounded(deviations: np.ndarray) -> np.ndarray:
    """(D,) deviations, none below `LEAST_DEVIATION` of their root mean square; 1 where no column varies at all."""
    typical = float(np.sqrt(np.mean(deviations**2)))
    return np.maximum(deviations, LEAST_DEVIATION * typical) if typical > 0 else np.ones_like(deviations)


def _layers(weights: Sequence[np.ndarray], biases: Sequence[np.ndarray], scale: Any) -> tuple[Layer, ...]:
    """Layers for raw vectors; two classes get two outputs, of which the first is 0."""
    layers = [
        *zip((np.asarray(w, np.float64) for w in weights), (np.asarray(b, np.float64) for b in biases), strict=True)
    ]
    weight, bias = layers[0]
    if scale.scale_ is not None:
        weight = weight / scale.scale_[:, None]
        layers[0] = (weight, bias - scale.mean_ @ weight)
    weight, bias = layers[-1]
    if weight.shape[1] == 1:
        layers[-1] = (np.pad(weight, ((0, 0), (1, 0))), np.pad(bias, (1, 0)))
    return tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in layers)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}, but must be above 0")
