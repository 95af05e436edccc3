"""A search with Optuna through the command line: by validation score, and exact after a stop."""

import builtins
import json
import os
import signal
import statistics
from pathlib import Path

import pytest

from luthier.recipe.loading import load_recipe
from luthier.report import recommend
from luthier.storage.jsonlines import read_log
from luthier.training.trainer import LuthierTrainer
from luthier.training.validation import Evaluation, Validation
from tests.processes import python

SPACE = {
    "stages.0.tune.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "stages.0.tune.method": ["bitfit", {"name": "lora", "rank": 2}],
}


@pytest.fixture
def place(workplace):
    workplace.recipe["stages"].pop()
    workplace.tune.update(max_steps=8, evaluate_every=4, learning_rate=None)
    workplace.recipe["compare"] = {"search": {"trials": 5, "space": SPACE}}
    workplace.search = lambda output="runs", *more: workplace.luthier(
        "run", workplace.write(), "--quiet", "--output", str(workplace.folder / output), *more
    )
    return workplace


def tried(place, output="runs") -> list[dict]:
    return [r["factors"] for r in read_log(place.folder / output / "small" / "trials.jsonl") if r["event"] == "ask"]


def ended_early(folder: Path) -> list[int]:
    """Numbers of the trials that the search ended."""
    ended = [json.loads(p.read_text())["factors"] for p in folder.glob("cells/*/cell.json") if _pruned(p.parent)]
    asked = [r for r in read_log(folder / "trials.jsonl") if r["event"] == "ask"]
    return [r["trial"] for r in asked if r["factors"] in ended]


def _pruned(cell: Path) -> bool:
    failure = cell / "failed.json"
    return failure.exists() and json.loads(failure.read_text())["pruned"]


def test_a_search_tries_its_space_and_leaves_the_best_as_a_recipe(place, capsys):
    assert place.search() == 0
    factors = tried(place)
    assert len(factors) == 5
    assert all(1e-4 <= f["stages.0.tune.learning_rate"] <= 1e-1 for f in factors)
    assert {json.dumps(f["stages.0.tune.method"]) for f in factors} == {'"bitfit"', '{"name": "lora", "rank": 2}'}
    choice = recommend(place.run_folder)
    scores = [
        json.loads(path.read_text())["scores"]["validation/accuracy"]
        for path in place.run_folder.glob("cells/*/00-tune/metrics.json")
    ]
    assert len(choice.contenders) == len(scores) >= 4
    assert choice.contenders[0].row.mean == max(scores)
    best = load_recipe(place.run_folder / "best.yaml")
    assert best.stage_list()[0].learning_rate == choice.chosen.factors["stages.0.tune.learning_rate"]
    assert "Best of " in capsys.readouterr().out
    page = (place.run_folder / "report.html").read_text(encoding="utf8")
    assert page.index("Best settings</h2>") < page.index("Scores and cost</h2>")


def test_more_trials_go_on_from_those_there_are(place):
    place.recipe["compare"]["search"]["trials"] = 2
    assert place.search("short", "--no-report") == 0
    done = {p: p.read_text() for p in (place.folder / "short").rglob("done.json")}
    place.recipe["compare"]["search"]["trials"] = 4
    assert place.search("short", "--no-report") == 0
    assert place.search("long", "--no-report") == 0
    assert tried(place, "short") == tried(place, "long")
    assert {p: p.read_text() for p in done} == done


def test_a_search_killed_again_and_again_is_one_that_was_never_killed(place):
    """kill -9 at random moments; the trials, their factors and their scores come out the same."""
    place.tune["checkpoint_every"] = 2
    place.recipe["compare"]["search"]["trials"] = 3
    recipe = place.write()
    commands = [["run", recipe, "--quiet", "--no-report", "--output", str(place.folder / n)] for n in ("a", "b")]
    script = str(Path(__file__).with_name("fork_runs.py"))
    done = python(script, *map(json.dumps, commands), "4", cwd=place.folder)
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["straight"] == outcome["code"] == 0, done.stderr
    assert outcome["died"] >= 2
    assert tried(place, "a") == tried(place, "b")
    scores = [
        {p.parent.parent.name: json.loads(p.read_text())["scores"] for p in (place.folder / n).rglob("metrics.json")}
        for n in ("a", "b")
    ]
    assert scores[0] == scores[1]
    assert len(scores[0]) >= 2


