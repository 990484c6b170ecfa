"""The frozen plan of a run, and its derivation from a workflow."""
