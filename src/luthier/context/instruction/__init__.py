"""Long instruction tuning without human data: a model asks and answers about parts of the user's own long documents."""
