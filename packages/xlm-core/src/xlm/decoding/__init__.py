"""What samplers of all families use: random numbers by address, traces, common options, blanks in a text."""
