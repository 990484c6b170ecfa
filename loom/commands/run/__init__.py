"""Run a workflow, once, several times or at each change, with its child pipelines."""
