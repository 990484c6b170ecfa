"""Stand inside a job: shell, exec, and its files."""
