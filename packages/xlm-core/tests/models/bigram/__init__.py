"""The smallest model there is, for core's own tests: next token from this token alone."""
