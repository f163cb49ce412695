"""The command `xlm`."""
