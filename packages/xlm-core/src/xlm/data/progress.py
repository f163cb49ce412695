"""Where a saved run stood, said so that Lightning goes on from exactly there."""

from __future__ import annotations

from typing import Any

_NOT_STARTED = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
# What Lightning takes for a validation that was begun and not finished; none of its batches counts as done.
_DUE = {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def settle_progress(
    checkpoint: dict[str, Any], accumulate_grad_batches: int = 1, limit_train_batches: float = 1.0
) -> None:
    """Rewrite the loop counters of `checkpoint`, in place, to the moment right after its last optimizer step.

    To be called when a checkpoint is loaded. Lightning keeps many kinds of half-finished counters (at the end
    of a batch, of an epoch, of `fit`), and from some of them goes on one batch or one epoch off, or starts a
    new epoch in the middle. Weights in a checkpoint are those after the last step, so that is where it goes on:
    batches that were handed out since, whose gradients are lost, come again. A validation that was due then and
    not finished is done again. Leaves alone what was not trained with a loader of `xlm.data.loaders`.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    loaders = loop.get("state_dict", {}).get("combined_loader", [])
    if len(loaders) != 1 or "num_batches" not in loaders[0]:
        return
    loader, batches = loaders[0], loop["epoch_loop.batch_progress"]
    length = _epoch_length(loader["num_batches"], limit_train_batches)
    in_flight = batches["total"]["ready"] - batches["total"]["processed"]
    epoch, batch = divmod(loader["epoch"] * length + loader["batch"] - in_flight, length)
    unstepped = batch % accumulate_grad_batches
    batch -= unstepped
    validation = loop["epoch_loop.val_loop.batch_progress"]
    validation_due = not in_flight and not unstepped and _validation_unfinished(batches, validation)

    loader.update(epoch=epoch, batch=batch)
    done = batches["total"]["processed"] - unstepped
    batches.update(total=_all(done), current=_all(batch), is_last_batch=False)
    # An epoch that was begun, even where no batch of it is done: Lightning restores loaders in no other state.
    begun = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch, "completed": epoch}
    loop["epoch_progress"].update(total=dict(begun), current=dict(begun))
    validation.update(total=dict(_DUE if validation_due else _NOT_STARTED), current=dict(_NOT_STARTED))
    steps = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    if steps:  # none under manual optimization, which counts elsewhere
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps


def _epoch_length(num_batches: int, limit: float) -> int:
    """Batches of an epoch under Lightning's `limit_train_batches`: a number, or a fraction as a float."""
    return min(num_batches, limit if isinstance(limit, int) else int(num_batches * limit)) or 1


def _all(count: int) -> dict[str, int]:
    return dict.fromkeys(_NOT_STARTED, count)


def _validation_unfinished(batches: dict[str, Any], validation: dict[str, Any]) -> bool:
    """Saved at the end of a batch, before a validation that may follow, or within one."""
    before = batches["total"]["completed"] < batches["total"]["processed"]
    within = validation["total"]["completed"] < validation["total"]["ready"]
    return before or within
