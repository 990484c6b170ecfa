"""The plan of a workflow in loom's own language."""
