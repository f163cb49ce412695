"""What `tools/bench.py` measures: one module for each area, and the clock that they share."""
