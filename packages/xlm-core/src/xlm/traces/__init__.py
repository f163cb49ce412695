"""Recorded generation as a document, a page, pictures and a replay in the terminal."""
