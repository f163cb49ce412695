"""The options of every job: names, types, choices, defaults; the configuration is checked and `--help` printed by them.

A field's annotation says what the option may be, null only where it says None; its default is what the job uses.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, Lt, Predicate

from xlm.utils.annotations import LARGEST, Count, CountOrZero, NonNegative, Probability, Seed, Share, Text, option

Texts = Annotated[Text | list[Text], "a text or a list of texts"]
# Words of standalone commands: names may also be separated by commas alone, prompts hold commas.
Names = Annotated[tuple[str, ...], "names, [a,b]"]
Prompts = Annotated[tuple[str, ...], "a text or a list of texts"]
Units = Literal["weeks", "days", "hours", "minutes", "seconds"]
Time = Annotated[str, Predicate(re.compile(r"\d\d:\d\d:\d\d:\d\d").fullmatch)] | dict[Units, NonNegative]
Interval = Annotated[Count | Share | Time, "batches, a share of an epoch above 0, or a time such as 00:01:00:00"]
Batches = Annotated[CountOrZero | Probability, "a number of batches, or a share from 0 to 1"]
Tokens = Annotated[Annotated[int | float, Ge(1), Lt(math.inf)], "a number of tokens, at least 1, such as 1e9"]
Requests = Annotated[Count | Share, "a number of requests, or a share of them"]
Tracing = Annotated[bool | dict[str, Any] | None, "true, false, null or some of num_samples, gif, png"]
ShardSize = Annotated[str | int, "bytes, or a number with KB, MB, GB or TB"]


class Options:
    """Options that a configuration holds in one section; "" is its top."""

    section: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class Root(Options):
    """Options at the top of a configuration:"""

    job_name: Text = option(None, "the run's folder below paths.log_dir; the same name goes on with that run")
    seed: Seed = option(1234, "of the weights, the order of the data and every draw")
    compile: bool = option(False, "compile the loss with torch.compile")
    model_name: Text | None = option(None, "how the model's family is called")
    per_device_batch_size: Count = option(64, "examples of one forward pass on one device")
    per_device_val_batch_size: Count = option(64, "the same for validation, test and generation")
    global_batch_size: Count | None = option(None, "examples of an optimizer step, reached by accumulation")
    max_tokens: Tokens | None = option(None, "length of the run in tokens, in place of trainer.max_steps")
    block_size: Count | None = option(None, "tokens of an answer, or of a whole sequence")
    input_block_size: Count | None = option(None, "tokens of a prompt")
    prompt_mode: Literal["continue", "answer"] | None = option(None, "what prompts are: beginnings, or questions")
    num_dataloader_workers: CountOrZero = option(0, "processes that collate batches; 0: in the training process")
    num_dataset_workers: CountOrZero | None = option(None, "processes that prepare data")
    dataloader_prefetch_factor: Count | None = option(None, "batches that each worker keeps ready")
    dataloader_persistent_workers: bool = option(False, "keep the workers from epoch to epoch")
    dataloader_pin_memory: bool = option(False, "collate into memory from which a GPU copies faster")
    monitored_metric: Text = option("val/lm/accumulated_loss", "the metric that decides which checkpoint is the best")
    monitored_mode: Literal["min", "max"] = option("min", "whether the lowest or the highest value is the best")
    test_after_training: bool = option(True, "score the test split at the end")
    test_weights: Literal["best", "last"] = option("best", "with which weights")
    resume_from_checkpoint: bool = option(True, "go on from the run's last checkpoint")
    resume_checkpoint_path: Text | None = option(None, "go on from this checkpoint instead")
    checkpointing_dir: Text = option(None, "where checkpoints are kept")
    skip_init_weights: bool = option(False, "leave the weights as they are made; for published models")
    ema_decay: Annotated[float, Ge(0), Lt(1)] | None = option(None, "average the weights: 0.999, 0.9999")
    trace: Tracing = option(False, "record how the first rows are written")
    trace_view: Text | None = option(None, "dotted name of a function that draws a prompt")


@dataclass(frozen=True, kw_only=True)
class Trace(Options):
    """Instead of trace=true, trace={…} with some of:"""

    section: ClassVar[str] = "trace"

    num_samples: Count = option(8, "rows that are recorded")
    gif: bool = option(False, "an animation too")
    png: bool = option(False, "a strip of moments too")


@dataclass(frozen=True, kw_only=True)
class GlobalFlags(Options):
    """Switches for debugging:"""

    section: ClassVar[str] = "global_flags"

    DEBUG: bool = option(False, "a run that keeps no checkpoints")
    DEBUG_OVERFIT: bool = option(False, "train on one batch")
    DEBUG_PRINT_PREDS: bool = option(False, "print every prediction")
    DEBUG_PROFILE: bool = option(False, "for models that profile themselves")
    DEBUG_VIZ_LOGITS: bool = option(False, "for models that show their logits")


@dataclass(frozen=True, kw_only=True)
class TrainerSection(Options):
    """What is checked of Lightning's Trainer, whose other options are taken too:"""

    section: ClassVar[str] = "trainer"

    max_steps: Annotated[int, Ge(-1), Le(LARGEST)] = option(1000, "optimizer steps; -1: no end")
    max_epochs: Annotated[int, Ge(-1), Le(LARGEST)] | None = option(-1, "passes over the data; -1: no end")
    num_nodes: Count = option(1, "machines")
    accumulate_grad_batches: Count = option(1, "batches of an optimizer step; follows from global_batch_size")
    val_check_interval: Interval | None = option(250, "when to validate")
    check_val_every_n_epoch: Count | None = option(None, "validate after so many epochs")
    log_every_n_steps: CountOrZero | None = option(10, "steps between lines of the log")
    num_sanity_val_steps: Annotated[int, Ge(-1), Le(LARGEST)] | None = option(0, "batches of a first validation")
    gradient_clip_val: NonNegative | None = option(1.0, "largest norm of the gradients")
    limit_train_batches: Batches | None = option(1.0, "batches of an epoch, or a share of them")
    limit_val_batches: Batches | None = option(1.0, "the same of a validation")
    limit_test_batches: Batches | None = option(1.0, "the same of a test")
    enable_model_summary: bool | None = option(False, "Lightning's table of the model's parts")


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Options):
    """Options of every job that loads a model."""

    checkpoint_path: Text | None = option(None, "a run, a checkpoint, an exported folder or an id of the hub")
    ckpt_path: Text | None = option(None, "the same, as it was called before")
    revision: Text | None = option(None, "branch, tag or commit on the hub")
    apply_ema: bool = option(True, "averaged weights where there are some")
    trust_remote_code: bool = option(False, "let a configuration from the hub call any function")


