"""Judging what a model wrote, beyond what a metric sees in one batch."""
