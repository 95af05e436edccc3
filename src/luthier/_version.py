"""The version, for the build and for records of runs."""

__version__ = "0.1.0"
