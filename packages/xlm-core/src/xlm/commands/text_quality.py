"""`xlm text_quality`: measures the quality of texts in files, and what they copy from the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm.errors import ConfigError
from xlm.schemas import TextQuality

if TYPE_CHECKING:
    from xlm.evaluation.text_quality.measure import Quality
    from xlm.evaluation.text_quality.texts import Unit, WrittenText
    from xlm.inference.texts import DataOfModel

JOB = "text_quality"
NONE = "none"
REFERENCE = "reference"


@dataclass(frozen=True)
class Request:
    """Files of texts to measure, and options; see docs/guide/text-quality.md."""

    samples: tuple[str, ...]
    options: TextQuality


def read_request(words: Sequence[str], options: TextQuality) -> Request:
    """Read the request from a command line; ConfigError for conflicting options."""
    samples = tuple(dict.fromkeys([*options.samples, *words]))
    if not samples:
        raise ConfigError(f"Which texts? xlm {JOB} samples=runs/mine/generations.jsonl, or several: samples=[a,b].")
    if options.mauve and not (options.judge and options.reference):
        raise ConfigError("mauve=true compares features of the judge. It needs judge=… and reference=…", key="mauve")
    return Request(samples, options)


def run_text_quality(words: Sequence[str], options: TextQuality) -> int:
    """Measure texts, print the table, and write it with the record; returns 0, since errors are raised as XLMError."""
    from xlm.evaluation.text_quality.measure import as_markdown, print_quality
    from xlm.inference.session import display_path, quiet_libraries
    from xlm.training.progress import write_results
    from xlm.utils.consoles import plain_console
    from xlm.utils.files import output_file, replace_text

    request = read_request(words, options)
    quiet_libraries()
    console = plain_console()
    path = output_file(request.options.output or _beside(request.samples[0]), "output", read=request.samples)
    if path.suffix == ".md":
        raise ConfigError(f"output={path} is the path of the table. Give the record another name.", key="output")
    output_file(path.with_suffix(".md"), "output", read=request.samples)
    found, record, caption = judged(request)
    title = "Text quality"
    print_quality(found, title, caption, console)
    write_results(path, {**record, "results": {name: quality.record() for name, quality in found.items()}})
    replace_text(path.with_suffix(".md"), as_markdown(found, title, caption))
    console.print(
        f"Written to {display_path(path)}, the table to {display_path(path.with_suffix('.md'))}.", soft_wrap=True
    )
    return 0


def judged(request: Request) -> tuple[dict[str, Quality], dict[str, Any], str]:
    """The quality of each file's texts (and of the reference), the record of what it depends on, and a caption.

    Raises:
        DataError: there are no texts; ConfigError: there is no such judge; CheckpointError: there is no such model.
    """
    from xlm.evaluation.text_quality.diversity import Overlap, add_all
    from xlm.evaluation.text_quality.measure import measure
    from xlm.evaluation.text_quality.scorer import check_mauve, load_scorer, mauve
    from xlm.inference.session import fewer_than_asked
    from xlm.inference.texts import TRAIN_EXAMPLES, caption, examples, read_texts, texts_to_compare, training_of
    from xlm.inference.trained import usable_device
    from xlm.utils.run_record import run_record

    options = request.options
    if options.mauve:
        check_mauve()
    texts, writers = {}, []
    for name in request.samples:
        texts[name], writer = read_texts(name, options.key or None)
        writers.append(writer)
    # Load the judge first: data may take minutes to prepare.
    device = usable_device(options.device)
    judge = load_scorer(options.judge, device, options.window, options.protocol) if options.judge else None
    train = _train(options.train, writers)
    data = _data_of({options.reference: "reference", train: "train"}, options.trust)
    unit = _unit(options.tokenizer, data)
    if options.reference:
        most = max(map(len, texts.values()))
        texts[REFERENCE] = texts_to_compare(options.reference, data.get(options.reference), "test", most)
    there = {name: len(found) for name, found in texts.items()}
    texts = {name: _cut(found, unit)[: options.num_texts] for name, found in texts.items()}
    rows = {name: unit.encode([text.text for text in found]) for name, found in texts.items()}
    overlaps = {name: Overlap(found) for name, found in rows.items()} if train else {}
    if train:
        most = options.train_examples or TRAIN_EXAMPLES
        add_all(list(overlaps.values()), examples(train, unit, most, data.get(train), "train"))
    found = {
        name: measure(
            [text.text for text in texts[name]], rows[name], ended=[text.ended for text in texts[name]], judge=judge,
            overlap=overlaps.get(name), batch_size=options.batch_size,
        )
        for name in texts
    }  # fmt: skip
    if options.mauve and judge is not None:
        human = [text.text for text in texts[REFERENCE]]
        for name in request.samples:
            found[name].numbers["mauve"] = mauve([text.text for text in texts[name]], human, judge)
    training = None
    if train:
        seen = next(iter(overlaps.values()))
        training = {"source": train, **training_of(seen, options.train_examples)}
    record = {
        **run_record("", 0, device.type, Path.cwd()),
        "job_type": JOB,
        "judge": judge.describe() if judge else None,
        "unit": unit.name,
        "training": training,
        "samples": list(request.samples),
    }
    said = [fewer_than_asked("num_texts", options.num_texts, n, f"texts in {name}") for name, n in there.items()]
    return found, record, " ".join([caption(record), *filter(None, said)])


def _train(said: str, writers: Sequence[str | None]) -> str:
    """The name of the training data: as given, else the model that wrote the texts, if it is here; empty for none."""
    if said:
        return "" if said == NONE else said
    return next((writer for writer in writers if writer and Path(writer).exists()), "")


def _data_of(names: Mapping[str, str], trust: bool) -> dict[str, DataOfModel]:
    """The data of all names that are models and not files of texts; `names` maps each name to its option."""
    from xlm.inference.texts import data_of_model, is_file_of_texts

    models = {name: option for name, option in names.items() if name and not is_file_of_texts(name)}
    return {name: data_of_model(name, option, trust) for name, option in models.items()}


def _unit(tokenizer: str, data: dict[str, DataOfModel]) -> Unit:
    """Tokens of the named tokenizer, or of the model that the data comes from; else words."""
    from xlm.evaluation.text_quality.texts import TokensOf, Words

    if tokenizer == "words" or not (tokenizer or data):
        return Words()
    if tokenizer:
        from xlm.data.pretrained_tokenizers import load_auto_tokenizer

        try:
            return TokensOf(load_auto_tokenizer(tokenizer), tokenizer)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"tokenizer={tokenizer} is not 'words', and no tokenizer was found there: {reason}",
                key="tokenizer",
            ) from error
    name, first = next(iter(data.items()))
    return TokensOf(first.tokenizer, name)


def _cut(texts: Sequence[WrittenText], unit: Unit) -> list[WrittenText]:
    """Texts up to the first EOS token, if there is a tokenizer."""
    from dataclasses import replace

    from xlm.evaluation.text_quality.texts import TokensOf, cut_text

    if not isinstance(unit, TokensOf):
        return list(texts)
    return [replace(text, text=cut_text(text.text, unit.tokenizer)) for text in texts]


def _beside(samples: str) -> Path:
    """The path of the record, beside the first file."""
    from xlm.inference.sources import local_path

    path = local_path(samples)
    return path / "text_quality.json" if path.is_dir() else path.with_suffix(".quality.json")
