"""Training: recipes, the paper's phases, and the one loop that runs them."""

from rsnn.training.recipe import Recipe
from rsnn.training.recipe_files import list_recipes, load_recipe, recipe_from
from rsnn.training.run import train

__all__ = ["Recipe", "list_recipes", "load_recipe", "recipe_from", "train"]
