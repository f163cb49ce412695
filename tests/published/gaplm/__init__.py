"""A model of gaps: texts of a fixed length with masked tokens, written for core's data of texts."""
