"""What absorbing-state (masked) models share: batches, the NELBO, unmasking, and base classes of a new family."""
