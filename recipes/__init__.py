"""Recipes: Python functions that return the last Step of a pipeline (or a training configuration)."""
