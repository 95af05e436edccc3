import subprocess
import sys

import pytest
from pydantic import ValidationError

from luthier.data.settings import DataSettings


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "no data"),
        ({"source": "data:sst2", "train": "a.csv"}, "both name the training examples"),
        ({"train": "a.csv", "test": "a.csv"}, "`train` and `test` are the same examples"),
        ({"train": "data:sst2#train", "test": "data:sst2#train"}, "the same examples"),
        ({"train": "a.csv", "per_class": 4, "examples": 8}, "both size the training subset"),
        (
            {"train": "a.csv", "validation_fraction": 0.1, "validation_examples": 5, "examples": 5},
            "both cut a validation",
        ),
        ({"train": "a.csv", "validation_examples": 5}, "set `examples` too"),
        ({"train": "a.csv", "validation": "b.csv", "validation_fraction": 0.1}, "`validation` names one"),
        ({"train": "a.csv", "task": "plain_text", "text_pair": "b"}, "`text_pair` has no effect"),
        ({"train": "a.csv", "task": "regression", "labels": ["a", "b"]}, "no effect for task regression"),
        ({"train": "a.csv", "task": "token_labels", "per_class": 4}, "`per_class` needs one label an example"),
        ({"train": "a.csv", "labels": ["a", "a"]}, "names a label twice"),
        ({"train": "a.csv", "task": "pair", "labels": ["a"]}, "at least 2"),
        ({"train": "a.csv", "labels": []}, "at least 1"),
        ({"train": "a.csv", "labelled": False, "per_class": 4}, "`labelled` is false"),
        ({"train": "a.csv", "streaming": True, "examples": 4}, "can't be used with `streaming`"),
        ({"train": "a.csv", "buffer": 50}, "`buffer` shuffles a stream: it has no effect without `streaming: true`"),
        ({"train": "a.csv", "streaming": True, "task": "token_labels"}, "can't be streamed"),
        ({"train": "a.csv", "validation_fraction": 1.0}, "less than 1"),
        ({"train": "a.csv", "tekst": "b"}, "Extra inputs"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(fields, told):
    with pytest.raises(ValidationError, match=told):
        DataSettings(**fields)


def test_one_set_may_serve_several_splits():
    settings = DataSettings(train="data:sst2", validation="data:sst2", test="glue/sst2")
    assert settings.validation == "data:sst2"


def test_settings_survive_json():
    settings = DataSettings(train="a.csv", text="sentence", choices=["a", "b"], task=None)
    assert DataSettings.model_validate_json(settings.model_dump_json()) == settings


def test_every_field_is_described():
    assert all(field.description for field in DataSettings.model_fields.values())


def test_importing_settings_loads_no_heavy_library():
    heavy = {"torch", "transformers", "datasets", "pandas", "pyarrow"}
    code = (
        "import sys, luthier.data, luthier.data.settings, luthier.data.sources.fingerprint;"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
