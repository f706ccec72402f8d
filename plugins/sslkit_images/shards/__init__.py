"""Photos in tar files, as WebDataset has them, found by an index and read at random."""
