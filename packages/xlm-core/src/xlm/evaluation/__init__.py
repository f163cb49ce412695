"""Evaluation of generated texts and likelihoods, beyond the metrics of one batch."""
