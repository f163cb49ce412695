"""Models of xlm in lm-evaluation-harness: scoring and generation."""
