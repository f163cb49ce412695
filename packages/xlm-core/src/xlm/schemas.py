"""The options of every job: names, types, choices, defaults. They check the configuration and make up `--help`.

A field's annotation says which values are allowed (null only with None); its default is the value that the job uses.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, Predicate

from xlm.utils.annotations import LARGEST, Count, CountOrZero, NonNegative, Probability, Seed, Share, Text, option

Texts = Annotated[Text | list[Text], "a text or a list of texts"]
# Words of standalone commands: names may also be separated by commas alone, prompts may contain commas.
Names = Annotated[tuple[str, ...], "names, [a,b]"]
Prompts = Annotated[tuple[str, ...], "a text or a list of texts"]
Units = Literal["weeks", "days", "hours", "minutes", "seconds"]
Time = Annotated[str, Predicate(re.compile(r"\d\d:\d\d:\d\d:\d\d").fullmatch)] | dict[Units, NonNegative]
Interval = Annotated[Count | Share | Time, "batches, a share of an epoch above 0, or a time such as 00:01:00:00"]
Batches = Annotated[CountOrZero | Probability, "a number of batches, or a share from 0 to 1"]
Tokens = Annotated[Annotated[int | float, Ge(1), Lt(math.inf)], "a number of tokens, at least 1, such as 1e9"]
Requests = Annotated[Count | Share, "a number of requests, or a share of them"]
Tracing = Annotated[bool | dict[str, Any] | None, "true, false, null or some of num_samples, gif, png"]
Weights = Annotated[Literal["size"] | dict[str, NonNegative] | None, "null, size, or weights by part, each at least 0"]
Schedule = Annotated[list[dict[str, Any]] | None, "null, or a list of {from_step: STEPS, weights: {PART: WEIGHT}}"]
Seconds = Annotated[Annotated[int | float, Gt(0), Lt(math.inf)], "a number of seconds above 0"]
ShardSize = Annotated[str | int, "bytes, or a number with KB, MB, GB or TB"]


class Options:
    """Options in one section of a configuration; "" is its top level."""

    section: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class Root(Options):
    """Options at the top of a configuration:"""

    job_name: Text = option(None, "the run's folder below paths.log_dir; the same name continues that run")
    seed: Seed = option(1234, "random seed of the weights, the data order and all sampling")
    compile: bool | Literal["blocks"] = option(False, "compile the loss, or each block of the network on its own")
    activation_checkpointing: bool = option(False, "compute activations again in the backward pass, to save memory")
    model_name: Text | None = option(None, "name of the model family")
    per_device_batch_size: Count = option(64, "examples per forward pass on one device")
    per_device_val_batch_size: Count = option(64, "the same for validation, test and generation")
    global_batch_size: Count | None = option(None, "examples per optimizer step, reached by accumulation")
    batching: Literal["longest", "buckets", "packed"] | None = option(None, "how rows become batches; longest if null")
    max_tokens_per_batch: Count | None = option(None, "most tokens of a batch on one device; needs batching")
    max_tokens: Tokens | None = option(None, "length of training in tokens, instead of trainer.max_steps")
    block_size: Count | None = option(None, "length of an answer or of a whole sequence, in tokens")
    input_block_size: Count | None = option(None, "length of a prompt, in tokens")
    prompt_mode: Literal["continue", "answer"] | None = option(None, "what prompts are: starts of texts, or questions")
    shift_blocks: bool = option(False, "blocks of split or packed documents begin at other tokens in every epoch")
    streaming: bool = option(False, "read the training data while training, without preparing them first")
    shuffle_buffer: Count = option(16_384, "examples of a stream that are kept in memory for shuffling")
    num_dataloader_workers: CountOrZero = option(0, "processes that collate batches; 0: the training process")
    num_dataset_workers: CountOrZero | None = option(None, "processes that prepare data")
    dataloader_prefetch_factor: Count | None = option(None, "batches that each worker keeps ready")
    dataloader_persistent_workers: bool = option(False, "keep the workers alive between epochs")
    dataloader_pin_memory: bool = option(False, "collate into pinned memory, for faster copies to a GPU")
    monitored_metric: Text = option("val/lm/accumulated_loss", "metric that decides which checkpoint is the best")
    monitored_mode: Literal["min", "max"] = option("min", "whether the lowest or the highest value is the best")
    test_after_training: bool = option(True, "evaluate the test split at the end")
    test_weights: Literal["best", "last"] = option("best", "weights to test")
    init_from: Text | None = option(None, "start with the weights of this run, checkpoint, folder or hub id")
    init_tokenizer: Literal["source", "own"] | None = option(None, "tokenizer of a run with init_from")
    resume_from_checkpoint: bool = option(True, "continue from the run's last checkpoint")
    resume_checkpoint_path: Text | None = option(None, "continue from this checkpoint instead")
    checkpointing_dir: Text = option(None, "folder of the checkpoints")
    async_checkpoints: bool = option(False, "write checkpoints in a thread while training continues")
    skip_init_weights: bool = option(False, "has no effect; accepted for published commands")
    ema_decay: Annotated[float, Ge(0), Lt(1)] | None = option(None, "average the weights with this decay: 0.999")
    rank_timeout: Seconds = option(180, "seconds after which a process that gives no sign of life is lost")
    step_timeout: Seconds = option(1500, "seconds without a batch in any process, after which the last one is stuck")
    trace: Tracing = option(False, "record how the first rows are generated")
    trace_view: Text | None = option(None, "dotted name of the function that draws a prompt")


@dataclass(frozen=True, kw_only=True)
class MixtureSection(Options):
    """Options of a mixture, data_files.train={NAME: SOURCE, …}:"""

    section: ClassVar[str] = "mixture"

    weights: Weights = option(None, "weight of each part, 1 by default; size: its number of examples")
    temperature: Annotated[float, Gt(0), Lt(math.inf)] = option(1.0, "a part's share is weight^(1/temperature)")
    schedule: Schedule = option(None, "list of {from_step: STEPS, weights: {NAME: WEIGHT}}")


@dataclass(frozen=True, kw_only=True)
class Trace(Options):
    """Options of trace={…}, which replaces trace=true:"""

    section: ClassVar[str] = "trace"

    num_samples: Count = option(8, "rows to record")
    gif: bool = option(False, "write an animation too")
    png: bool = option(False, "write a picture of several steps too")


@dataclass(frozen=True, kw_only=True)
class GlobalFlags(Options):
    """Flags for debugging:"""

    section: ClassVar[str] = "global_flags"

    DEBUG: bool = option(False, "keep no checkpoints")
    DEBUG_OVERFIT: bool = option(False, "train on one batch")
    DEBUG_PRINT_PREDS: bool = option(False, "print every prediction")
    DEBUG_PROFILE: bool = option(False, "for models that profile themselves")
    DEBUG_VIZ_LOGITS: bool = option(False, "for models that show their logits")


@dataclass(frozen=True, kw_only=True)
class TrainerSection(Options):
    """Options of Lightning's Trainer (its other options are accepted, but not checked):"""

    section: ClassVar[str] = "trainer"

    max_steps: Annotated[int, Ge(-1), Le(LARGEST)] = option(1000, "optimizer steps; -1: no limit")
    max_epochs: Annotated[int, Ge(-1), Le(LARGEST)] | None = option(-1, "passes over the data; -1: no limit")
    num_nodes: Count = option(1, "number of machines")
    accumulate_grad_batches: Count = option(1, "batches per optimizer step; follows from global_batch_size")
    val_check_interval: Interval | None = option(250, "when to validate")
    check_val_every_n_epoch: Count | None = option(None, "epochs between validations")
    log_every_n_steps: CountOrZero | None = option(10, "steps between log lines")
    num_sanity_val_steps: Annotated[int, Ge(-1), Le(LARGEST)] | None = option(0, "validation batches before training")
    gradient_clip_val: NonNegative | None = option(1.0, "maximum norm of the gradients")
    limit_train_batches: Batches | None = option(1.0, "batches per epoch")
    limit_val_batches: Batches | None = option(1.0, "batches per validation")
    limit_test_batches: Batches | None = option(1.0, "batches per test")
    enable_model_summary: bool | None = option(False, "print Lightning's table of the model's parts")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Options):
    """Options of every job that loads a model."""

    checkpoint_path: Text | None = option(None, "a run, a checkpoint, an exported folder or a hub id")
    ckpt_path: Text | None = option(None, "older name of checkpoint_path")
    revision: Text | None = option(None, "branch, tag or commit on the hub")
    apply_ema: bool = option(True, "use averaged weights if there are any")
    trust: bool = option(False, "allow the stored configuration to name any function")
    trust_remote_code: bool = option(False, "older name of trust")


