"""General helpers; each module is imported by its name."""
