"""A package of somebody else: a stage with its own kind of artefact, its predictor, a task, and a tuning method."""