@dataclass(frozen=True, kw_only=True)
class ScorerOptions:
    """Options of jobs that judge texts which a model writes from nothing."""

    judge: Text | None = option(None, "a causal language model whose perplexity of the texts is told")
    judge_window: Annotated[int, Ge(2), Le(LARGEST)] | None = option(None, "tokens that the judge sees at once")
    judge_protocol: Literal["xlm", "mdlm"] = option("xlm", "which tokens the judge scores")
    train_examples: CountOrZero | None = option(None, "training examples that texts are compared with")


@dataclass(frozen=True, kw_only=True)
class Eval(Checkpoint, ScorerOptions):
    """Options, as key=value:"""

    section: ClassVar[str] = "eval"

    split: Literal["val", "test"] = option("test", "what is scored")
    num_samples: CountOrZero | None = option(None, "draws from a bound for each example; 0: no likelihood")


@dataclass(frozen=True, kw_only=True)
class Generation(Checkpoint):
    """Options, as key=value:"""

    section: ClassVar[str] = "generation"

    prompts: Texts | None = option(None, "texts to answer, to go on with or to fill; - reads standard input")
    prompt_file: Text | None = option(None, "a prompt a line, or JSON lines; - is standard input")
    mode: Literal["auto", "answer", "continue", "infill"] | None = option(None, "what prompts are")
    num_samples: Count | None = option(None, "texts for each prompt, or from nothing")
    num_examples: Count | None = option(None, "prompts taken from the data; 8 where nothing is said")
    split: Literal["predict", "test", "val"] | None = option(None, "of the data that prompts are taken from")
    batch_size: Count | None = option(None, "rows at once; per_device_val_batch_size where nothing is said")
    output: Text | None = option(None, "a file of JSON lines, by default in the run's folder; - is standard output")
    output_path: Text | None = option(None, "the same, as it was called before")
    interactive: bool = option(False, "ask for a prompt, write, and ask again")


