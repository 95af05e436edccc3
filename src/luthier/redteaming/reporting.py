"""What the page shows of a red-teaming stage. No prompt and no answer is among it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from luthier.redteaming.measuring import QUANTILES, reduction
from luthier.redteaming.result import HELD_OUT, HELPFUL, LOOK_ALIKES, MartResult
from luthier.redteaming.settings import MartSettings
from luthier.report.sections import Bars, Heatmap, Lines, Reliability, Section, SectionTable, Value
from luthier.report.text import interval_text

_ROLE = "evaluation_safety"


def first_and_last(result: MartResult) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was measured before the first round, and after the last one."""
    numbers = sorted(result.measured)
    return result.measured[numbers[0]], result.measured[numbers[-1]]


def scores_of(result: MartResult) -> dict[str, float]:
    """The main numbers, as fractions."""
    before, after = first_and_last(result)
    fall = fall_of(result)
    found: dict[str, Any] = {
        "held_out/violation": after[HELD_OUT][_ROLE]["rate"],
        "held_out/violation_before": before[HELD_OUT][_ROLE]["rate"],
        "held_out/reduction": fall.get("reduction"),
    }
    for number, measured in enumerate(result.rounds, 1):
        found[f"attacks/success_round_{number}"] = _success(measured.facts)
    if result.final:
        for name in ("first", "last"):
            found[f"final_attacks/violation_{name}"] = result.final.get(name, {}).get(_ROLE, {}).get("rate")
    if HELPFUL in after:
        found |= {
            "helpful/helpfulness": after[HELPFUL]["score"],
            "helpful/helpfulness_before": before[HELPFUL]["score"],
            "helpful/refusal_rate": after[HELPFUL]["refusal_rate"],
            "helpful/refusal_rate_before": before[HELPFUL]["refusal_rate"],
            "helpful/perplexity": after.get("perplexity"),
            "helpful/perplexity_before": before.get("perplexity"),
        }
    if LOOK_ALIKES in after:
        found |= {
            "look_alikes/refusal_rate": after[LOOK_ALIKES]["refusal_rate"],
            "look_alikes/refusal_rate_before": before[LOOK_ALIKES]["refusal_rate"],
        }
    return {name: float(value) for name, value in found.items() if value is not None}


def intervals_of(result: MartResult) -> dict[str, tuple[float, float]]:
    """95 % intervals: Wilson's of rates, bootstrap's of means and of the reduction."""
    before, after = first_and_last(result)
    found: dict[str, Any] = {}
    for name, measured in (("violation", after), ("violation_before", before)):
        if measured[HELD_OUT][_ROLE]["scored"]:
            found[f"held_out/{name}"] = measured[HELD_OUT][_ROLE]["interval"]
    fall = fall_of(result)
    if fall.get("reduction") is not None:
        found["held_out/reduction"] = fall["reduction_interval"]
    for kind, key in ((HELPFUL, "helpful"), (LOOK_ALIKES, "look_alikes")):
        if kind in after:
            found[f"{key}/refusal_rate"] = after[kind]["refusal_interval"]
    if HELPFUL in after:
        found["helpful/helpfulness"] = after[HELPFUL]["interval"]
    return {name: (float(pair[0]), float(pair[1])) for name, pair in found.items() if pair}


def about(result: MartResult) -> dict[str, str]:
    """What the names of scores leave out."""
    scored = first_and_last(result)[1][HELD_OUT][_ROLE]["scored"]
    return {"held_out/violation": f"of {scored} held-out attacks that the evaluating judge could score"}


def fall_of(result: MartResult) -> dict[str, Any]:
    """The reduction of violations between the first and the last measurement."""
    numbers = sorted(result.folders)
    return reduction(result.folders[numbers[0]], result.folders[numbers[-1]])


def sections(settings: MartSettings, result: MartResult) -> list[Section]:
    """All parts of the page, with what must not be missed on top of every table."""
    top = " ".join(f"{one}." for one in result.marks)
    parts = [*_safety(result), *_rounds(result), *_usefulness(result), *_attacks(result), *_judges(settings, result)]
    return [_below(top, one) for one in parts]


def _below(top: str, section: Section) -> Section:
    if not top or (section.table is None and section.plot is None):
        return section
    text = f"{top} {section.text}".strip()
    return Section(section.title, text, section.facts, section.table, section.plot, section.samples)


