"""Take some real steps of a recipe, measure their time and memory, give advice, and estimate the whole recipe.

`examination` runs everything: `steps`, `loading`, `memory` and `peaks` measure, `advice` proposes changes, `outlook`
estimates the recipe and its arms, and `page` prints the result.
"""
