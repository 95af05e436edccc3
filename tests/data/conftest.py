import os
from pathlib import Path

import pytest

from tests.data.tokenizers import word_tokenizer


@pytest.fixture
def write(tmp_path):
    """Write a file under the test's folder and give its path as text."""

    def writer(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return writer


@pytest.fixture
def tokenizer():
    return word_tokenizer()


@pytest.fixture
def public_data():
    value = os.environ.get("LUTHIER_DATA")
    if not value:
        pytest.skip("LUTHIER_DATA is not set: the public sets are not looked for")
    return Path(value)