@dataclass(frozen=True, kw_only=True)
class Sweep(Checkpoint, ScorerOptions):
    """Options, as key=value:"""

    section: ClassVar[str] = "sweep"

    split: Literal["val", "test"] = option("test", "where prompts are taken from")
    num_examples: Annotated[int, Ge(2), Le(LARGEST)] | None = option(None, "prompts; 500 where nothing is said")
    metric: Text | None = option(None, "the metric that is the quality; the first one where nothing is said")
    output_path: Text | None = option(None, "a folder, by default in the run's")


@dataclass(frozen=True, kw_only=True)
class Extract(Checkpoint):
    """Options, as key=value:"""

    section: ClassVar[str] = "extract"

    output_dir: Text | None = option(None, "a new folder, by default in the run's")
    format: Literal["xlm", "transformers"] = option("xlm", "who is to load it")
    # Larger files are awkward to upload; the hub's own clients split there too.
    max_shard_size: ShardSize | None = option("5GB", "of a file of weights; null: one file")


@dataclass(frozen=True, kw_only=True)
class Hub(Checkpoint):
    """Options, as key=value:"""

    section: ClassVar[str] = "hub"

    repo_id: Text | None = option(None, "owner/name; needed")
    commit_message: Text | None = option(None, "of the upload")
    private: bool | None = option(None, "whether a new repository is private; null: as the owner's others")
    max_shard_size: ShardSize | None = option("5GB", "of a file of weights; null: one file")


@dataclass(frozen=True, kw_only=True)
class Plan(Options):
    """Options, as key=value:"""

    section: ClassVar[str] = "plan"

    output_path: Text = option("plan.json", "a file")
    num_steps: Count = option(5, "steps that are measured")
    num_warmup_steps: Count = option(3, "steps before that")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Options, as key=value:"""

    json: bool = option(False, "as JSON instead of a table")
    sort: Literal["age", "name", "model", "data", "step", "match", "loss", "state"] = option("age", "the order")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Options, as key=value:"""

    runs: Names = option((), "the runs, [a,b]")
    output: Text = option("", "the page, by default in reports/")
    title: Text = option("", "its title")
    split: Literal["test", "val"] | None = option(None, "whose figures are compared")


@dataclass(frozen=True, kw_only=True)
class TextQuality:
    """Options, as key=value:"""

    samples: Names = option((), "files of texts, [a,b]")
    judge: Text = option("", "a causal language model whose perplexity of the texts is told")
    train: Text = option("", "training data that may have been copied; none: those of the writer neither")
    reference: Text = option("", "texts to compare with")
    tokenizer: Text = option("", "whose tokens are counted; words")
    key: Text = option("", "the column of the texts")
    output: Text = option("", "the record, by default beside the first file")
    device: Text = option("auto", "of the judge")
    batch_size: Count = option(32, "texts that the judge reads at once")
    window: Annotated[int, Ge(2), Le(LARGEST)] = option(1024, "tokens that the judge sees at once")
    train_examples: Count | None = option(None, "training examples that texts are compared with")
    num_texts: Count | None = option(None, "of each file the first texts only")
    mauve: bool = option(False, "MAUVE against the reference")
    protocol: Literal["xlm", "mdlm"] = option("xlm", "which tokens the judge scores")


