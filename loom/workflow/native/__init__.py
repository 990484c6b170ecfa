"""loom's own language: `.loom/workflow.yml` and its includes, checked by models of what users write."""
