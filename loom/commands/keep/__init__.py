"""Keep what runs need and leave: caches, images, trust, snapshots, old runs."""
