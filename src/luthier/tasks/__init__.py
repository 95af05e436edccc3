"""The contract of a task: which head a schema of data needs."""
