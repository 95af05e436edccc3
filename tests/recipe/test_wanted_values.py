"""What a value has to be is said in plain words, with what the recipe gives."""

import pytest

from luthier.errors import RecipeError
from luthier.recipe.loading import check_recipe
from luthier.recipe.yaml_text import YamlText


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"epochs": 0}, "stages.0.tune.epochs: has to be above 0"),
        ({"epochs": "many"}, "epochs: has to be a number; the recipe gives 'many'"),
        ({"batch_size": "sixty"}, "batch_size: has to be a whole number; the recipe gives 'sixty'"),
        ({"batch_size": 1.5}, "batch_size: has to be a whole number; the recipe gives 1.5"),
        ({"warmup_ratio": 1}, "warmup_ratio: has to be below 1"),
        ({"max_grad_norm": -1}, "max_grad_norm: has to be 0 or more"),
        ({"keep_best": "perhaps"}, "keep_best: has to be true or false; the recipe gives 'perhaps'"),
        ({"adam_betas": [0.9]}, "adam_betas: has to be of 2 entries or more; the recipe gives [0.9]"),
        ({"schedule": "linaer"}, "has to be 'linear', 'cosine' or 'constant'; the recipe gives 'linaer'"),
        ({"schedule": "linaer"}, "fix: did you mean 'linear'?"),
        ({"report_to": "wandb"}, "report_to: has to be a list; the recipe gives 'wandb'"),
    ],
)
def test_told_in_plain_words(setting, told):
    tune = {"method": "lora", "data": "glue/rte", **setting}
    recipe = {"name": "x", "model": "m", "stages": [{"tune": tune}]}
    with pytest.raises(RecipeError) as caught:
        check_recipe(YamlText("recipe.yaml", recipe))
    assert told in str(caught.value)
    assert "Input should" not in str(caught.value)
