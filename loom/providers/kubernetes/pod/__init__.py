"""The pod of a job: its specification, its start, its services."""
