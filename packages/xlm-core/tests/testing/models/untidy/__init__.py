"""A second model, of which nothing but its name is needed."""
