"""The contract of a task, and the tasks that there are, one file each."""
