"""From a recipe to a base model, and from a base model to a specialised one (report, sections 2.4 and 4.1)."""
