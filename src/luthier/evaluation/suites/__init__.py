"""The evaluation suites that every kind of model can be judged by."""
