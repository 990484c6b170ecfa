"""Images without an engine: references and Dockerfiles."""
