"""Teaching: LoRA on the very weights that run."""
import contextlib
import ctypes
import json
import math
import os

from . import _library as c
from ._library import lib
from ._store import find_adapter

_TRAIN_ON = {"assistant": c.TRAIN_ASSISTANT, "last": c.TRAIN_LAST, "all": c.TRAIN_ALL}
_SCHEDULE = {"cosine": c.SCHEDULE_COSINE, "linear": c.SCHEDULE_LINEAR, "constant": c.SCHEDULE_CONSTANT}
_START = {"uniform": c.START_UNIFORM, "gaussian": c.START_GAUSSIAN, "pissa": c.START_PISSA}
_RATE_TIMES_WIDTH = 1.152       # the default rate is this over the width of the model, as the program's
_EPOCHS, _MOST_EPOCHS, _ENOUGH_STEPS = 3, 10, 80


class Step:
    """What a step of training reports: `step` (from 1) of `steps`, `loss` (nats a trained token, before the step), `grad_norm`, `lr`, `tokens`, `supervised`
    (tokens that were trained), `seconds`."""

    def __init__(self, report, steps):
        self.steps = steps
        for name in ("step", "loss", "grad_norm", "lr", "tokens", "supervised", "seconds"):
            setattr(self, name, getattr(report, name))

    def __repr__(self):
        return "Step(%d of %d, loss %.4f)" % (self.step, self.steps, self.loss)


class Taught:
    """What was taught: `path` of the adapter's folder, `steps` taken, `losses` of them, `stopped` (by on_step, before all were taken)."""

    def __init__(self, path, losses, stopped):
        self.path, self.steps, self.losses, self.stopped = path, len(losses), losses, stopped

    def __repr__(self):
        return "Taught(%r, %d steps)" % (self.path, self.steps)


def _is_path(value):
    return isinstance(value, (str, os.PathLike))


def _open_data(weights, rows, options, cancel):
    """Rows are dicts, or files: DATA[:WEIGHT], as docs/data.md tells."""
    guard = c.Guard()
    options.progress = guard(c.ProgressFn, lambda unused, done, total: cancel.value != 0, True)
    rows = [rows] if _is_path(rows) else list(rows)
    if rows and all(_is_path(row) for row in rows):
        names = [os.fsencode(row) for row in rows]
        options.sources, options.n_sources = (ctypes.c_char_p * len(names))(*names), len(names)
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
        options.rows, options.rows_length = text, len(text)

    def work():
        with weights.used() as model:
            try:
                return c.opened("dataset", model, ctypes.byref(options))
            finally:
                if guard.raised is not None:
                    guard.check(c.OK)
    return c.patiently(cancel, work)


def _order(data, batch, epochs, max_steps, seed):
    count = lib.nm_dataset_count(data, c.SPLIT_TRAIN)
    if epochs is None:
        epochs = min(max(_EPOCHS, math.ceil(_ENOUGH_STEPS / max(math.ceil(count / max(batch, 1)), 1))), _MOST_EPOCHS)
    order = c.opened("order", data, ctypes.byref(c.OrderOptions(batch=batch, epochs=epochs, max_steps=max_steps or 0, seed=seed)))
    return order, max(lib.nm_dataset_sample(data, c.SPLIT_TRAIN, i).count for i in range(count))


def _rate(model, optimizer):
    rate = ctypes.c_float()
    c.check(lib.nm_optimizer_rate(optimizer, ctypes.byref(rate)))
    return rate.value * _RATE_TIMES_WIDTH / model.width


def _steps(trainer, data, order, on_step, cancel):
    """Takes all steps, unless on_step says that it is enough. The losses, and whether it did."""
    steps, losses, report, step = lib.nm_order_steps(order), [], c.TrainReport(), c.OrderStep()
    for at in range(steps):
        c.check(lib.nm_order_step_at(order, at, ctypes.byref(step)))
        samples = (c.Sample * step.count)(*(lib.nm_dataset_sample(data, c.SPLIT_TRAIN, step.samples[i]) for i in range(step.count)))
        count = step.count
        c.patiently(cancel, lambda: c.check(lib.nm_trainer_step(trainer, samples, count, None, 0, 0, ctypes.byref(report), ctypes.byref(cancel))))
        losses.append(report.loss)
        if on_step is not None and on_step(Step(report, steps)):
            return losses, at + 1 < steps
    return losses, False


