"""MaskGIT (arXiv 2202.04200): what a further masked family takes."""
