"""Models trained here inside lm-evaluation-harness: scoring and writing as it asks for them."""
