"""Images in tar files in WebDataset's layout, indexed for random access."""
