"""The training loop: data, one step after another, log lines, checkpoints and evaluation on the way."""

import math
import signal
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
import numpy as np

from ..base.atomic import atomic_write
from ..base.errors import UserError
from ..config import NETWORK_OPTIONS, Config
from ..detect.network_backend import NetworkBackend
from ..evaluation.session import evaluate_set, load_validation_set
from ..initializer import initialize, set_head_prior
from ..layers.batch_norm import synchronise_batch_norm
from ..logger import progress_bar, setup_logger, step_line
from ..remote.download import without_signature
from ..report.history import EpochRow
from ..report.run_results import RunResults
from ..runtime.collectives import agree, start_time
from ..runtime.device import Runtime, used_memory
from ..runtime.stop_request import AgreedStop, StopRequest
from ..weights.checkpoint import load_network, prune_checkpoints, save_checkpoint
from ..yolo import build_network
from .adversarial import SelfAdversary
from .compile_cache import CompileCache
from .learning_checks import LossWatch, warnings_before
from .loss_meter import LossMeter
from .network_setup import freeze, recompute_backbone, set_precision
from .optimizer import optimizer_slots
from .start import RESUME, Start, find_start, load_start, start_options, with_class_names
from .train_setup import (
    create_forward,
    create_optimizer,
    create_rates,
    create_train_loader,
    create_train_step,
)
from .train_step import LossScaler, MovingAverage

PROFILED_STEPS = 10


