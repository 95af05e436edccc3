"""UniPELT's gates in a run: recorded on the validation rows, and shown in its report."""

import pytest


def test_a_run_records_its_gates_and_its_report_plots_them(workplace):
    workplace.tune.update(method="unipelt", learning_rate=1e-2, epochs=2)
    assert workplace.run() == 0
    details = workplace.metrics()["details"]
    found = {(row["layer"], row["gate"]): row for row in details["gates"]}
    gates = ("adapter", "prefix-self", "lora-self-query", "lora-self-value")
    assert found.keys() == {(layer, gate) for layer in (0, 1) for gate in gates}
    assert all(row["examples"] == 32 and 0 < row["lowest"] < row["mean"] < row["highest"] < 1 for row in found.values())
    series = details["sections"][0]["plot"]["series"]
    assert series["lora query"][1] == [1, *(found[1, "lora-self-query"][key] for key in ("mean", "deviation"))]
    page = (workplace.run_folder / "report.html").read_text(encoding="utf8")
    assert "Gates by layer" in page
    assert "over 32 validation examples" in page


def test_the_recorded_gates_are_those_of_the_saved_model(workplace):
    import torch

    from luthier.models.artifacts import load_artifact
    from luthier.tuning.unipelt import gate_report

    workplace.tune.update(method={"name": "unipelt", "recorded_examples": 5}, learning_rate=1e-2, epochs=2)
    assert workplace.run() == 0
    found = workplace.metrics()["details"]["gates"]
    assert {row["examples"] for row in found} == {5}
    model, tokenizer, *_ = load_artifact(workplace.run_folder / "00-tune" / "model")
    lines = (workplace.folder / "validation.tsv").read_text().splitlines()[1:6]
    batch = tokenizer([line.split("\t")[0] for line in lines], return_tensors="pt", padding=True)
    with torch.no_grad():
        again = gate_report(model, batch)
    for one, other in zip(found, again, strict=True):
        assert one["mean"] == pytest.approx(other["mean"], abs=1e-5), one


@pytest.mark.parametrize("settings", [{"recorded_examples": 0}, {"gates": "none"}], ids=str)
def test_nothing_is_recorded_where_nothing_is_asked_or_learned(workplace, settings):
    workplace.tune.update(method={"name": "unipelt", **settings}, epochs=1)
    assert workplace.run() == 0
    assert not {"gates", "sections"} & workplace.metrics()["details"].keys()
