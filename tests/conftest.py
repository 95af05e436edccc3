"""One thread per test process, since small models are fastest so; a cache of the tests' own; no test's secrets in what
another writes; and no example that fails since the machine is busy."""

import hypothesis
import pytest
import torch

from luthier import secrets

torch.set_num_threads(1)
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch):
    monkeypatch.setattr(secrets, "_known", {})
    monkeypatch.setattr(secrets, "_told", set())
