"""What happened: events, the documents derived from them, and the only owner of a run's files."""
