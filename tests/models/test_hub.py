"""What is fetched from the Hub, in which order, and what is refused before it is fetched."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from luthier.errors import ModelError
from luthier.models.artifacts import load_model
from luthier.models.card import describe
from luthier.models.inspect import parameter_counts
from luthier.models.loading import empty_model, load_config, load_tokenizer
from luthier.models.references import fingerprint, resolve
from luthier.models.settings import ModelSettings

COMMIT = "c" * 40


class FakeHub:
    """A Hub with one repository, `org/name`, that notes what is downloaded."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository, self.cache = repository, cache
        self.downloads: list[str] = []
        self.failure: Exception | None = None

    def model_info(self, repo_id: str, revision: str | None = None) -> Any:
        if self.failure is not None:
            raise self.failure
        names = [path.relative_to(self.repository).as_posix() for path in self.repository.rglob("*") if path.is_file()]
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in names])

    def snapshot_download(
        self, repo_id: str, *, revision: str, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        target = self.cache / f"models--{repo_id.replace('/', '--')}" / "snapshots" / revision
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(p for p in self.repository.rglob("*") if p.is_file()):
            name = path.relative_to(self.repository).as_posix()
            wanted = any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns)
            if wanted and not any(fnmatch.fnmatch(name, pattern) for pattern in ignore_patterns):
                if not (target / name).exists():
                    self.downloads.append(name)
                shutil.copy(path, target / name)
        references = target.parent.parent / "refs"
        references.mkdir(exist_ok=True)
        (references / "main").write_text(revision)
        return str(target)


@pytest.fixture
def hub(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(bert, tmp_path / "hub-cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(fake.cache))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_a_hub_model_loads_and_is_not_fetched_twice(hub: FakeHub):
    (hub.repository / "onnx").mkdir()
    (hub.repository / "onnx" / "config.json").write_text("{}")
    (hub.repository / "pytorch_model.bin").write_bytes(b"x")
    (hub.repository / "modeling.py").write_text("x")
    assert load_model("org/name", "encoder").config.hidden_size == 32
    assert hub.downloads[0] == "config.json"
    assert {"tokenizer_config.json", "model.safetensors"} < set(hub.downloads)
    assert not {"onnx/config.json", "pytorch_model.bin", "modeling.py"} & set(hub.downloads)
    before = list(hub.downloads)
    load_tokenizer("org/name")
    load_model("org/name", "encoder")
    assert hub.downloads == before


@pytest.mark.parametrize(
    "left", [{"config.json"}, {"config.json", "tokenizer.json", "model-00001-of-00002.safetensors"}]
)
def test_what_a_stopped_download_left_is_fetched_to_its_end(hub: FakeHub, left: set[str]):
    model = load_model(str(hub.repository), "encoder")
    (hub.repository / "model.safetensors").unlink()
    model.save_pretrained(hub.repository, max_shard_size="20KB")
    shards = sorted(path.name for path in hub.repository.glob("*.safetensors"))
    left = {shards[0] if name.startswith("model-") else name for name in left}
    assert len(shards) > 1
    hub.snapshot_download("org/name", revision=COMMIT, allow_patterns=sorted(left), ignore_patterns=["*/*"])
    before = list(hub.downloads)
    load_tokenizer("org/name")
    assert not set(hub.downloads[len(before) :]) & set(shards)
    load_model("org/name", "encoder")
    assert set(shards) <= set(hub.downloads)
    before = list(hub.downloads)
    load_model("org/name", "encoder")
    assert hub.downloads == before


def test_python_that_is_allowed_comes_with_the_configuration(hub: FakeHub):
    config = json.loads((hub.repository / "config.json").read_text())
    (hub.repository / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "own.OwnConfig"}}))
    own = "from transformers import BertConfig\n\nclass OwnConfig(BertConfig):\n    own = 3\n"
    (hub.repository / "own.py").write_text(own)
    with pytest.raises(ModelError, match="`auto_map` names Python classes"):
        load_config("org/name")
    settings = ModelSettings(reference="org/name", allow=["remote_code"])
    assert load_config(settings).own == 3
    assert not any(name.endswith(".safetensors") for name in hub.downloads)


def test_a_dry_run_fetches_no_weights(hub: FakeHub):
    counts = parameter_counts(empty_model("org/name", "sequence_classification"))
    assert "model.safetensors" not in hub.downloads
    assert load_config("org/name").hidden_size == 32
    assert counts == parameter_counts(load_model("org/name", "sequence_classification"))


def test_a_model_of_pickles_is_refused_before_anything_is_fetched(hub: FakeHub):
    (hub.repository / "model.safetensors").rename(hub.repository / "pytorch_model.bin")
    with pytest.raises(ModelError, match="org/name: the weights are not safetensors but pytorch_model\\.bin"):
        load_model("org/name", "encoder")
    assert hub.downloads == []


def test_auto_map_is_refused_before_weights_or_code_are_fetched(hub: FakeHub):
    config = json.loads((hub.repository / "config.json").read_text())
    (hub.repository / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    (hub.repository / "evil.py").write_text("raise SystemExit\n")
    with pytest.raises(ModelError, match="`auto_map` names Python classes"):
        load_model("org/name", "encoder")
    assert set(hub.downloads) <= {"config.json", "tokenizer_config.json", "generation_config.json"}


def test_offline_the_cache_is_used(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    load_model("org/name", "encoder")
    online = fingerprint(resolve("org/name"))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    hub.failure = AssertionError("the Hub was asked")
    assert load_model("org/name", "encoder").config.hidden_size == 32
    assert fingerprint(resolve("org/name")) == online
    with pytest.raises(ModelError, match="forbids fetching it"):
        load_model("org/other", "encoder")


def test_the_fingerprint_follows_the_commit_and_the_card_pins_it(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    first = fingerprint(resolve("org/name"))
    card = describe("org/name", "encoder")
    assert card.base == f"org/name@{COMMIT}"
    assert card.base_fingerprint == first
    monkeypatch.setattr(hub, "model_info", lambda *_, **__: SimpleNamespace(sha="d" * 40, siblings=[]))
    assert fingerprint(resolve("org/name")) != first


def response(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None, text="")


@pytest.mark.parametrize(
    ("failure", "message", "fix"),
    [
        (errors.RepositoryNotFoundError("404", response=response(404)), "no such model on the Hub", "spelling"),
        (errors.GatedRepoError("403", response=response(403)), "is gated", "accept its terms"),
        (errors.RevisionNotFoundError("404", response=response(404)), "has no revision 'v9'", "name a branch"),
        (ConnectionError("no route to host\nlong story"), "can't be reached: no route to host", "check the connection"),
        (errors.OfflineModeIsEnabled("offline"), "forbids fetching", "fetch it once"),
    ],
)
def test_what_goes_wrong_on_the_hub_is_one_sentence(hub: FakeHub, failure: Exception, message: str, fix: str):
    hub.failure = failure
    for action in (
        lambda: load_model(ModelSettings(reference="org/name", revision="v9"), "encoder"),
        lambda: fingerprint(resolve("org/name@v9")),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            action()
        assert fix in caught.value.fix
        assert caught.value.where.startswith("org/name")
        assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("revision", ["../../x", "/etc"])
def test_a_revision_is_no_path(hub: FakeHub, revision: str):
    with pytest.raises(ModelError, match="that is no revision"):
        load_model(ModelSettings(reference="org/name", revision=revision), "encoder")
