"""A prefix language model: it reads the prompt in both directions, and a head of its own says when to stop."""
