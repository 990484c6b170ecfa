"""Keep what runs need and leave: caches, images, trust, old runs."""
