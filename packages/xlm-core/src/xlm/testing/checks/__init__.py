"""What the properties check, by subject; the table names each function."""