@dataclass(frozen=True, kw_only=True)
class LMEval:
    """Options, as key=value:"""

    checkpoint: Text = option("", "a run, a checkpoint, an exported folder or an id of the hub")
    tasks: Names = option((), "tasks of lm-eval, [a,b]")
    include_path: Text = option("", "a folder of tasks of your own")
    num_fewshot: CountOrZero | None = option(None, "examples before each request; the task's own number")
    limit: Requests | None = option(None, "requests of each task, or a share of them")
    batch_size: Count = option(64, "requests at once")
    device: Text = option("cpu", "where the model runs")
    num_samples: Count = option(8, "draws from a bound for each request")
    seed: Seed = option(0, "of the draws")
    max_gen_toks: Count = option(256, "tokens of an answer")
    precision: Literal["fp32", "bf16"] = option("fp32", "of the network's arithmetic")
    score_end: bool = option(False, "score the end of a continuation too")
    apply_ema: bool = option(True, "averaged weights where there are some")
    revision: Text = option("", "branch, tag or commit on the hub")
    trust_remote_code: bool = option(False, "let a configuration from the hub call any function")
    log_samples: bool = option(False, "keep every request in the record")
    use_cache: Text = option("", "a file in which lm-eval keeps answers")
    bootstrap_iters: CountOrZero = option(1000, "resamples of a standard error")
    output: Text = option("", "the record, by default lm_eval.json in the run's folder")


@dataclass(frozen=True)
class TraceRuns:
    """Options, as key=value:"""

    runs: Names = option((), "runs, checkpoints, exported folders, ids of the hub, or trace.json files")
    prompts: Prompts | None = option(None, "texts to answer, to go on with or to fill; - reads standard input")
    prompt_file: Text | None = option(None, "a prompt a line, or JSON lines; - is standard input")
    num_prompts: Count = option(4, "of the first run's data, where no prompts are given")
    num_samples: Count = option(1, "of each prompt and run")
    mode: Literal["auto", "answer", "continue", "infill"] = option("auto", "what prompts are")
    split: Literal["test", "val"] = option("test", "of the data that prompts are taken from")
    seed: Seed = option(0, "from which all runs draw")
    device: Text = option("cpu", "where models run")
    apply_ema: bool = option(True, "averaged weights where there are some")
    revision: Text | None = option(None, "branch, tag or commit on the hub")
    trust_remote_code: bool = option(False, "let a configuration from the hub call any function")
    view: Text | None = option(None, "dotted name of a function that draws a prompt; the first run's trace_view")
    title: Text | None = option(None, "of the page")
    out: Text | None = option(None, "the page, by default trace.html; JSON, GIF and PNG stand beside it")
    gif: bool = option(False, "an animation too")
    png: bool = option(False, "a strip of moments too")
    replay: bool = option(False, "a replay in the terminal")


@dataclass(frozen=True, kw_only=True)
class Check:
    """Options, as key=value:"""

    model_name: Text = option("", "the model")
    property: Names = option((), "the properties to check, [a,b]; all by default")
    experiment: Text | None = option(None, "the experiment to check; one on star graphs by default")


@dataclass(frozen=True, kw_only=True)
class Models:
    """It has no options."""


# Whose options are in a section of the configuration; a sweep's section holds options of the sampler too.
SECTIONS_OF_JOBS: dict[str, type[Options]] = {
    "eval": Eval, "generate": Generation, "sweep_sampler": Sweep, "extract_checkpoint": Extract, "push_to_hub": Hub,
    "plan": Plan,
}  # fmt: skip
# Sections of the jobs that load a trained model, and the names under which they take it.
CHECKPOINT_SECTIONS = tuple(schema.section for schema in SECTIONS_OF_JOBS.values() if issubclass(schema, Checkpoint))
PATH_KEYS = ("checkpoint_path", "ckpt_path")
