"""`xlm train_tokenizer FILE … out=FOLDER`: trains a tokenizer on texts and writes it to a folder."""

from __future__ import annotations

from collections.abc import Sequence

from xlm.errors import ConfigError
from xlm.schemas import TrainTokenizer


def run_train_tokenizer(words: Sequence[str], options: TrainTokenizer) -> int:
    """Train, write, and print the size; always 0.

    Raises:
        ConfigError: no texts or no folder are named, or the folder is not empty; DataError: the texts cannot be read.
    """
    names = [*options.files, *words]
    if not names:
        raise ConfigError("Which texts? xlm train_tokenizer FILE … out=FOLDER.", key="files")
    if not options.out:
        raise ConfigError("Where to? xlm train_tokenizer FILE … out=FOLDER.", key="out")
    from xlm.data.locator import locate
    from xlm.data.trained_tokenizer import texts_of_rows, train_tokenizer
    from xlm.training.weights import check_new
    from xlm.utils.files import output_folder

    folder = check_new(output_folder(options.out, "out"))
    source = locate(names[0] if len(names) == 1 else names)
    tokenizer = train_tokenizer(texts_of_rows(source.rows(None), options.columns), options.kind, options.vocab_size)
    tokenizer.save_pretrained(str(folder))
    print(f"{options.kind}, {len(tokenizer):,} tokens, written to {folder}. Use it with tokenizer={folder}.")
    return 0