def _safety(result: MartResult) -> Iterator[Section]:
    success = {done.number: _success(done.facts) for done in result.rounds}
    rows: list[list[Value]] = []
    points: dict[str, list[tuple[float, float]]] = {"held-out, evaluating judge": [], "held-out, selecting judge": []}
    for number, measured in sorted(result.measured.items()):
        held = measured[HELD_OUT]
        own, other = held[_ROLE], held.get("safety", held[_ROLE])
        for label, found in zip(points, (own, other), strict=True):
            if found["rate"] is not None:
                points[label].append((number, found["rate"]))
        rows.append(
            [
                number,
                _share(own["rate"]),
                _range(own["interval"]),
                f"{own['violations']} of {own['scored']}",
                _share(other["rate"]),
                held["prompts"] - own["scored"],
                _share(success.get(number)),
            ]
        )
    points["written attacks"] = [(number, rate) for number, rate in success.items() if rate is not None]
    columns = [
        "after round",
        "violations",
        "95 % interval",
        "counts",
        "by the selecting judge",
        "not scored",
        "unsafe answers to the round's attacks",
    ]
    fall = fall_of(result)
    text = (
        "Held-out attacks are never trained on; each is answered once. The attacks of a round were answered before it "
        "trained."
    )
    if fall.get("reduction") is not None and len(result.measured) > 1:
        way, bounds = "fell" if fall["reduction"] >= 0 else "rose", _range(fall["reduction_interval"])
        interval = f"; 95 % interval of the reduction {bounds}" if bounds else ""
        text += (
            f" Violations {way} by {abs(fall['reduction']):.1%} of what they were{interval}, on the same "
            f"{fall['prompts']} prompts, of whose answers {fall['scored_before']} could be scored before and "
            f"{fall['scored_after']} after."
        )
    if result.stopped:
        text += f" The loop stopped early: {result.stopped}."
    yield Section("Violations by round", text, table=SectionTable(columns, rows))
    drawn = {name: line for name, line in points.items() if line}
    if drawn:
        yield Section("Violations over the rounds", plot=Lines(drawn, "round", "unsafe share of answers"))
    quantiles: list[list[Value]] = [
        [number, *(round(q, 3) for q in measured[HELD_OUT][_ROLE]["quantiles"])]
        for number, measured in sorted(result.measured.items())
        if measured[HELD_OUT][_ROLE]["quantiles"]
    ]
    if quantiles:
        yield Section(
            "Safety scores, lowest to highest",
            "The low quantiles show the unsafe tail, which a mean hides.",
            table=SectionTable(["after round", *(f"{share:.0%}" for share in QUANTILES)], quantiles),
        )
    yield from _by_category(result)


def _success(facts: Mapping[str, Any]) -> float | None:
    """Share of the plain answers to a round's attacks that the selecting judge calls unsafe: a rate that is the same
    thing in rounds with one answer a prompt and with several."""
    return facts["violations"] / facts["violations_of"] if facts["violations_of"] else None


def _by_category(result: MartResult) -> Iterator[Section]:
    """A map of the categories in which some answer was scored each time."""
    numbers = sorted(result.measured)
    names = sorted({name for one in result.measured.values() for name in one[HELD_OUT]["categories"]})
    counts = {name: [result.measured[n][HELD_OUT]["categories"].get(name, [0, 0]) for n in numbers] for name in names}
    kept = {name: [hits / total for hits, total in row] for name, row in counts.items() if all(t for _, t in row)}
    if len(names) < 2 or not kept:
        return
    left_out = [name or "none named" for name in names if name not in kept]
    text = f"Left out, since no answer was scored at some time: {', '.join(left_out)}." if left_out else ""
    rows = [name or "none named" for name in kept]
    plot = Heatmap(rows, [str(n) for n in numbers], list(kept.values()))
    yield Section("Violations by category and round", text, plot=plot)


def _rounds(result: MartResult) -> Iterator[Section]:
    if not result.rounds:
        return
    columns = ["round", "parents", "written", "dropped", "asked", "answers", "not scored", "succeeded", "learned"]
    rows: list[list[Value]] = [
        [
            done.number,
            done.facts["parents"],
            done.facts["written"],
            sum(done.facts["dropped"].values()),
            done.facts["asked"],
            done.facts["answers"],
            done.facts["unscored"],
            done.facts["broken"],
            done.facts["learned"],
        ]
        for done in result.rounds
    ]
    seeds = result.seeds
    text = (
        f"{seeds['seeds']} seeds, {seeds['held_out']} held-out attacks; {seeds['near_duplicates']} seeds were left out "
        "because they are like a held-out one. Dropped prompts are empty, or like a prompt that is measured by or an "
        "earlier one."
    )
    told = [
        f"{sum(done.facts[key] for done in result.rounds)} answers {what}"
        for key, what in (
            ("labelled", "have a label of people, which took the judge's place"),
            ("vetoed", "were vetoed"),
        )
        if result.judges["from_review"] or any(done.facts[key] for done in result.rounds)
    ]
    text += f" {'; '.join(told)}." if told else ""
    yield Section("What each round made", text, table=SectionTable(columns, rows))


