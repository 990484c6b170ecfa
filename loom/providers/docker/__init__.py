"""The Docker provider: one container per job, told over its input, read from its log stream."""
