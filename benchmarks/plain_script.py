"""The main job beside what a user would write instead: transformers' Trainer with PEFT, and `datasets` for the rows.

MiniLM on rows of two classes, LoRA and full fine-tuning; encoding, planning, evaluation and start-up beside them. Every
measurement is a fresh process with one thread, the sides in turn; processor time and wall time, and the peak resident
size. Of training, the processor time of an optimiser step is told as well, the mean from the start of the first to the
end of the last. Sources are compiled before, as after an installation. `--quick` takes small sizes, and writes to a
file of its own. Rows are drawn from words of the demo's sentences.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import harness
from tables import Cells, median_and_range, pick, table

ROOT = Path(__file__).parent.parent
DEMO = ROOT / ".cache" / "demo" / "train.tsv"
SIDES = ("luthier", "plain")
SIZES = {"rounds": 3, "train": 960, "validation": 300, "encode": 1_000_000, "batch": 16, "max_length": 128}
QUICK = {"rounds": 3, "train": 160, "validation": 60, "encode": 20_000, "batch": 16, "max_length": 128}
LORA = {"r": 8, "alpha": 16, "learning_rate": 1e-3}
FULL_RATE = 2e-5
# What is measured -> the sides that can do it.
JOBS = {
    "tune lora": SIDES,
    "tune full": SIDES,
    "encode": SIDES,
    "encode again": ("luthier",),
    "plan": ("luthier",),
    "evaluate": SIDES,
    "start-up": SIDES,
}
# What is measured of a job -> its name, unit and scale.
MEASURED = {
    "cpu_seconds": ("processor time", "s", 1),
    "step_cpu_seconds": ("processor time of a step", "ms", 1e-3),
    "seconds": ("wall time", "s", 1),
    "peak_memory_bytes": ("peak memory", "MB", 1e6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--only", help="run only cells whose name contains this")
    parser.add_argument("--minutes", type=float, help="stop after this long; the next call continues")
    parser.add_argument("--list", action="store_true", help="print the cells, run nothing")
    parser.add_argument("--measure", nargs=3, metavar=("CELL", "SIZES", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        cell, sizes, folder = options.measure
        print(json.dumps(measure_here(json.loads(cell), json.loads(sizes), Path(folder))))
        return
    sizes = QUICK if options.quick else SIZES
    cells = [
        {"job": job, "side": side, "round": number}
        for number in range(sizes["rounds"])
        for job, sides in JOBS.items()
        for side in sides
    ]
    with tempfile.TemporaryDirectory(prefix="luthier-plain-") as folder:
        if not options.list:
            compileall.compile_dir(ROOT / "src", quiet=1)
            write_rows(Path(folder), sizes)
        claim = "plain_script_quick" if options.quick else "plain_script"
        settings = {**sizes, "model": harness.MINILM}
        found = harness.run_cells(claim, settings, cells, lambda cell: measure_apart(cell, sizes, folder), options)
    if found["cells"] and not options.list:
        print(page(list(found["cells"].values())))


def write_rows(folder: Path, sizes: dict[str, int]) -> None:
    """Rows of the demo's words in another order, each with the label of the sentence that they are of."""
    lines = [line.split("\t") for line in DEMO.read_text(encoding="utf8").splitlines()[1:]]
    draw = random.Random(0)
    for name in ("train", "validation", "encode"):
        with (folder / f"{name}.csv").open("w", encoding="utf8") as file:
            file.write("text,label\n")
            for _ in range(sizes[name]):
                text, label = draw.choice(lines)
                words = text.replace('"', "").replace(",", " ").split()
                draw.shuffle(words)
                file.write(f"{' '.join(words)},{label}\n")