@dataclass(frozen=True, kw_only=True)
class ScorerOptions:
    """Options of jobs that measure the quality of unconditional samples."""

    judge: Text | None = option(None, "causal language model that scores unconditional samples")
    judge_window: Annotated[int, Ge(2), Le(LARGEST)] | None = option(None, "context length of the judge, in tokens")
    judge_protocol: Literal["xlm", "mdlm"] = option("xlm", "which tokens the judge scores")
    train_examples: CountOrZero | None = option(None, "training examples to compare texts with")


@dataclass(frozen=True, kw_only=True)
class Eval(Checkpoint, ScorerOptions):
    """Options, as key=value:"""

    section: ClassVar[str] = "eval"

    split: Literal["val", "test"] = option("test", "split to evaluate")
    data: Text | None = option(None, "datamodule to evaluate on, such as wikitext; by default the run's own")
    data_file: Texts | None = option(None, "source that replaces that of eval.data, with the same columns")
    num_samples: CountOrZero | None = option(
        None, "draws of the bound per example, by default 2 to 64, 2,000 in all; 0: no likelihood"
    )


@dataclass(frozen=True, kw_only=True)
class Generation(Checkpoint):
    """Options, as key=value:"""

    section: ClassVar[str] = "generation"

    prompts: Texts | None = option(None, "texts to answer, to continue or to fill; - reads standard input")
    prompt_file: Text | None = option(None, "file with a prompt per line, or JSON lines; - reads standard input")
    mode: Literal["auto", "answer", "continue", "infill"] | None = option(None, "what to do with prompts")
    num_samples: Count | None = option(None, "texts per prompt, or unconditional samples")
    num_examples: Count | None = option(None, "number of prompts from the data; 8 by default")
    split: Literal["predict", "test", "val"] | None = option(None, "split that prompts are taken from")
    batch_size: Count | None = option(None, "rows at once; per_device_val_batch_size by default")
    output: Text | None = option(None, "file of JSON lines, by default in the run's folder; - is standard output")
    output_path: Text | None = option(None, "older name of output")
    interactive: bool = option(False, "ask for prompts in the terminal")


