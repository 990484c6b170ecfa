"""The record of a run: events, documents derived from them, and storage."""
