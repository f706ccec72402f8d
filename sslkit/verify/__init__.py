"""Check what a run promises: resume, replay, and any number of ranks give the same numbers."""