@dataclass(frozen=True, kw_only=True)
class Sweep(Checkpoint, ScorerOptions):
    """Options, as key=value:"""

    section: ClassVar[str] = "sweep"

    split: Literal["val", "test"] = option("test", "split that prompts are taken from")
    num_examples: Annotated[int, Ge(2), Le(LARGEST)] | None = option(None, "number of prompts; 500 by default")
    metric: Text | None = option(None, "metric of quality; the first one by default")
    output_path: Text | None = option(None, "output folder, by default in the run's folder")


@dataclass(frozen=True, kw_only=True)
class Extract(Checkpoint):
    """Options, as key=value:"""

    section: ClassVar[str] = "extract"

    output_dir: Text | None = option(None, "new folder, by default in the run's folder")
    format: Literal["xlm", "transformers"] = option("xlm", "library that can load it")
    # Larger files are awkward to upload; the hub's own clients split at the same size.
    max_shard_size: ShardSize | None = option("5GB", "maximum size of a weights file; null: one file")


@dataclass(frozen=True, kw_only=True)
class Hub(Checkpoint):
    """Options, as key=value:"""

    section: ClassVar[str] = "hub"

    repo_id: Text | None = option(None, "repository, owner/name; required")
    commit_message: Text | None = option(None, "commit message of the upload")
    private: bool | None = option(None, "make a new repository private; null: the owner's default")
    max_shard_size: ShardSize | None = option("5GB", "maximum size of a weights file; null: one file")


@dataclass(frozen=True, kw_only=True)
class Plan(Options):
    """Options, as key=value:"""

    section: ClassVar[str] = "plan"

    output_path: Text = option("plan.json", "file to write")
    num_steps: CountOrZero = option(5, "steps to measure; 0: build the network without memory, and take no steps")
    num_warmup_steps: Count = option(3, "steps before measuring")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Options, as key=value:"""

    json: bool = option(False, "print JSON instead of a table")
    sort: Text = option(
        "age", "age, date, name, model, data, step, match, loss, state or a metric; a minus (-date) reverses it"
    )


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Options, as key=value:"""

    yes: bool = option(False, "remove without asking; --yes is the same")


@dataclass(frozen=True, kw_only=True)
class Move:
    """This command has no options."""


