"""Real text: the King James Bible from a package, a small tokenizer trained on it, and gaps to fill."""

from xlm.tasks.text.infill import mask_words
from xlm.tasks.text.king_james import SPLITS, KingJames, Verse, read_verses

__all__ = ["SPLITS", "KingJames", "Verse", "mask_words", "read_verses"]