def test_poor_trials_are_ended_early_and_a_stopped_search_ends_the_same_ones(place, monkeypatch, capsys):
    """The score of a trial is its learning rate's rank, so that the pruner has clear cases."""
    import luthier.training.supervised as run

    def by_rate(stage, prepared):
        scores = {"validation/accuracy": stage.learning_rate, "validation/loss": 1.0}
        return Validation(lambda model: Evaluation(scores), "validation/accuracy", True)

    monkeypatch.setattr(run, "validation_of", by_rate)
    place.recipe["compare"]["search"].update(trials=9, sampler="random", space={k: SPACE[k] for k in list(SPACE)[:1]})
    assert place.search("straight") == 0
    out = capsys.readouterr().out
    straight = place.folder / "straight" / "small"
    pruned = ended_early(straight)
    rates = [f["stages.0.tune.learning_rate"] for f in tried(place, "straight")]
    assert pruned
    for trial in range(5, 9):
        ended = [rate for number, rate in enumerate(rates[:trial]) if number not in pruned]
        assert (trial in pruned) == (rates[trial] < statistics.median(ended))
    assert recommend(straight).chosen.factors["stages.0.tune.learning_rate"] == max(rates)
    assert f"{len(pruned)} pruned" in (straight / "report.html").read_text(encoding="utf8")
    assert "pruned" in out

    step, calls = LuthierTrainer.training_step, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) in (10, 8 * 5 + 3, 8 * 5 + 9):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LuthierTrainer, "training_step", interrupted)
    codes = [place.search("stopped") for _ in range(4)]
    assert codes == [75, 75, 75, 0]
    stopped = place.folder / "stopped" / "small"
    assert ended_early(stopped) == pruned
    assert tried(place, "stopped") == tried(place, "straight")

    # Told by what they left, as long as that is of these data.
    before = len(calls)
    assert place.search("stopped") == 0
    assert len(calls) == before
    assert ended_early(stopped) == pruned
    with (place.folder / "train.tsv").open("a") as file:
        file.write("one more row\tgood\n")
    assert place.search("stopped") == 0
    assert len(calls) - before == 8 * (9 - len(pruned)) + 4 * len(pruned)
    assert ended_early(stopped) == pruned


def test_a_search_that_goes_on_ends_trials_by_the_score_of_the_training(place, monkeypatch):
    """The last stage has another score, which no log of the training tells."""
    import luthier.training.supervised as run

    def by_rate(stage, prepared):
        scores = {"validation/accuracy": stage.learning_rate}
        return Validation(lambda model: Evaluation(scores), "validation/accuracy", True)

    monkeypatch.setattr(run, "validation_of", by_rate)
    place.tune.update(max_steps=2, evaluate_every=1)
    place.recipe["stages"].append({"evaluate": {"split": "validation", "suites": ["calibration"]}})
    search = place.recipe["compare"]["search"]
    search.update(trials=9, sampler="random", space={k: SPACE[k] for k in list(SPACE)[:1]})
    assert place.search("straight", "--no-report") == 0
    assert ended_early(place.folder / "straight" / "small")
    for trials in (5, 9):
        search["trials"] = trials
        assert place.search("later", "--no-report") == 0
    assert ended_early(place.folder / "later" / "small") == ended_early(place.folder / "straight" / "small")


def test_what_is_tried_again_ends_as_it_did_before(place, monkeypatch):
    """A method that is behind at first and best in the end, asked for again when most of the others began better."""
    import luthier.training.supervised as run

    starts = {"bitfit": (0.1, 0.9), "head_only": (0.5, 0.6), "full": (0.6, 0.65)}

    def by_method(stage, prepared):
        found = iter(starts[stage.method.name])
        return Validation(lambda model: Evaluation({"validation/accuracy": next(found)}), "validation/accuracy", True)

    monkeypatch.setattr(run, "validation_of", by_method)
    space = {"stages.0.tune.method": list(starts)}
    place.recipe["compare"]["search"].update(trials=14, sampler="random", space=space)
    assert place.search("runs", "--no-report") == 0
    names = [one["stages.0.tune.method"] for one in tried(place)]
    assert names.index("bitfit") < 5
    assert "bitfit" in names[6:]
    choice = recommend(place.run_folder)
    assert choice.chosen.label == "bitfit"
    assert len(choice.contenders) == 3
    assert not list(place.run_folder.glob("cells/*/failed.json"))


@pytest.mark.parametrize("other", [1, 2, 7])
def test_searches_with_other_seeds_try_other_values(place, other):
    """Not even those of a neighbouring seed, one trial later."""
    from luthier.compare.search import Search

    found = []
    for seed in (0, other):
        place.recipe["compare"]["search"].update(trials=9, seed=seed, space={k: SPACE[k] for k in list(SPACE)[:1]})
        folder = place.folder / f"seed-{seed}"
        folder.mkdir()
        search = Search(load_recipe(place.write()), folder)
        rates = []
        for number in range(9):
            rates += search.ask(number).values()
            search.finish(folder / "none", ("validation/accuracy", 0.5))
        found.append(set(rates))
    assert len(found[0]) == 9
    assert not found[0] & found[1]


def test_a_search_of_which_every_trial_failed_ends_with_the_code_of_the_failure(place, capsys):
    place.recipe["compare"]["search"]["trials"] = 2
    for split in ("train", "validation"):
        rows = (place.folder / f"{split}.tsv").read_text().replace("\tpositive", "\t")
        (place.folder / f"{split}.tsv").write_text(rows)
    assert place.search("runs", "--no-report") == 3
    assert "every trial of the search failed" in capsys.readouterr().err


