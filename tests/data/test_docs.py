import re
from pathlib import Path

import yaml

from luthier.data.catalogue.lookup import known_sets
from luthier.data.settings import SPLITS, DataSettings
from luthier.recipe.loading import load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def test_every_known_set_is_described():
    rows = {line.split("|")[1].strip(" `"): line for line in PAGE.splitlines() if line.startswith("| `")}
    for known in known_sets().values():
        if known.folder is None:
            assert f"`{known.hub[0]}`" in PAGE
            assert known.name.partition("/")[2] in PAGE
        else:
            part = known.name.removeprefix(f"data/{known.folder}")
            assert known.folder in rows, f"{known.folder} is not in docs/data.md"
            assert not part or f"`{part}`" in rows[known.folder] or part.strip("/") in rows[known.folder], known.name
            assert known.evaluation_only == ("evaluation only" in rows[known.folder]), known.name


def test_every_source_field_is_described():
    for name in (
        *SPLITS,
        "source",
        "labels",
        "label_map",
        "labelled",
        "too_long",
        "examples",
        "per_class",
        "streaming",
        "as_text",
        "template",
        "verbalizers",
        "number_step",
        "label_scoring",
    ):
        assert name in DataSettings.model_fields
        assert f"`{name}" in PAGE


def test_its_recipes_and_data_blocks_are_valid(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)
    recipes = [block for block in blocks if "stages:" in block]
    assert recipes
    assert len(blocks) > len(recipes)
    for block in blocks:
        if block in recipes:
            (tmp_path / "recipe.yaml").write_text(block)
            load_recipe(tmp_path / "recipe.yaml")
        else:
            DataSettings.model_validate(yaml.safe_load(block)["data"])
