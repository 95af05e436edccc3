"""One thread per test process, since small models are fastest so; a cache of the tests' own; no test's secrets in what
another writes; no example that fails since the machine is busy; no work that is done twice; and files in memory where
there is plenty, since to sync and remove them on a disk takes a tenth of the time."""

import gc
import os
import shutil
import tempfile
import time

import hypothesis
import psutil
import pytest
import torch

from luthier import secrets

MEMORY, SPACE, LEFT = "/dev/shm", 4e9, 12e9
if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and shutil.disk_usage(MEMORY).free > SPACE
    and psutil.virtual_memory().available > LEFT
):
    os.environ["TMPDIR"] = tempfile.tempdir = MEMORY
torch.set_num_threads(1)
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What a module's tests share is made by one worker, not by each."""
    for item in items:
        scopes = {made[-1].scope for made in item._fixtureinfo.name2fixturedefs.values()}
        if "module" in scopes and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


class _Garbage:
    """Keeps searches for garbage short: what a long one left, imported modules above all, stays to the end of the tests
    and is not looked at again."""

    LONG = 0.02

    def __init__(self) -> None:
        self.began, self.was_long = 0.0, False

    def searched(self, phase, _info):
        if phase == "start":
            self.began = time.process_time()
        else:
            self.was_long |= time.process_time() - self.began > self.LONG

    @pytest.hookimpl
    def pytest_runtest_logfinish(self):
        """Between two tests, when nothing lives that one of them made."""
        if self.was_long:
            gc.collect()
            gc.freeze()
            self.was_long = False


def pytest_configure(config):
    garbage = _Garbage()
    gc.callbacks.append(garbage.searched)
    config.pluginmanager.register(garbage)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch):
    monkeypatch.setattr(secrets, "_known", {})
    monkeypatch.setattr(secrets, "_told", set())