class Trainer:
    """One training run. `run()` goes from the configured start to `max_epoch`, or until it is asked to stop.

    Attributes:
        stopped_by: the signal that ended the run early, 0 if none did.
    """

    def __init__(self, config: Config, runtime: Runtime, stop: StopRequest | None = None):
        self.runtime = runtime
        self.stop, self.stopped_by = AgreedStop(stop or StopRequest(), runtime), 0
        self.folder = Path(config.ckpt_path) / start_time(runtime)
        self.logger = setup_logger(self.folder, runtime.rank)
        self.checkpoint_folder = self.folder / f"ckpt_{runtime.rank}"
        start = find_start(config)
        self.config = config = with_class_names(config, start)
        if runtime.is_master:
            with atomic_write(self.folder / "config.yaml") as handle:
                public = {key: without_signature(value) for key, value in config.items()}
                handle.write(Config(public).to_yaml())
        self.loader = create_train_loader(config, runtime)
        self.logger.info(self.loader.dataset.describe())
        self.validation_set = load_validation_set(config) if config.run_eval else None
        self.steps_per_epoch = self.loader.steps_per_epoch
        self.backend = NetworkBackend(build_network(config), config)
        self.network = self.backend.network
        self.rates = create_rates(config, self.steps_per_epoch)
        self._warn_before()
        initialize(self.network, config.seed)
        if config.head_prior:
            set_head_prior(self.network, config.head_prior)
        if config.sync_bn and runtime.group_size > 1:
            synchronise_batch_norm(self.network, runtime.group_size)
        freeze(self.network, config.freeze)
        set_precision(self.network, config.ms_amp_level)
        if config.recompute:
            recompute_backbone(self.network)
        self.optimizer = create_optimizer(config, self.network, self.rates)
        self.scaler = None
        if config.ms_amp_level != "O0":
            self.scaler = LossScaler(config.amp_loss_scale, config.amp_dynamic)
        self.parameters = list(self.network.get_parameters())  # without what training adds
        self.average = MovingAverage(self.network, config.ema_decay) if config.ema_decay else None
        self.step = 0  # steps done, over all epochs
        self.is_compiled = False
        self.best_map, self.best_epoch = -1.0, 0
        self.epoch_meter = LossMeter()
        self.evaluated_epoch = 0
        self.results = self._create_results()
        self._begin_with(start)
        self.results.write_report(is_running=True)
        forward = create_forward(config, self.network)
        self.adversary = SelfAdversary(forward, config.self_adversarial_strength)
        self.train_step = create_train_step(
            config, forward, self.optimizer, self.scaler, self.average, runtime.group_size
        )

    # ---------------------------------------------------------------- construction

    def _warn_before(self) -> None:
        """What is odd about the data or the options, by the one rank that speaks for all."""
        if not self.runtime.is_master:
            return
        shapes = sorted(self.config.train_shapes)
        anchors = np.array(self.config.anchor_scales)
        middle = shapes[len(shapes) // 2]
        for line in warnings_before(self.loader.dataset, self.validation_set, self.rates, anchors, middle):
            self.logger.warning("%s", line)

    def _create_results(self) -> RunResults:
        sets = [("training", self.loader.dataset)]
        if self.validation_set is not None:
            sets.append(("validation", self.validation_set))
        return RunResults(
            self.folder,
            sets,
            self.config.max_epoch,
            is_writer=self.runtime.is_master and not self.config.need_profiler,
            with_events=self.config.tensorboard,
        )

    def _state_parameters(self) -> list[ms.Parameter]:
        """What a resumed run needs beside the network's own parameters."""
        extra = [*optimizer_slots(self.optimizer)]
        if self.average is not None:
            extra += [*self.average.averages, self.average.updates]
        if self.scaler is not None:
            extra += [self.scaler.scale, self.scaler.good_steps]
        return extra

    def _begin_with(self, start: Start | None) -> None:
        """Put the values to start from into the network, and say what they are."""
        taken, *passed_over = start_options(self.config) or [""]
        for option in passed_over:
            self.logger.warning("%s is not loaded: %s comes first", option, taken)
        if start is None:
            if self.runtime.is_master:
                self.logger.warning(
                    "training starts from random weights: none of pretrained_backbone, pretrained_checkpoint and "
                    "resume is given"
                )
        elif start.kind == RESUME:
            self._resume(start)
        else:
            self.logger.info("%s %s", start.kind, load_start(self.network, start, self.config))
        if self.average is not None and self.step == 0:
            self.average.reset()

    def _resume(self, start: Start) -> None:
        """Weights, optimizer, position in the schedule, epoch, step and best result of an earlier run."""
        path, values, state = start.path, start.values, start.state
        self.logger.info("resume %s", load_network(self.network, path, average=False, values=values))
        if state is None:
            self.logger.warning("%s carries no training state (a published checkpoint): weights only", path)
            return
        lacking = {"step", "steps_per_epoch", "best_map", "best_epoch"} - set(state)
        if lacking:
            raise UserError(
                f"{path}: its training state lacks {', '.join(sorted(lacking))}; use it as pretrained_checkpoint"
            )
        if state["steps_per_epoch"] != self.steps_per_epoch:
            self.step = round(state["step"] / state["steps_per_epoch"] * self.steps_per_epoch)
            self.logger.warning(
                "%s had %d steps an epoch, this run has %d: going on from step %d",
                path, state["steps_per_epoch"], self.steps_per_epoch, self.step,
            )  # fmt: skip
        else:
            self.step = state["step"]
        self.best_map, self.best_epoch = state["best_map"], state["best_epoch"]
        self.results.continue_from(path.resolve().parent.parent, self.step // self.steps_per_epoch)
        if self.runtime.is_master and self.step == state["step"]:
            self.epoch_meter.restore(state.get("epoch_sums"))
        self.evaluated_epoch = state.get("evaluated_epoch", self.step // self.steps_per_epoch)
        for slot in self._state_parameters():
            if slot.name not in values:
                raise UserError(
                    f"{path}: lacks {slot.name}; resume with the options that it was written with, or use it "
                    "as pretrained_checkpoint"
                )
            if tuple(values[slot.name].shape) != tuple(slot.shape):
                raise UserError(
                    f"{path}: {slot.name} has shape {tuple(values[slot.name].shape)}, this run wants "
                    f"{tuple(slot.shape)}; resume with the options that it was written with"
                )
            slot.set_data(ms.Tensor(values[slot.name], slot.dtype))
        updates = state.get("updates", self.step) if self.step == state["step"] else self.step
        self.optimizer.global_step.set_data(ms.Tensor([updates], ms.int32))

    # ---------------------------------------------------------------- the loop

    def run(self) -> float:
        """Train to the end. Returns the best mAP (-1 where nothing was evaluated).

        Raises:
            UserError: the loss is not finite; names the step and the images.
        """
        config = self.config
        last_step = self.steps_per_epoch * config.max_epoch
        if config.max_steps:
            last_step = min(last_step, config.max_steps)
        if config.need_profiler:
            last_step = min(last_step, self.step + PROFILED_STEPS)
        profiler = ms.Profiler(output_path=str(self.folder / "profiler")) if config.need_profiler else None
        meter, watch = LossMeter(), LossWatch()
        first_step = self.step
        self._make_up_evaluation()
        self.epoch_meter.restart_clock()
        with progress_bar(last_step, "train", "step", self.runtime.rank, self.step) as bar:
            while self.step < last_step and not self._is_stopped():
                epoch, start = divmod(self.step, self.steps_per_epoch)
                for total, parts, batch in self._steps(epoch, start):
                    loss = float(total.asnumpy())
                    if not math.isfinite(loss):
                        self._stop_on_bad_loss(loss, batch)
                    self.step += 1
                    parts = parts.asnumpy().sum(axis=0)
                    meter.update(loss, parts)
                    self.epoch_meter.update(loss, parts)
                    if not bar.disable:
                        bar.set_postfix_str(self._state_line(loss), refresh=False)
                    if warning := watch.update(loss):
                        self.logger.warning("step %d: %s", self.step, warning)
                    bar.update()
                    if self.step % self._steps_of(config.log_interval) == 0:
                        self._log(meter)
                    if self.step % self.steps_per_epoch == 0:
                        self._record_epoch()
                    if self.step % self._steps_of(config.ckpt_interval) == 0:
                        self._save()
                    if self.step >= last_step or self._is_stopped():
                        break
                if self.stopped_by:
                    break
                if self.step % self.steps_per_epoch == 0 and self._evaluates_after(epoch + 1):
                    self._evaluate(epoch + 1)
                    meter.restart_clock()
                if self.step % self.steps_per_epoch == 0:
                    if self.step < last_step:
                        self.results.write_report(is_running=True)
                    self.epoch_meter.restart_clock()
        if (
            self.step % self._steps_of(config.ckpt_interval)
            and self.step > first_step
            and not config.need_profiler
        ):
            self._save()
        self.results.write_report()
        if self.results.report:
            self.logger.info("report: %s", self.results.report.path)
        self.results.close()
        if profiler:
            profiler.analyse()
            self.logger.info("profile of %d steps in %s", PROFILED_STEPS, self.folder / "profiler")
        if self.stopped_by:
            self._say_how_to_go_on(first_step)
            return self.best_map
        if config.run_eval:
            self.logger.info(
                "End training, the best mAP is: %s, the best mAP epoch is %s", self.best_map, self.best_epoch
            )
        self.logger.info("==========end training===============")
        return self.best_map

    def _steps(self, epoch: int, start: int) -> Iterator[tuple]:
        """Train on the batches of an epoch, from a step on: loss, its parts and the batch of each step."""
        for batch in self.loader.epoch(epoch, start):
            images, boxes = ms.Tensor(batch.images), ms.Tensor(batch.boxes)
            if self._is_adversarial():
                images = self._attacked(images, boxes)
            yield *self._compiled_step(images, boxes), batch

    def _compiled_step(self, images: ms.Tensor, boxes: ms.Tensor) -> tuple:
        """Loss and parts of a step; the first step's graph comes from the compile cache or goes there.

        Later shapes of multi-scale training are compiled: the cache is of one graph a run.
        """
        cached = self.config.compile_cache and self.runtime.group_size == 1 and self.config.accumulate == 1
        if not cached or self.is_compiled:
            return self.train_step(images, boxes)
        inputs = [images.shape, boxes.shape, len(self.rates)]
        with CompileCache(Path(self.config.compile_cache), self.config, inputs).use():
            result = self.train_step(images, boxes)
        self.is_compiled = True
        return result

    def _is_stopped(self) -> bool:
        """Whether a rank was asked to stop; all ranks hear it at the same step."""
        self.stopped_by = self.stopped_by or self.stop.at_step(self.step)
        return bool(self.stopped_by)

    def _say_how_to_go_on(self, first_step: int) -> None:
        """The last lines of a run that was stopped, when no rank has anything left to write."""
        agree(self.runtime, 0)  # a rank that leaves earlier takes the launcher, and so the others, with it
        if not self.runtime.is_master:
            return
        name = signal.Signals(self.stopped_by).name
        if self.step == first_step or self.config.need_profiler:
            self.logger.warning("%s: stopped at step %d, nothing new to save", name, self.step)
            return
        self.logger.warning(
            "%s: stopped after step %d, checkpoint saved; go on with the same options and --resume=%s",
            name, self.step, self.folder,
        )  # fmt: skip

    def _is_adversarial(self) -> bool:
        """Whether this step trains on images that the network has changed; the same draw after a resume."""
        if not self.config.self_adversarial:
            return False
        return np.random.default_rng((self.config.seed, self.step)).random() < self.config.self_adversarial

    def _attacked(self, images: ms.Tensor, boxes: ms.Tensor) -> ms.Tensor:
        self.network.set_train(False)
        images = self.adversary(images, boxes)
        self.train_step.set_train()
        return images

    def _log(self, meter: LossMeter) -> None:
        loss, parts, steps, seconds = meter.take()
        self.logger.info(
            step_line(
                epoch=self.step // self.steps_per_epoch,
                iteration=self.step - 1,
                loss=loss,
                step_ms=1000 * seconds / steps,
                fps=self._images(steps) / seconds,
                lr=float(self.rates[self.step - 1]),
            )
        )
        self.logger.info("loss parts: box %.4f, objectness %.4f, class %.4f", *parts)

    def _state_line(self, loss: float) -> str:
        """What the progress bar says of the step: loss, speed of the epoch so far, memory."""
        speed = self._images(self.epoch_meter.steps) / self.epoch_meter.seconds
        return f"loss {loss:.1f}, {speed:.1f} images/s, {used_memory(self.config)}"

    def _images(self, steps: int) -> int:
        """Images that all ranks see in so many steps."""
        return steps * self.config.per_batch_size * self.runtime.group_size

    def _record_epoch(self) -> None:
        """Hand the means of the epoch that has just ended to the results."""
        loss, (box, objectness, class_loss), steps, seconds = self.epoch_meter.take()
        row = EpochRow(
            epoch=self.step // self.steps_per_epoch,
            step=self.step,
            loss=loss,
            box=float(box),
            objectness=float(objectness),
            class_loss=float(class_loss),
            lr=float(self.rates[self.step - 1]),
            ap=math.nan,
            ap50=math.nan,
            pictures_per_second=self._images(steps) / seconds,
            seconds=seconds,
        )
        self.results.add_epoch(row)

    def _stop_on_bad_loss(self, loss: float, batch) -> None:
        names = ", ".join(str(path) for path in batch.paths)
        self.results.write_report()
        raise UserError(
            f"the loss is {loss} at epoch {self.step // self.steps_per_epoch + 1}, step {self.step + 1}, "
            f"images: {names}; nothing was saved after the last checkpoint. Lower lr, raise warmup_epochs, "
            "set clip_norm (with ms_amp_level: lower amp_loss_scale), or look at these images' boxes"
        )

    # ---------------------------------------------------------------- checkpoints and evaluation

    def _steps_of(self, interval: int) -> int:
        """Steps of an interval option, where -1 is an epoch."""
        return interval if interval > 0 else self.steps_per_epoch

    def _save(self, path: Path | None = None) -> None:
        """Write a step checkpoint (or the one at `path`) with all that a resumed run needs."""
        is_writer = self.runtime.is_master or not self.config.is_save_on_master
        if not is_writer or self.config.need_profiler:
            return
        epoch = math.ceil(self.step / self.steps_per_epoch)
        state = {
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "updates": int(self.optimizer.global_step.asnumpy()[0]),  # fewer than steps where some overflowed
            "seed": self.config.seed,
            "best_map": self.best_map,
            "best_epoch": self.best_epoch,
            "epoch_sums": self.epoch_meter.sums(),
            "evaluated_epoch": self.evaluated_epoch,
            "options": {key: self.config[key] for key in NETWORK_OPTIONS},
        }
        parameters = [*self.parameters, *self._state_parameters()]
        target = path or self.checkpoint_folder / f"{self.runtime.rank}-{epoch}_{self.step}.ckpt"
        save_checkpoint(parameters, target, state)
        if path is None:
            prune_checkpoints(self.checkpoint_folder, self.config.keep_checkpoint_max)

    def _evaluates_after(self, epoch: int) -> bool:
        config = self.config
        if not config.run_eval:
            return False
        is_last = epoch == config.max_epoch
        due = (
            epoch >= config.eval_start_epoch and (epoch - config.eval_start_epoch) % config.eval_interval == 0
        )
        return due or is_last

    def _make_up_evaluation(self) -> None:
        """A run that ended between an epoch's last step and the end of its evaluation evaluates when resumed."""
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        if rest == 0 and epoch > self.evaluated_epoch and self._evaluates_after(epoch):
            self._evaluate(epoch)

    def _evaluate(self, epoch: int) -> None:
        """Score the validation set; keep the checkpoint if it is the best so far."""
        self.network.set_train(False)
        if self.average is not None:
            self.average.swap()
        evaluation = evaluate_set(self.backend, self.validation_set, self.config, self.folder, self.runtime)
        result = evaluation.result
        if self.average is not None:
            self.average.swap()
        self.train_step.set_train()
        self.evaluated_epoch = epoch
        self.logger.info("epoch: %d, mAP:\n%s", epoch, result.report())
        self.results.add_evaluation(self.step, epoch, evaluation, self.validation_set)
        if result.mean_ap < self.best_map:
            return
        self.best_map, self.best_epoch = result.mean_ap, epoch
        self.logger.info("update best result: %s", result.mean_ap)
        if self.config.save_best_ckpt:
            path = self.checkpoint_folder / "best_map.ckpt"
            self._save(path)
            self.logger.info("update best checkpoint at: %s", path)


def train(config: Config, runtime: Runtime, stop: StopRequest) -> int:
    """Run the training of the options, until its end or until it is asked to stop; the exit code.

    Raises:
        SystemExit: the run was stopped by SIGTERM (143) or SIGINT (130), its checkpoint is saved.
    """
    config = config.replace(rank=runtime.rank, group_size=runtime.group_size)  # as the launcher set them
    trainer = Trainer(config, runtime, stop)
    trainer.run()
    if trainer.stopped_by:
        raise SystemExit(128 + trainer.stopped_by)
    return 0
