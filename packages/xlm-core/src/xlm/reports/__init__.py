"""The output files of runs, read back: lists, comparisons and pages, without torch and without a server."""
