"""What runs left in their folders, read back: lists, comparisons and pages, without torch and without a server."""
