"""Stand inside a job: shell, exec, resume, and its files."""
