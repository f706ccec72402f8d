"""From a recipe to a plan: every choice checked, and every problem reported, before a tensor is made."""