def _save(trainer, model, out, format, losses, settings):
    os.makedirs(out, exist_ok=True)
    provenance = dict(program="nomoat (Python)", version=c.VERSION, base=model.name, steps=len(losses), **settings)
    card = c.AdapterCard(base=c.utf8(model.name), provenance=c.utf8(json.dumps(provenance)), prompt_format=c.utf8(format))
    c.check(lib.nm_trainer_save(trainer, os.fsencode(out), ctypes.byref(card)))


def tune(model, rows, out, *, epochs=None, max_steps=None, batch=8, rank=16, alpha=0.0, dora=False, targets=None, init=None, init_lora="uniform", dropout=0.0, lr=None,
         optimizer="adamw", schedule="cosine", warmup=0.05, weight_decay=-1.0, clip=1.0, seed=0, max_length=512, train_on="assistant", format=None, skip_bad=False,
         on_step=None):
    """Teaches an adapter (LoRA) and writes it to the folder `out`, as a PEFT folder: then nomoat.Model(path, adapters=[out]), or model.with_adapters([out]), has it.

    rows      a list of dicts, as {"messages": [...]}, {"instruction": ..., "output": ...}, {"text": ...}; or a file, a folder, or several: docs/data.md
    epochs    times over the data (3; more, up to 10, where that makes fewer than 80 steps); max_steps: at most so many
    on_step   called with a Step after each; what it returns, if true, ends the run: what was taught so far is written. What it raises ends the run and is raised
              here, and nothing is written; so does Ctrl-C

    The other settings and their defaults are those of `nomoat tune`. Adapters of the model stay as they are, below the one that is taught. What the program does beyond
    (an anchor against forgetting, validation, checkpoints) is not done here. Belongs to the calling thread; others may use the model meanwhile."""
    def pick(what, known, value):
        if value not in known:
            raise c.Usage("%s=%r: there are %s" % (what, value, ", ".join(map(repr, known))))
        return known[value]
    weights, cancel, owned = model._used(), ctypes.c_int(0), []
    wanted = c.utf8(optimizer)
    lr = _rate(model, wanted) if lr is None else lr
    options = c.DatasetOptions(format=c.utf8(format), train_on=pick("train_on", _TRAIN_ON, train_on), max_length=max_length, skip_bad=skip_bad, seed=seed)
    trainer_options = c.TrainerOptions(
        compute=model._options.compute, rank=rank, alpha=alpha, dora=dora, targets=c.utf8(targets), init=None if init is None else os.fsencode(find_adapter(init)),
        start=pick("init_lora", _START, init_lora), dropout=dropout, optimizer=wanted, lr=lr, lr_ratio=1, weight_decay=weight_decay, clip=clip,
        schedule=pick("schedule", _SCHEDULE, schedule), seed=seed)
    try:
        owned.append(_open_data(weights, rows, options, cancel))
        data = owned[0]._held.pointer
        order, longest = _order(data, batch, epochs, max_steps, seed)
        owned.append(order)
        steps = lib.nm_order_steps(order._held.pointer)
        trainer_options.steps, trainer_options.batch, trainer_options.max_length = steps, batch, longest
        trainer_options.warmup = math.ceil(warmup * steps) if warmup < 1 else int(warmup)
        below = (model._stack,) if model._stack is not None else ()
        with weights.used() as pointer, below[0].used() if below else contextlib.nullcontext() as stack:
            trainer_options.below = stack
            owned.append(c.patiently(cancel, lambda: c.opened("trainer", pointer, ctypes.byref(trainer_options), parents=(weights, *below))))
        trainer = owned[2]._held.pointer
        losses, stopped = _steps(trainer, data, order._held.pointer, on_step, cancel)
        _save(trainer, model, out, format, losses, dict(seed=seed, rank=rank, learning_rate=lr, batch=batch))
        return Taught(out, losses, stopped)
    finally:
        for thing in reversed(owned):
            thing.close()
