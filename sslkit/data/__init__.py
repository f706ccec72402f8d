"""Turn images into batches: epochs, views, the loader and the cache."""
