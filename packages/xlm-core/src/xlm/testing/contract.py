"""The contract of a model package: its properties, in the order in which they build on each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from xlm.utils.imports import get_function

if TYPE_CHECKING:
    from xlm.testing.model_under_test import ModelUnderTest

CHECKS = "xlm.testing.checks"


class Violation(AssertionError):  # noqa: N818 - named after what it reports
    """The model violates the property; the message says how."""


class Inapplicable(Exception):  # noqa: N818 - nothing went wrong
    """The property does not apply to this model, or cannot be tested here; the message says why."""


class TooManyCalls(Exception):  # noqa: N818 - it stops a loop
    """A predictor called the network more often than its limits allow."""


def require(condition: object, reason: str) -> None:
    """Raise Violation with this reason unless the condition holds."""
    if not condition:
        raise Violation(reason)


@dataclass(frozen=True)
class Property:
    """One property that a model must have.

    Args:
        name: short, with hyphens; also the id of its test.
        proves: what holds when the check passes, as a sentence.
        remedy: what to do when it fails.
        check: `<module>.<function>` below `xlm.testing.checks`; a string, so that the list loads without torch.
        needs: properties that must hold first. While one of them fails this one is not checked, so that one mistake
            is reported once.
        slow: the check takes seconds rather than milliseconds.
    """

    name: str
    proves: str
    remedy: str
    check: str
    needs: tuple[str, ...] = ()
    slow: bool = False

    def load(self) -> Callable[[ModelUnderTest], None]:
        """The function that checks the property: it raises Violation or Inapplicable, or returns."""
        return cast("Callable[[ModelUnderTest], None]", get_function(f"{CHECKS}.{self.check}"))


# What several properties need: batches, a finite loss, a predictor that works, a collator without global randomness.
_BATCHES = ("loaders",)
_LOSS = ("loss-finite",)
_PREDICTIONS = ("predicts", "ends")
_NO_GLOBAL_RANDOM = ("collator-no-global-random",)

PROPERTIES: tuple[Property, ...] = (
    Property(
        "discovered",
        "the model is found, and its package can be imported",
        "run `xlm models`, which lists every model and its problems",
        "package.discovered",
    ),
    Property(
        "composes",
        "every experiment of the model composes",
        "run `xlm train experiment=NAME --cfg job` and fix the file that the message names",
        "package.composes",
        ("discovered",),
    ),
    Property(
        "composes-overfit",
        "every experiment composes with debug=overfit",
        "run `xlm train experiment=NAME debug=overfit --cfg job`; an experiment must not depend on keys of debug",
        "package.composes_overfit",
        ("composes",),
    ),
    Property(
        "targets",
        "every dotted path in the configuration of its experiments can be imported",
        "correct the path; to see the full error, run the import that the message shows",
        "package.targets",
        ("composes",),
    ),
    Property(
        "wheel",
        "the wheel of the package contains its configs",
        "include them: with hatchling, list the package under tool.hatch.build.targets.wheel; with setuptools, set "
        'package_data={"NAME": ["configs/**/*.yaml"]}',
        "package.wheel",
        ("discovered",),
        slow=True,
    ),
    Property(
        "loaders",
        "every dataloader of every split yields a batch, and print_batch_fn prints it",
        "check that dataloader's collator and processors; a collator takes a list of examples and returns a dict",
        "interfaces.loaders",
        ("targets",),
    ),
    Property(
        "batch-types",
        "batches of every role match the return type that the collator's `__call__` declares",
        "correct the TypedDict in types_NAME.py or the batch; missing and undeclared fields count as errors",
        "interfaces.batch_types",
        _BATCHES,
    ),
    Property(
        "collator-pickles",
        "collators can be pickled, so that dataloader workers can use them",
        "store no lambda, open file or generator in a collator; use a function defined in a module",
        "interfaces.pickles",
        _BATCHES,
    ),
    Property(
        "collator-no-global-random",
        "collators neither read nor change a global random generator",
        "draw from a torch.Generator seeded by the example's `noise_seed`, so that a batch is the same in every worker",
        "interfaces.no_global_random",
        _BATCHES,
    ),
    Property(
        "loss-finite",
        "the loss of a new network is one finite number for every kind of batch",
        "look for log(0), a division by a count that may be 0, or a mask that hides a whole row",
        "training.finite",
        _BATCHES,
    ),
    Property(
        "output-types",
        "inputs and outputs of loss and predictor match their declared types",
        "correct the types in LossFunction[In, Out] and Predictor[In, Out], or the returned values",
        "interfaces.output_types",
        _BATCHES,
    ),
    Property(
        "gradients",
        "every trainable parameter gets a gradient",
        "use the parameter, remove it, or set requires_grad=False; DDP fails on unused parameters",
        "training.gradients",
        _LOSS,
    ),
    Property(
        "loss-falls",
        "the loss of one batch falls within a few optimizer steps",
        "look for targets at wrong positions, a detached tensor, or a wrong sign",
        "training.falls",
        ("gradients",),
    ),
    Property(
        "batch-is-its-rows",
        "each row of a batch has the same loss and prediction as on its own",
        "compute nothing over the batch dimension except the mean of the loss; if the number of its terms is not the "
        "number of rows, return it as `num_loss_terms`",
        "invariance.rows",
        (*_LOSS, *_NO_GLOBAL_RANDOM),
    ),
    Property(
        "padding",
        "padding changes neither the loss nor the prediction of a row",
        "mask padding in the attention, count positions from the first real token, and leave padding out of the loss",
        "invariance.padding",
        ("batch-is-its-rows",),
    ),
    Property(
        "devices",
        "loss and prediction are the same on every device of this machine, and no tensor is created on a fixed device",
        "create tensors with device=batch['input_ids'].device, or register them as buffers",
        "invariance.devices",
        _LOSS,
    ),
    Property(
        "predicts",
        "the predictor returns ids (B, L) and one text for each row",
        "return at least {'ids': LongTensor (B, L), 'text': list of B strings} from predict",
        "interfaces.predicts",
        _BATCHES,
    ),
    Property(
        "ends",
        "the predictor stops after a bounded number of network calls, whatever the network outputs",
        "bound the loop by max_length or max_steps; the network may never produce EOS",
        "interfaces.ends",
        _BATCHES,
    ),
    Property(
        "keeps-prompt",
        "given tokens are in the prediction, unchanged and in order",
        "write predicted tokens only where the batch has none",
        "interfaces.keeps_prompt",
        _PREDICTIONS,
    ),
    Property(
        "limits",
        "the predictor respects its limits (max_length, max_steps, num_steps)",
        "enforce the constructor's limits on tokens and steps for each row",
        "interfaces.limits",
        _PREDICTIONS,
    ),
    Property(
        "rows-are-json",
        "`to_dict` returns one JSON-serializable row for each example",
        "convert tensors by .tolist() or int(), and decode ids to text",
        "interfaces.rows_are_json",
        _PREDICTIONS,
    ),
    Property(
        "seed",
        "weights, losses in training mode and predictions depend only on the seed",
        "draw from torch's global generator or from the example's noise_seed, never from time or the operating system",
        "invariance.seed",
        _LOSS,
    ),
    Property(
        "checkpoint",
        "a checkpoint restores the same losses",
        "store everything learned or sampled in parameters or buffers, not in plain attributes",
        "training.checkpoint",
        _LOSS,
    ),
    Property(
        "hub",
        "xlm.load and from_pretrained restore the same network from a shared folder",
        "let the network's class inherit xlm.model.Model, and give it only JSON-serializable arguments",
        "training.hub",
        ("checkpoint",),
    ),
    Property(
        "trains",
        "training, validation and test run through Lightning, with every metric of the configuration",
        "run `xlm train experiment=NAME debug=small_data` to see the whole traceback",
        "training.trains",
        (*_LOSS, *_PREDICTIONS),
        slow=True,
    ),
    Property(
        "compile",
        "the loss is the same with compile=true",
        "call self.loss_fn in `__call__`, and convert numbers to tensors in `configure`",
        "training.compiles",
        _LOSS,
        slow=True,
    ),
    Property(
        "bf16",
        "the loss under bf16 autocast is close to the one in float32, with finite gradients",
        "create buffers in the dtype of the values written into them, and compute logarithms and sums in float32",
        "training.bf16",
        _LOSS,
    ),
    Property(
        "two-processes",
        "two processes give the same losses and gradients as one",
        "don't use the rank or the world size; core averages over processes",
        "distributed.two_processes",
        ("gradients",),
        slow=True,
    ),
)
