"""Images of a cluster's registry."""
