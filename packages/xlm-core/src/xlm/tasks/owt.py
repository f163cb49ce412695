"""OpenWebText (`datamodule=owt`, `owt_packed`): texts as they are, one document per row."""

from xlm.data.functional import pack_sequences
from xlm.data.functional import text_to_input_ids as preprocess

__all__ = ["pack_sequences", "preprocess"]
