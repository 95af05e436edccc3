"""Fuzzing of every reader of files that users bring: `python -m tests.fuzzing --seconds 600`."""