def test_trials_of_another_search_are_put_aside(place):
    place.recipe["compare"]["search"]["trials"] = 2
    assert place.search("runs", "--no-report") == 0
    first = tried(place)
    place.recipe["compare"]["search"]["seed"] = 5
    assert place.search("runs", "--no-report") == 0
    assert tried(place) != first
    assert len(list((place.run_folder / "replaced").glob("trials-*.jsonl"))) == 1
    assert len(recommend(place.run_folder).contenders) == 2
    for seed in (0, 5):
        place.recipe["compare"]["search"]["seed"] = seed
        assert place.search("runs", "--no-report") == 0
    assert len(list((place.run_folder / "replaced").glob("trials-*.jsonl"))) == 3


def test_without_optuna_the_extra_is_named(place, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert place.search() == 2
    assert "pip install 'luthier[search]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"stages.0.tune.learning_rat": [1, 2]}}, "unknown key 'learning_rat'"),
        ({"space": {"stages.0.tune.method": ["bitfit", "lroa"]}}, "there is no tuning method called 'lroa'"),
        ({"space": {"stages.0.tune.learning_rate": {"low": 0, "high": 1, "log": True}}}, "has to lie above 0"),
        ({"space": {"stages.0.tune.learning_rate": {"low": 2, "high": 1}}}, "low has to be below high"),
        ({"space": {"seed": [1, 1]}}, "lists a value twice"),
        ({"space": {}}, "has to be of 1 entries or more"),
        (
            {"space": {"stages.0.tune.batch_size": {"low": 8, "high": 16.0}}},
            "with stages.0.tune.batch_size=11.056: stages.0.tune.batch_size: has to be a whole number",
        ),
        (
            {"space": {"stages.0.tune.batch_size": {"low": 8, "high": 16.0, "step": 0.5}}},
            "with stages.0.tune.batch_size=8.5",
        ),
        ({"space": {"stages.0.tune.epochs": {"low": 1, "high": 4, "step": 9}}}, "step is larger than the range"),
        ({"trials": 0}, "has to be above 0; the recipe gives 0"),
    ],
    ids=str,
)
def test_mistakes_are_told(place, capsys, changes, message):
    place.recipe["compare"]["search"].update(changes)
    assert place.luthier("validate", place.write()) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "has to be a list" not in told  # which it need not, where a range is given


@pytest.mark.parametrize(
    ("among", "reached"),
    [
        ({"low": 1, "high": 10, "step": 4}, {1, 5, 9}),
        ({"low": 0.0, "high": 0.3, "step": 0.1}, {0.0, 0.1, 0.2, 0.3}),
        ({"low": 0.0, "high": 0.35, "step": 0.1}, {0.0, 0.1, 0.2, 0.3}),
    ],
    ids=str,
)
def test_a_range_with_steps_ends_where_they_reach(place, recwarn, among, reached):
    from luthier.compare.search import Search

    place.recipe["compare"]["search"].update(space={"stages.0.tune.warmup_ratio": among}, sampler="random")
    recipe = load_recipe(place.write()) if among["high"] < 1 else None
    if recipe is None:
        place.recipe["compare"]["search"]["space"] = {"stages.0.tune.batch_size": among}
        recipe = load_recipe(place.write())
    search, found = Search(recipe, place.folder), set()
    for number in range(40):
        found |= {round(value, 9) for value in search.ask(number).values()}
        search.finish(place.folder / "none", ("validation/accuracy", 0.5))
    assert found == reached
    assert not [one for one in recwarn if "divisible" in str(one.message)]


def test_plan_and_validate_know_the_search(place, capsys):
    assert place.luthier("validate", place.write()) == 0
    assert "a search of 5 runs" in capsys.readouterr().out
    assert place.luthier("plan", place.write(), "--output", str(place.folder / "runs")) == 0
    assert "up to 5, of which this is one" in capsys.readouterr().out
    assert not (place.folder / "runs").exists()


def test_a_score_that_is_no_number_is_null_for_every_reader_of_json(place, monkeypatch):
    """One method's score has no end: the others are chosen from, and what is found done says the same."""
    import luthier.training.supervised as run

    scores = {"bitfit": 0.9, "head_only": float("inf"), "full": 0.6}

    def by_method(stage, prepared):
        found = {"validation/accuracy": scores[stage.method.name]}
        return Validation(lambda model: Evaluation(found), "validation/accuracy", True)

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    monkeypatch.setattr(run, "validation_of", by_method)
    space = {"stages.0.tune.method": list(scores)}
    place.recipe["compare"]["search"].update(trials=8, sampler="random", space=space)
    for _ in range(2):
        assert place.search() == 0
        files = place.run_folder.glob("cells/*/00-tune/metrics.json")
        found = [json.loads(path.read_text(), parse_constant=refuse)["scores"]["validation/accuracy"] for path in files]
        assert sorted(found, key=str) == [0.6, 0.9, None]
        choice = recommend(place.run_folder)
        assert choice.chosen.label == "bitfit"
        assert [label for label, _ in choice.left_out] == ["head_only"]
