"""The workplace of the command line, for tests that look at a whole run."""

from tests.cli.conftest import tiny_model, workplace

__all__ = ["tiny_model", "workplace"]
