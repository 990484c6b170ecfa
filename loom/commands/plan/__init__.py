"""From a directory to a plan and the tools of its run: facts, sources of other servers, kept plans; and `loom check`."""
