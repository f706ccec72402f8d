"""Turn a recipe into a plan: every choice is checked, and every problem reported, before a tensor is allocated."""
