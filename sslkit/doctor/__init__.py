"""Some real steps of a recipe: where their time and memory go, and what the whole of it would take."""
