"""From images to batches: epochs, views, the loader and its caches."""
