"""The properties of a model that obeys the contract, in the order in which they build on each other."""

from __future__ import annotations

from xlm.testing.properties import Property

_RUNS = ("loaders",)
_SCORES = ("loss-finite",)
_WRITES = ("predicts", "ends")
_SAME = ("collator-no-global-random",)

PROPERTIES: tuple[Property, ...] = (
    Property(
        "discovered",
        "the model is found, and its package can be imported",
        "run `xlm models`: it lists every model with its problems",
        "configs.discovered",
    ),
    Property(
        "composes",
        "every experiment of the model composes",
        "run `xlm train experiment=NAME --cfg job` and mend the file that the message names",
        "configs.composes",
        ("discovered",),
    ),
    Property(
        "composes-overfit",
        "every experiment composes with debug=overfit, the first check of a new model",
        "run `xlm train experiment=NAME debug=overfit --cfg job`; an experiment must not depend on what debug changes",
        "configs.composes_overfit",
        ("composes",),
    ),
    Property(
        "targets",
        "every dotted path in the configuration of its experiments can be imported",
        "correct the path, or import it alone as the message shows",
        "configs.targets",
        ("composes",),
    ),
    Property(
        "wheel",
        "the wheel of the package contains its configs",
        "package them: with hatchling list the package under tool.hatch.build.targets.wheel; with setuptools give "
        'package_data={"NAME": ["configs/**/*.yaml"]}',
        "packaging.wheel",
        ("discovered",),
        slow=True,
    ),
    Property(
        "loaders",
        "every dataloader of every split gives a batch, and print_batch_fn shows it",
        "look at that dataloader's collator and processors; a collator takes a list of examples and returns a dict",
        "batches.loaders",
        ("targets",),
    ),
    Property(
        "batch-types",
        "batches of every role are what the collator's `__call__` declares to return",
        "correct the TypedDict in types_NAME.py, or the field; undeclared fields and missing ones count too",
        "batches.types",
        _RUNS,
    ),
    Property(
        "collator-pickles",
        "collators pickle, so that worker processes can have them",
        "keep no lambda, open file or generator in a collator; make a module's function of it",
        "batches.pickles",
        _RUNS,
    ),
    Property(
        "collator-no-global-random",
        "collators neither read nor move a global random generator",
        "draw from a torch.Generator seeded by the example's `noise_seed`, so that a batch is the same in any worker",
        "batches.no_global_random",
        _RUNS,
    ),
    Property(
        "loss-finite",
        "the loss of a new network is one finite number for every kind of batch",
        "look for log(0), a division by a count that may be 0, and a mask that hides a whole row",
        "loss.finite",
        _RUNS,
    ),
    Property(
        "output-types",
        "loss and predictor take and return what their declared types say",
        "correct the types that LossFunction[In, Out] and Predictor[In, Out] name, or what is returned",
        "outputs.types",
        _RUNS,
    ),
    Property(
        "gradients",
        "every trainable parameter gets a gradient",
        "use the parameter, remove it, or set requires_grad=False; with several processes unused ones are an error",
        "loss.gradients",
        _SCORES,
    ),
    Property(
        "loss-falls",
        "the loss of one batch falls within a few optimizer steps",
        "look for targets that don't belong to their positions, a detached tensor, or a wrong sign",
        "loss.falls",
        ("gradients",),
    ),
    Property(
        "batch-is-its-rows",
        "a row of a batch is scored and continued as it is alone",
        "nothing may be computed over the batch dimension but the mean of the loss; if it is a mean over fewer or more "
        "terms than rows, say how many in `num_loss_terms`",
        "invariance.rows",
        (*_SCORES, *_SAME),
    ),
    Property(
        "padding",
        "padding changes neither the loss nor the prediction of a row",
        "hide padding by the attention mask, count positions from the first real token, and leave it out of the loss",
        "invariance.padding",
        ("batch-is-its-rows",),
    ),
    Property(
        "devices",
        "loss and prediction are the same on every device of this machine, and no tensor is made on a fixed one",
        "create tensors with device=batch['input_ids'].device, or register them as buffers",
        "devices.same",
        _SCORES,
    ),
    Property(
        "predicts",
        "the predictor returns ids (B, L) and a text for each row",
        "return at least {'ids': LongTensor (B, L), 'text': list of B strings} from predict",
        "prediction.predicts",
        _RUNS,
    ),
    Property(
        "ends",
        "the predictor ends after a bounded number of network calls, whatever the network says",
        "bound the loop by max_length or max_steps; a network that never says EOS is no reason to go on for ever",
        "prediction.ends",
        _RUNS,
    ),
    Property(
        "keeps-prompt",
        "given tokens are in the prediction, unchanged and in order",
        "write predicted tokens only where the batch has none",
        "prediction.keeps_prompt",
        _WRITES,
    ),
    Property(
        "limits",
        "the predictor respects its limits (max_length, max_steps, num_steps)",
        "count tokens and steps against the limits that the constructor takes, for each row",
        "prediction.limits",
        _WRITES,
    ),
    Property(
        "rows-are-json",
        "`to_dict` gives one JSON row per example",
        "convert tensors by .tolist() or int(), and decode ids to text",
        "prediction.rows_are_json",
        _WRITES,
    ),
    Property(
        "seed",
        "weights, losses in training mode and predictions follow from the seed alone",
        "draw from torch's global generator or from the example's noise_seed, never from time or the operating system",
        "determinism.seed",
        _SCORES,
    ),
    Property(
        "checkpoint",
        "a checkpoint gives back the same losses",
        "keep whatever is learnt or drawn in parameters or buffers, not in plain attributes",
        "weights.checkpoint",
        _SCORES,
    ),
    Property(
        "hub",
        "a shared folder gives back the same network, by xlm.load and by from_pretrained",
        "let the network's class inherit xlm.model.Model, with JSON-able arguments that have one meaning",
        "weights.hub",
        ("checkpoint",),
    ),
    Property(
        "trains",
        "training, validation and test run through Lightning, with every metric of the configuration",
        "run `xlm train experiment=NAME debug=small_data` for the whole traceback",
        "running.trains",
        (*_SCORES, *_WRITES),
        slow=True,
    ),
    Property(
        "compile",
        "the loss is the same under compile=true",
        "let `__call__` go through self.loss_fn, and turn numbers into tensors in `configure`",
        "running.compiles",
        _SCORES,
        slow=True,
    ),
    Property(
        "bf16",
        "the loss under bf16 autocast is near the one in float32, with finite gradients",
        "make buffers in the dtype of what is written into them, and take logarithms and sums in float32",
        "running.bf16",
        _SCORES,
    ),
    Property(
        "two-processes",
        "two processes give the same losses and gradients as one",
        "do nothing that depends on the rank or the world size: core averages over processes",
        "running.two_processes",
        ("gradients",),
        slow=True,
    ),
)
