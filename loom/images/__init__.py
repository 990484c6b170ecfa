"""Images without an engine: references, the lock file, Dockerfiles."""
