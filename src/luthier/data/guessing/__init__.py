"""What a file of examples seems to hold: its format, its columns and its task. Nothing here imports torch."""

from luthier.data.guessing.guess import Guess, guess_data

__all__ = ["Guess", "guess_data"]