def _usefulness(result: MartResult) -> Iterator[Section]:
    rows: list[list[Value]] = []
    for number, measured in sorted(result.measured.items()):
        for kind in (HELPFUL, LOOK_ALIKES):
            if kind in measured:
                found = measured[kind]
                rows.append(
                    [
                        number,
                        "ordinary" if kind == HELPFUL else "harmless look-alikes",
                        found["prompts"],
                        None if found["score"] is None else round(found["score"], 3),
                        sum(found["unscored"].values()),
                        _share(found["refusal_rate"]),
                        _range(found["refusal_interval"]),
                        found["empty"],
                        round(found["words"], 1),
                        round(measured["perplexity"], 2) if kind == HELPFUL and measured.get("perplexity") else None,
                    ]
                )
    if rows:
        columns = ["after round", "prompts", "number", "helpfulness", "not scored", "refused", "95 % interval", "empty"]
        columns += ["words", "perplexity"]
        text = (
            "A model that refuses everything is safe and useless. Refusals are told by their opening words, among the "
            "answers that are not empty; perplexity is that of the reference answers."
        )
        yield Section("Usefulness and over-refusal", text, table=SectionTable(columns, rows))


def _attacks(result: MartResult) -> Iterator[Section]:
    found = [(done.number, done.facts["diversity"]) for done in result.rounds]
    if found:
        columns = ["round", "prompts", "distinct words", "distinct pairs", "spread", "bits of category", "same opening"]
        keys = ["distinct_1", "distinct_2", "spread", "categories", "opening"]
        if all(one["meaning"] is not None for _, one in found):
            columns, keys = [*columns, "spread of meaning"], [*keys, "meaning"]
        rows: list[list[Value]] = [
            [
                number,
                one["prompts"],
                *(round(one[key], 3) for key in keys),
            ]
            for number, one in found
        ]
        text = "When these fall from round to round, the adversary repeats one trick."
        yield Section("How varied the attacks are", text, table=SectionTable(columns, rows))
        series = {key: [(n, one[key]) for n, one in found] for key in ("distinct_2", "spread")}
        if len(found) > 1:
            yield Section("Variety over the rounds", plot=Lines(series, "round", "0 to 1"))
    if result.final and result.final["prompts"]:
        targets = {"first": "target before round 1", "last": "target after the last round"}
        values = {
            name: result.final[key][_ROLE]["rate"]
            for key, name in targets.items()
            if result.final.get(key, {}).get(_ROLE, {}).get("rate") is not None
        }
        if values:
            before = result.final.get("asked_before", 0)
            asked = f"{before} of which were asked in a round, too" if before else "none of which was asked in a round"
            text = f"{result.final['prompts']} prompts after the last round, {asked}: "
            text += "; ".join(_counted(result.final[key][_ROLE], name) for key, name in targets.items()) + "."
            yield Section("The last adversary's attacks", text, plot=Bars(values, "share of answers that are unsafe"))
    if any(row for row in result.transfer.values()):
        places = sorted(next(iter(result.transfer.values())))
        table: list[list[Value]] = [
            [f"of round {n}", *(f"{row[t][0]} of {row[t][1]}" if t in row else None for t in places)]
            for n, row in sorted(result.transfer.items())
        ]
        text = (
            "Attacks that succeeded in a round, asked again to the target before and after every round: unsafe answers "
            "of those that could be scored."
        )
        yield Section(
            "Transfer of attacks", text, table=SectionTable(["attacks", *(f"target {t}" for t in places)], table)
        )


def _judges(settings: MartSettings, result: MartResult) -> Iterator[Section]:
    rows: list[list[Value]] = []
    for role, report in result.judges["reports"].items():
        if report is None:
            rows.append([role.replace("_", " "), result.judges["versions"][role], 0, *[None] * 7])
            continue
        rows.append(
            [
                role.replace("_", " "),
                result.judges["versions"][role],
                report["scored"],
                _number(report["auroc"]),
                interval_text(report["auroc_interval"]) or None,
                _share(report["accuracy"]),
                _number(report["kappa"]),
                _number(report["calibration_error"]),
                _share(report["refusals"]),
                _share(report["cut_off"]),
            ]
        )
    columns = [
        "judge",
        "version",
        "labelled rows",
        "AUROC",
        "95 % interval",
        "agrees with people",
        "kappa",
        "calibration error",
        "refusals called unsafe",
        "half answers called unsafe",
    ]
    text = f"An AUROC of {settings.judges.required_auroc:g} is asked for. Empty answers are never scored."
    if result.judges.get("agreement") is not None:
        text += f" Both judges of safety fall on the same side of 0.5 on {result.judges['agreement']:.1%} of the rows."
    yield Section("What is known of the judges", text, table=SectionTable(columns, rows))
    for role, report in result.judges["reports"].items():
        if report and report["bins"]:
            yield Section(f"Calibration of the {role.replace('_', ' ')} judge", plot=Reliability(report["bins"]))


def _counted(found: Mapping[str, Any], name: str) -> str:
    """A rate with its counts and its interval."""
    return f"{name} {found['violations']} unsafe of {found['scored']} scored, 95 % interval {_range(found['interval'])}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _number(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _range(pair: Sequence[float] | None) -> str | None:
    return None if pair is None else f"{pair[0]:.1%} to {pair[1]:.1%}"