def measure_apart(cell: dict[str, Any], sizes: dict[str, int], folder: str) -> dict[str, Any]:
    """One measurement in a process of its own, with an empty cache of its own."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--measure", json.dumps(cell), json.dumps(sizes), folder]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment |= {
            "LUTHIER_CACHE": f"{cache}/luthier",
            "HF_DATASETS_CACHE": f"{cache}/datasets",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if cell["job"] == "encode again":
            first = json.dumps(cell | {"job": "encode"})
            subprocess.run([*command[:3], first, *command[4:]], check=True, env=environment, capture_output=True)
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        wall = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{harness.cell_name(cell)} failed:\n{done.stderr[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": wall}


def measure_here(cell: dict[str, Any], sizes: dict[str, int], folder: Path) -> dict[str, Any]:
    """Does the job; what the whole process took till here is what it is measured by."""
    side, job = cell["side"], cell["job"].removesuffix(" again")
    work = {"luthier": luthier_job, "plain": plain_job}[side]
    with timed_steps() if job.startswith("tune") else nullcontext({}) as steps:
        found = work(job, sizes, folder) or {}
    found |= steps
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {**found, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_memory_bytes": peak}


@contextmanager
def timed_steps() -> Iterator[dict[str, float]]:
    """The processor seconds of an optimiser step of the Trainer that runs inside, with its callbacks and the reading of
    batches, once it is over."""
    from transformers.trainer_callback import CallbackHandler

    begun, ended = list[float](), list[float]()
    begin, end = CallbackHandler.on_step_begin, CallbackHandler.on_step_end

    def on_step_begin(self: Any, *given: Any) -> Any:
        begun.append(time.process_time())
        return begin(self, *given)

    def on_step_end(self: Any, *given: Any) -> Any:
        found = end(self, *given)
        ended.append(time.process_time())
        return found

    CallbackHandler.on_step_begin, CallbackHandler.on_step_end = on_step_begin, on_step_end
    told: dict[str, float] = {}
    yield told
    told["step_cpu_seconds"] = (ended[-1] - begun[0]) / len(ended)


def luthier_job(job: str, sizes: dict[str, int], folder: Path) -> dict[str, Any] | None:
    if job == "start-up":
        from luthier.training import supervised  # noqa: F401

        return None
    if job == "encode":
        return luthier_encode(sizes, folder)
    from luthier.cli import main as luthier

    rows = "encode" if job == "plan" else "train"
    data = {
        "train": str(folder / f"{rows}.csv"),
        "validation": str(folder / "validation.csv"),
        "max_length": sizes["max_length"],
        "too_long": "truncate",
    }
    lora = {"name": "lora", "rank": LORA["r"], "alpha": LORA["alpha"]}
    method, rate = ("full", FULL_RATE) if job == "tune full" else (lora, LORA["learning_rate"])
    tune = {"method": method, "data": data, "epochs": 1, "batch_size": sizes["batch"], "learning_rate": rate}
    stages: list[dict[str, Any]] = [{"tune": tune}]
    if job == "evaluate":
        tune["max_steps"] = 1
        tune["evaluate_every"] = "never"
        judged = data | {"test": data.pop("validation")}
        judged.pop("validation", None)
        stages.append({"evaluate": {"suites": ["task"], "data": judged}})
    with tempfile.TemporaryDirectory() as runs:
        place = Path(runs) / "recipe.yaml"
        recipe = {"name": "job", "model": harness.MINILM, "stages": stages}
        place.write_text(json.dumps(recipe), encoding="utf8")
        verb = "plan" if job == "plan" else "run"
        sys.stdout, kept = sys.stderr, sys.stdout
        try:
            code = luthier([verb, str(place), "--output", runs])
        finally:
            sys.stdout = kept
        if code:
            raise RuntimeError(f"luthier {verb} ended with {code}")
        return luthier_metrics(Path(runs))


def luthier_metrics(runs: Path) -> dict[str, Any]:
    """Training seconds a step and the score, from the run's own record."""
    for place in runs.rglob("*tune/metrics.json"):
        record = json.loads(place.read_text(encoding="utf8"))
        steps = record["details"]["steps"]
        found = {"train_seconds": record["cost"]["seconds"], "steps": steps}
        return found | {k.replace("validation/", ""): v for k, v in record["scores"].items() if "accuracy" in k}
    return {}


def luthier_encode(sizes: dict[str, int], folder: Path) -> dict[str, Any]:
    from luthier.data import DataSettings, encode, load_data
    from luthier.models.loading import load_tokenizer
    from luthier.models.settings import ModelSettings

    tokenizer = load_tokenizer(ModelSettings(reference=harness.MINILM))
    data = load_data(DataSettings(train=str(folder / "encode.csv")), splits=("train",))
    rows = encode(data, tokenizer, max_length=sizes["max_length"], too_long="truncate")["train"]
    return {"rows": len(rows)}


