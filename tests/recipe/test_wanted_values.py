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
        ({"epochs": float("inf")}, "epochs: has to be a finite number; the recipe gives inf"),
        ({"learning_rate": float("nan")}, "learning_rate: has to be a finite number; the recipe gives nan"),
        ({"max_minutes": float("inf")}, "max_minutes: has to be a finite number; the recipe gives inf"),
        ({"evaluate_every": True}, "has to be a whole number, or 'epoch' or 'never'; the recipe gives 'true'"),
        ({"patience": True}, "patience: has to be a whole number; the recipe gives 'true'"),
        ({"epochs": False}, "epochs: has to be a number; the recipe gives 'false'"),
        ({"evaluate_every": "epochs"}, "1 error in the recipe\nrecipe.yaml: stages.0.tune.evaluate_every: has to be a"),
        ({"evaluate_every": "epochs"}, "a whole number, or 'epoch' or 'never'; the recipe gives 'epochs'\n  fix: did"),
    ],
)
def test_told_in_plain_words(setting, told):
    tune = {"method": "lora", "data": "glue/rte", **setting}
    recipe = {"name": "x", "model": "m", "stages": [{"tune": tune}]}
    with pytest.raises(RecipeError) as caught:
        check_recipe(YamlText("recipe.yaml", recipe))
    assert told in str(caught.value)
    assert "Input should" not in str(caught.value)