@dataclass(frozen=True, kw_only=True)
class Experiments:
    """Options, as key=value:"""

    json: bool = option(False, "print JSON instead of a table")


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """Options, as key=value:"""

    run: Text = option("", "folder or name of the run to repeat")
    job_name: Text = option("", "name of the new run; by default the old name with _repeat")
    trust: bool = option(False, "allow the run's configuration to name any function")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Options, as key=value:"""

    runs: Names = option((), "runs to compare")
    output: Text = option("", "page to write, by default in reports/")
    title: Text = option("", "title of the page")
    split: Literal["test", "val"] | None = option(None, "split to compare")


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer:
    """Options, as key=value:"""

    files: Names = option((), "files, patterns, folders or hub names of texts")
    out: Text = option("", "folder to write the tokenizer to")
    kind: Literal["bpe", "unigram", "wordpiece", "word", "character", "byte"] = option(
        "bpe", "kind of tokens: subwords, words, characters or bytes"
    )
    vocab_size: Count = option(4096, "maximum number of tokens, special tokens included")
    columns: Names = option(("text",), "columns of the texts")


@dataclass(frozen=True, kw_only=True)
class TextQuality:
    """Options, as key=value:"""

    samples: Names = option((), "files of texts")
    judge: Text = option("", "causal language model that scores the texts")
    train: Text = option("", "training data to search for copied text; none: no search")
    reference: Text = option("", "texts to compare with")
    tokenizer: Text = option("", "tokenizer to count tokens with, or words")
    key: Text = option("", "column of the texts")
    output: Text = option("", "record to write, by default beside the first file")
    device: Text = option("auto", "device of the judge")
    batch_size: Count = option(32, "texts that the judge scores at once")
    window: Annotated[int, Ge(2), Le(LARGEST)] = option(1024, "context length of the judge, in tokens")
    train_examples: Count | None = option(None, "training examples to compare texts with")
    num_texts: Count | None = option(None, "number of texts per file, from its start")
    trust: bool = option(False, "allow the stored configuration of train and reference to name any function")
    mauve: bool = option(False, "compute MAUVE against the reference")
    protocol: Literal["xlm", "mdlm"] = option("xlm", "which tokens the judge scores")


@dataclass(frozen=True, kw_only=True)
class LMEval:
    """Options, as key=value:"""

    checkpoint: Text = option("", "a run, a checkpoint, an exported folder or a hub id")
    tasks: Names = option((), "lm-eval tasks to run")
    include_path: Text = option("", "folder of your own tasks")
    num_fewshot: CountOrZero | None = option(None, "examples per request; the task's number by default")
    limit: Requests | None = option(None, "requests per task")
    batch_size: Count = option(64, "requests at once")
    device: Text = option("cpu", "device of the model")
    num_samples: Count = option(8, "draws of the bound per request")
    seed: Seed = option(0, "random seed of the draws")
    max_gen_toks: Count = option(256, "maximum length of an answer, in tokens")
    precision: Literal["fp32", "bf16"] = option("fp32", "precision of the network")
    score_end: bool = option(False, "also score the end of a continuation")
    apply_ema: bool = option(True, "use averaged weights if there are any")
    revision: Text = option("", "branch, tag or commit on the hub")
    trust: bool = option(False, "allow the stored configuration to name any function")
    trust_remote_code: bool = option(False, "older name of trust")
    log_samples: bool = option(False, "keep every request in the record")
    use_cache: Text = option("", "file in which lm-eval caches answers")
    bootstrap_iters: CountOrZero = option(1000, "bootstrap resamples for a standard error")
    output: Text = option("", "record to write, by default lm_eval.json in the run's folder")


@dataclass(frozen=True)
class TraceRuns:
    """Options, as key=value:"""

    runs: Names = option((), "runs, checkpoints, exported folders, hub ids or trace.json files")
    prompts: Prompts | None = option(None, "texts to answer, to continue or to fill; - reads standard input")
    prompt_file: Text | None = option(None, "file with a prompt per line, or JSON lines; - reads standard input")
    num_prompts: Count = option(4, "number of prompts from the first run's data, if none are given")
    num_samples: Count = option(1, "samples per prompt and run")
    mode: Literal["auto", "answer", "continue", "infill"] = option("auto", "what to do with prompts")
    split: Literal["test", "val"] = option("test", "split that prompts are taken from")
    seed: Seed = option(0, "random seed of all runs")
    device: Text = option("cpu", "device of the models")
    apply_ema: bool = option(True, "use averaged weights if there are any")
    revision: Text | None = option(None, "branch, tag or commit on the hub")
    trust: bool = option(False, "allow the stored configuration to name any function")
    trust_remote_code: bool = option(False, "older name of trust")
    view: Text | None = option(None, "dotted name of the function that draws a prompt; by default the first run's")
    title: Text | None = option(None, "title of the page")
    out: Text | None = option(None, "page to write, by default trace.html; JSON, GIF and PNG go beside it")
    gif: bool = option(False, "write an animation too")
    png: bool = option(False, "write a picture of several steps too")
    replay: bool = option(False, "replay in the terminal")


@dataclass(frozen=True, kw_only=True)
class Check:
    """Options, as key=value:"""

    model_name: Text = option("", "name of the model")
    property: Names = option((), "check only these properties")
    experiment: Text | None = option(None, "experiment that sets data and sizes; small ones by default")


@dataclass(frozen=True, kw_only=True)
class Models:
    """This command has no options."""


# Jobs with their options in a section of the configuration; a sweep's section also has options of the sampler.
SECTIONS_OF_JOBS: dict[str, type[Options]] = {
    "eval": Eval, "generate": Generation, "sweep_sampler": Sweep, "extract_checkpoint": Extract, "push_to_hub": Hub,
    "plan": Plan,
}  # fmt: skip
# Sections of the jobs that load a trained model, and the keys that name it.
CHECKPOINT_SECTIONS = tuple(schema.section for schema in SECTIONS_OF_JOBS.values() if issubclass(schema, Checkpoint))
PATH_KEYS = ("checkpoint_path", "ckpt_path")