def model_folder() -> str:
    """Where the weights that both sides start from lie."""
    from luthier.models.loading import local_folder
    from luthier.models.references import resolve
    from luthier.models.settings import ModelSettings

    settings = ModelSettings(reference=harness.MINILM)
    return str(local_folder(resolve(settings), settings))


def plain_job(job: str, sizes: dict[str, int], folder: Path) -> dict[str, Any] | None:
    """The script that a user would write."""
    import datasets
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

    if job == "start-up":
        import peft  # noqa: F401

        return None
    place = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(place)

    def rows(name: str) -> Any:
        loaded = datasets.load_dataset("csv", data_files=str(folder / f"{name}.csv"), split="train")
        names = {"negative": 0, "positive": 1}

        def encoded(batch: dict[str, list[Any]]) -> dict[str, Any]:
            tokens = tokenizer(batch["text"], truncation=True, max_length=sizes["max_length"])
            return {**tokens, "labels": [names[label] for label in batch["label"]]}

        return loaded.map(encoded, batched=True, remove_columns=["text", "label"])

    if job == "encode":
        return {"rows": len(rows("encode"))}
    set_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=2)
    rate = FULL_RATE
    if job == "tune lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(task_type="SEQ_CLS", r=LORA["r"], lora_alpha=LORA["alpha"])
        model, rate = get_peft_model(model, config), LORA["learning_rate"]
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out,
            per_device_train_batch_size=sizes["batch"],
            per_device_eval_batch_size=64,
            num_train_epochs=1,
            learning_rate=rate,
            max_steps=1 if job == "evaluate" else -1,
            train_sampling_strategy="group_by_length",
            eval_strategy="no" if job == "evaluate" else "epoch",
            save_strategy="no" if job == "evaluate" else "epoch",
            load_best_model_at_end=job != "evaluate",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows("train"),
            eval_dataset=rows("validation"),
            processing_class=tokenizer,
            compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
        )
        sys.stdout, kept = sys.stderr, sys.stdout
        try:
            result = trainer.train()
            scores = trainer.evaluate() if job == "evaluate" else trainer.state.log_history[-2]
            trainer.save_model(f"{out}/model")
        finally:
            sys.stdout = kept
    return {
        "train_seconds": result.metrics["train_runtime"],
        "steps": result.global_step,
        "accuracy": scores.get("eval_accuracy"),
    }


def page(cells: Cells) -> str:
    rows = []
    for job in JOBS:
        for what, (named, unit, scale) in MEASURED.items():
            own, other = ([e[what] / scale for e in pick(cells, job=job, side=s) if what in e] for s in SIDES)
            if own:
                ratio = median_and_range(ratios(cells, job, what)) if other else ""
                rows.append(
                    [job, named, *(f"{median_and_range(one)} {unit}" if one else "" for one in (own, other)), ratio]
                )
    about = (
        "## The main job beside a plain script\n\nMiniLM, rows of two classes, one epoch with one evaluation; the "
        "plain script is transformers' Trainer with PEFT, rows grouped by length, and `datasets`. A fresh process "
        "with an empty cache and one thread for every measurement, sides in turn; each number is a "
        "median and its range, a ratio that of the two sides of one round. Below 1 is less here.\n"
    )
    return about + "\n" + table(["job", "what", "here", "plain script", "ratio"], rows)


def ratios(cells: Cells, job: str, what: str) -> list[float]:
    """This side over the plain one, of every round that has both."""
    own, other = ({e["cell"]["round"]: e[what] for e in pick(cells, job=job, side=side) if what in e} for side in SIDES)
    return [own[number] / other[number] for number in own if number in other]


def answers(cells: Cells) -> list[tuple[str, str]]:
    said = []
    for job in ("tune lora", "tune full"):
        if found := ratios(cells, job, "cpu_seconds"):
            step = median_and_range(ratios(cells, job, "step_cpu_seconds"))
            said.append(f"{job.removeprefix('tune ')} {median_and_range(found)}, a step of it {step}")
    for job in ("evaluate", "encode"):
        if found := ratios(cells, job, "cpu_seconds"):
            said.append(f"{job} {median_and_range(found)}")
    question = "What does a whole run take in processor time, in runs of a plain transformers and PEFT script?"
    return [(question, "; ".join(said) + ".")] if said else []


if __name__ == "__main__":
    main()
