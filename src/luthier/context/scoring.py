"""Scores a causal model for the suite `context`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.context.position_losses import by_context, losses_by_position, smoothed, text_rows
from luthier.context.power_law import LEAST_POINTS, PowerLaw, fit_power_law
from luthier.context.probes import Probe, first_sentence_retrieval, passkey_retrieval
from luthier.context.ruler import multi_key_retrieval, variable_tracking
from luthier.errors import DataError, RecipeError
from luthier.evaluation.subject import Subject, SuiteResult
from luthier.models.inspect import model_max_length
from luthier.progress import track
from luthier.report.intervals import Interval, never_exact
from luthier.report.sections import Heatmap, Lines, Section, SectionTable, Value

if TYPE_CHECKING:
    from luthier.context.suite import ContextSuite

_LENGTH, _SHORTEST, _DRAWS = 512, 64, 1000


def context_scores(suite: ContextSuite, subject: Subject) -> SuiteResult:
    """All probes, with intervals over texts.

    Raises:
        DataError: the split holds too little text.
        RecipeError: the model has no positions for a length.
    """
    texts = list(subject.task.splits[subject.split]["text"])
    lengths, trained = probe_lengths(suite, subject)
    result = SuiteResult()
    started = time.perf_counter()
    _first_sentences(suite, subject, texts, lengths, result)
    if suite.keys:
        probes = _keys(passkey_retrieval, suite.keys, "pass key", suite, subject, lengths, result)
        _grids(suite.name, "passkey", "Pass keys", probes, _by_depth, subject, result)
    if suite.multi_keys and len(set(suite.depths)) > 1:
        probes = _keys(multi_key_retrieval, suite.multi_keys, "key of several", suite, subject, lengths, result)
        _grids(suite.name, "multi_key", "One key of several", probes, _by_depth, subject, result)
    if suite.tracked:
        _tracking(suite, subject, lengths, result)
    if suite.position_rows:
        try:
            _positions(suite, subject, texts, max(lengths), result)
        except DataError as error:
            result.marks.append(f"no loss by position: {error.what}")
    if not result.scores:
        raise DataError(f"no probe has enough text: {'; '.join(result.marks)}", fix="give more text, or other lengths")
    beyond = [length for length in lengths if length > trained]
    if beyond:
        result.marks.append(f"lengths above {trained:,} are longer than the model was trained on")
    spent = {"seconds": round(time.perf_counter() - started, 3), "lengths": lengths, "trained_length": trained}
    result.details = {suite.name: {**result.details.get(suite.name, {}), **spent}}
    return result


def probe_lengths(suite: ContextSuite, subject: Subject) -> tuple[list[int], int]:
    """The lengths of the prompts, and that which the model was trained on.

    Raises:
        RecipeError: the model has learned positions, and not as many.
    """
    config = subject.model.config
    limit = model_max_length(config, None)
    trained = subject.card.max_length or limit or _LENGTH
    lengths = suite.lengths or sorted({max(_SHORTEST, trained // part) for part in (8, 4, 2, 1)})
    rotary = bool(getattr(config, "rope_parameters", None))
    if limit is not None and not rotary and max(lengths) > limit:
        raise RecipeError(
            f"`lengths` go to {max(lengths):,}, and the model has {limit:,} positions",
            fix=f"leave out those above {limit}",
        )
    return sorted(set(lengths)), trained


def _first_sentences(
    suite: ContextSuite, subject: Subject, texts: list[str], lengths: list[int], result: SuiteResult
) -> None:
    def ask(length: int) -> list[Probe]:
        return first_sentence_retrieval(
            subject.model,
            subject.tokenizer,
            texts,
            [length],
            samples=suite.samples,
            batch_size=subject.batch_size,
            seed=suite.seed,
            generate=suite.generate,
        )

    probes = _by_length("first sentence", lengths, ask, result)
    if not probes:
        return
    _put(result, "first_sentence", probes, subject.seed)
    names = ["tokens", "samples", "exact", "prefers", "margin", *(["ROUGE-L"] if suite.generate else [])]
    rows: list[list[Value]] = []
    for one in probes:
        told: list[Value] = [one.length, len(one.exact), _share(one.exact), f"{one.prefers:.1%}"]
        rouge: list[Value] = [f"{100 * one.rouge_l.mean():.1f}"] if suite.generate else []
        rows.append([*told, f"{one.margins.mean():.3f}", *rouge])
    text = (
        "Asked for the first sentence of a text of so many tokens. Prefers is the share of texts whose own first "
        "sentence is likelier than that of another, half by chance; the margin is in nats a token."
    )
    result.sections.append(Section("First sentence", text=text, table=SectionTable(names, rows)))
    samples = [{"tokens": f"{one.length:,}", **pair} for one in probes for pair in one.written[:1]]
    if samples:
        result.sections.append(Section("First sentences as written", samples=samples))
    result.details.setdefault(suite.name, {})["first_sentence"] = [_told(one) for one in probes]


def _keys(
    retrieval: Callable[..., list[Probe]],
    samples: int,
    about: str,
    suite: ContextSuite,
    subject: Subject,
    lengths: list[int],
    result: SuiteResult,
) -> list[Probe]:
    """Keys at every depth and length, by one of the ways to hide them."""

    def ask(length: int) -> list[Probe]:
        return retrieval(
            subject.model,
            subject.tokenizer,
            [length],
            depths=suite.depths,
            samples=samples,
            batch_size=subject.batch_size,
            seed=suite.seed,
        )

    return _by_length(about, lengths, ask, result)


def _tracking(suite: ContextSuite, subject: Subject, lengths: list[int], result: SuiteResult) -> None:
    def ask(length: int) -> list[Probe]:
        return variable_tracking(
            subject.model,
            subject.tokenizer,
            [length],
            hops=suite.hops,
            samples=suite.tracked,
            batch_size=subject.batch_size,
            seed=suite.seed,
            generate=suite.generate,
        )

    probes = _by_length("tracked variables", lengths, ask, result)
    _grids(suite.name, "tracking", "Tracked variables", probes, _by_hops, subject, result)
    samples = [
        {"tokens": f"{one.length:,}", "hops": str(one.hops), **pair} for one in probes for pair in one.written[:1]
    ]
    if samples:
        result.sections.append(Section("Tracked variables as written", samples=samples))


def _by_depth(probe: Probe) -> tuple[float, str]:
    return probe.depth, f"{probe.depth:.0%}"


def _by_hops(probe: Probe) -> tuple[float, str]:
    return probe.hops, f"{probe.hops} hop{'s' * (probe.hops != 1)}"


def _by_length(about: str, lengths: list[int], ask: Callable[[int], list[Probe]], result: SuiteResult) -> list[Probe]:
    """The probes of all lengths that have room for them; the others are told."""
    probes: list[Probe] = []
    with track(about, len(lengths)) as bar:
        for done, length in enumerate(lengths, 1):
            try:
                probes += ask(length)
            except DataError as error:  # too little text, or a prompt whose words alone take as many tokens
                result.marks.append(f"no {about} at {length}: {error.what}")
            bar.update(done)
    return probes


def _grids(
    suite: str,
    name: str,
    title: str,
    probes: list[Probe],
    row_of: Callable[[Probe], tuple[float, str]],
    subject: Subject,
    result: SuiteResult,
) -> None:
    """Scores of a probe, and heat maps of its rows and lengths: what is found, what is preferred, what is recalled."""
    if not probes:
        return
    _put(result, name, probes, subject.seed)
    lengths = sorted({one.length for one in probes})
    rows = dict(sorted({row_of(one) for one in probes}))
    kinds: dict[str, Callable[[Probe], float]] = {
        "found": lambda one: float(one.exact.mean()),
        "preferred": lambda one: one.prefers,
        "recalled": lambda one: float(one.recall.mean()),
    }
    for kind, value in kinds.items():
        cells = {(row_of(one)[0], one.length): value(one) for one in probes}
        if np.isnan(list(cells.values())).any():
            continue
        grid = [[cells[row, length] for length in lengths] for row in rows]
        plot = Heatmap(list(rows.values()), [f"{length:,}" for length in lengths], grid)
        result.sections.append(Section(f"{title} {kind}", text=_GRIDS[kind], plot=plot))
    result.details.setdefault(suite, {})[name] = [_told(one) for one in probes]


_GRIDS = {
    "found": "Share of answers that greedy decoding writes, by the tokens of the text.",
    "preferred": "Share of answers that are likelier than another one of the same form; half by chance.",
    "recalled": "Share of the variables that the model names, among all that it is asked for.",
}


def _positions(suite: ContextSuite, subject: Subject, texts: list[str], length: int, result: SuiteResult) -> None:
    rows = text_rows(texts, subject.tokenizer, length, suite.position_rows)
    with track("loss by position", len(rows)) as bar:
        together = max(1, min(subject.batch_size, 65_536 // length))
        losses = losses_by_position(subject.model, rows, batch_size=together, on_batch=bar.update)
    places, means = smoothed(losses, suite.smoothing or max(1, length // 64))
    contexts, by_row = by_context(losses)
    quarter = losses[:, -(length // 4) :].mean(axis=1)
    result.scores["last_quarter_loss"] = float(quarter.mean())
    if len(quarter) > 1 and (ends := interval_of_mean(quarter, subject.seed)) is not None:
        result.intervals["last_quarter_loss"] = ends
    curves: dict[str, Any] = {"measured": [(float(x), float(y)) for x, y in zip(places, means, strict=True)]}
    facts: dict[str, Value] = {"texts": len(rows), "tokens of each": f"{length:,}"}
    if len(contexts) >= LEAST_POINTS:
        law = fit_power_law(contexts, by_row, seed=subject.seed)
        curves["power law"] = [(float(x), float(y)) for x, y in zip(contexts, law(contexts), strict=True)]
        facts |= _law_in_words(law)
        result.details.setdefault(suite.name, {})["power_law"] = {
            "alpha": law.alpha,
            "beta": law.beta,
            "gamma": law.gamma,
            "intervals": {name: list(ends) for name, ends in (law.intervals or {}).items()},
            "residual": law.residual,
            "at_bound": law.at_bound,
        }
    plot = Lines(curves, x_label="tokens of context", y_label="loss in nats", log_x=True)
    text = "Mean loss of a token by how many stand before it, and the law L(c) = (alpha / c)^beta + gamma."
    result.sections.append(Section("Loss by position", text=text, facts=facts, plot=plot))
    result.details.setdefault(suite.name, {})["loss_by_position"] = [
        [round(float(x), 1), round(float(y), 5)] for x, y in zip(places, means, strict=True)
    ]


def _law_in_words(law: PowerLaw) -> dict[str, Value]:
    told: dict[str, Value] = {}
    for name in ("alpha", "beta", "gamma"):
        ends = (law.intervals or {}).get(name)
        told[name] = f"{getattr(law, name):.3g}" + (f", from {ends[0]:.3g} to {ends[1]:.3g}" if ends else "")
    told["with twice the context"] = f"L - gamma becomes {law.doubling:.2f} of what it was"
    if law.at_bound:
        told["note"] = "a parameter stands at its bound: these losses follow no power law"
    return told


def _put(result: SuiteResult, name: str, probes: list[Probe], seed: int) -> None:
    """The means over all lengths and depths, and those of the longest prompts."""
    longest = max(one.length for one in probes)
    for ending, some in (("", probes), ("_longest", [one for one in probes if one.length == longest])):
        texts = _texts(some)
        found = {
            f"{name}_accuracy{ending}": np.concatenate([one.exact for one in some]).astype(float),
            f"{name}_prefers{ending}": np.concatenate([one.margins for one in some]) > 0,
            f"{name}_margin{ending}": np.concatenate([one.margins for one in some]),
            f"{name}_rouge_l{ending}": np.concatenate([one.rouge_l for one in some]),
            f"{name}_recall{ending}": np.concatenate([one.recall for one in some]),
        }
        for key, values in found.items():
            if not np.isnan(values.astype(float)).any():
                result.scores[key] = float(values.mean())
                span = None if "_margin" in key else (0.0, 1.0)
                if (ends := interval_of_mean(values.astype(float), seed, span, texts)) is not None:
                    result.intervals[key] = ends
        result.about[f"{name}_prefers{ending}"] = "half by chance"


def _texts(probes: list[Probe]) -> Any:
    """(N,) for each answer the number of the text that it is about."""
    names = [
        (one.length, one.hops, one.texts[i]) if one.texts else (number, i)
        for number, one in enumerate(probes)
        for i in range(len(one.exact))
    ]
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.asarray([known[name] for name in names])


def interval_of_mean(values: Any, seed: int, span: Interval | None = None, texts: Any = None) -> Interval | None:
    """95 % bootstrap interval of a mean; where all values agree, that of so many texts within a span, or none.

    Args:
        values: (N,) of answers.
        seed: of the redrawn texts.
        span: of values.
        texts: (N,) numbers, from 0, of the texts that they are about, which are redrawn with all of their answers; None
            where each has its own.
    """
    texts = np.arange(len(values)) if texts is None else texts
    sums, counts = np.bincount(texts, values), np.bincount(texts)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (_DRAWS, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return never_exact((float(low), float(high)), None if span is None else len(sums), span or (0.0, 1.0))


def _share(values: Any) -> str:
    return f"{float(np.mean(values)):.1%}"


def _told(probe: Probe) -> dict[str, Any]:
    written = {"rouge_l": float(np.mean(probe.rouge_l)), "recall": float(np.mean(probe.recall))}
    return {
        "length": probe.length,
        **({"hops": probe.hops} if probe.hops else {"depth": probe.depth}),
        "samples": len(probe.exact),
        "accuracy": float(probe.exact.mean()),
        "prefers": probe.prefers,
        "margin": float(probe.margins.mean()),
        **{name: value for name, value in written.items() if not np.isnan(value)},
    }
