"""The Docker provider: one container per job, with commands to its input and results from its output."""
