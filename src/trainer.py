"""The training loop: data, one step after another, log lines, checkpoints and evaluation on the way."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np

from src.adversarial import SelfAdversary
from src.batch_norm import collect_batch_norm, synchronise_batch_norm
from src.checkpoint import (
    last_checkpoint,
    load_backbone,
    load_network,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from src.collectives import start_time
from src.config import Config
from src.data_loader import TrainLoader
from src.deploy.network_backend import NETWORK_OPTIONS, NetworkBackend, build_network
from src.distributed_sampler import DistributedSampler
from src.download import local_file
from src.errors import UserError
from src.evaluation.session import evaluate_set, load_validation_set
from src.initializer import initialize, set_head_prior
from src.logger import progress_bar, setup_logger, step_line
from src.loss import YoloLoss
from src.lr_scheduler import learning_rates
from src.network_setup import freeze, recompute_backbone, set_precision
from src.optimizer import create_adam, create_momentum, optimizer_slots
from src.perspective import PerspectiveAugment
from src.report import history
from src.report.events import EventFiles
from src.report.report import Report
from src.runtime import Runtime, can_sink, sunk_steps, used_memory
from src.train_step import AccumulatedStep, ForwardLoss, LossScaler, MovingAverage, TrainStep, Update
from src.transforms import TrainAugment
from src.yolo import Normalize
from src.yolo_dataset import load_detection_set, resolve_set

PROFILED_STEPS = 10


class Trainer:
    """One training run. `run()` goes from the configured start to `max_epoch`."""

    def __init__(self, config: Config, runtime: Runtime):
        self.config = config
        self.runtime = runtime
        self.folder = Path(config.ckpt_path) / start_time(runtime)
        self.logger = setup_logger(self.folder, runtime.rank)
        self.checkpoint_folder = self.folder / f"ckpt_{runtime.rank}"
        if runtime.is_master:
            (self.folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        self.loader = create_train_loader(config, runtime)
        self.logger.info(self.loader.dataset.describe())
        self.validation_set = load_validation_set(config) if config.run_eval else None
        self.steps_per_epoch = self.loader.steps_per_epoch
        self.backend = NetworkBackend(build_network(config), config)
        self.network = self.backend.network
        self.rates = learning_rates(
            config.lr_scheduler,
            lr=config.lr,
            steps_per_epoch=self.steps_per_epoch,
            max_epoch=config.max_epoch,
            warmup_epochs=config.warmup_epochs,
            lr_epochs=[int(epoch) for epoch in config.lr_epochs.split(",") if epoch.strip()],
            lr_gamma=config.lr_gamma,
            t_max=config.t_max,
            eta_min=config.eta_min,
        )
        initialize(self.network, config.seed)
        if config.head_prior:
            set_head_prior(self.network, config.head_prior)
        if config.sync_bn and runtime.group_size > 1:
            synchronise_batch_norm(self.network, runtime.group_size)
        if config.data_sink and not can_sink(config):
            self.logger.info(
                "data_sink: %s has no queue of its own, batches are fed step by step", config.device_target
            )
        freeze(self.network, config.freeze)
        set_precision(self.network, config.ms_amp_level)
        if config.recompute:
            recompute_backbone(self.network)
        self.optimizer = self._create_optimizer()
        self.scaler = None
        if config.ms_amp_level != "O0":
            self.scaler = LossScaler(config.amp_loss_scale, config.amp_dynamic)
        self.parameters = list(self.network.get_parameters())  # without what training adds
        self.average = MovingAverage(self.network, config.ema_decay) if config.ema_decay else None
        self.step = 0  # steps done, over all epochs
        self.best_map, self.best_epoch = -1.0, 0
        self.rows: list[history.EpochRow] = []
        self.epoch_meter = LossMeter()
        self.events = None
        if config.tensorboard and runtime.is_master:
            self.events = EventFiles(self.folder / "tensorboard")
        self._load_start()
        self.report = self._create_report() if runtime.is_master and not config.need_profiler else None
        self.train_step = self._create_train_step()

    # ---------------------------------------------------------------- construction

    def _create_optimizer(self) -> ms.nn.Optimizer:
        config = self.config
        if config.optimizer == "adam":
            return create_adam(self.network, self.rates, weight_decay=config.weight_decay)
        return create_momentum(
            self.network,
            self.rates,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            loss_scale=config.loss_scale,
        )

    def _create_train_step(self) -> TrainStep | AccumulatedStep:
        config = self.config
        loss = YoloLoss(
            config.num_classes,
            anchors=config.anchor_scales,
            scale_x_y=config.scale_x_y,
            ignore_threshold=config.ignore_threshold,
            label_smooth=config.label_smooth,
            label_smooth_factor=config.label_smooth_factor,
            gains=config.bbox_class_loss_coff,
            head_gains=config.detect_head_loss_coff,
            box_kind=config.box_loss,
        )
        forward = ForwardLoss(Normalize(config.image_mean, config.image_std), self.network, loss)
        self.adversary = SelfAdversary(forward, config.sat_strength)
        update = Update(
            self.optimizer,
            clip_norm=config.clip_norm,
            group_size=self.runtime.group_size,
            scaler=self.scaler,
            average=self.average,
        )
        if config.accumulate > 1:
            statistics = collect_batch_norm(self.network) if config.cmbn else []
            return AccumulatedStep(forward, update, config.accumulate, statistics).set_train()
        return TrainStep(forward, update).set_train()

    def _create_report(self) -> Report:
        sets = [("training", self.loader.dataset)]
        if self.validation_set is not None:
            sets.append(("validation", self.validation_set))
        report = Report(self.folder, f"Training {self.folder.name}", sets, self.config.max_epoch)
        report.write(self.rows, is_running=True)
        return report

    def _state_parameters(self) -> list[ms.Parameter]:
        """What a resumed run needs beside the network's own parameters."""
        extra = [*optimizer_slots(self.optimizer)]
        if self.average is not None:
            extra += [*self.average.averages, self.average.updates]
        if self.scaler is not None:
            extra += [self.scaler.scale, self.scaler.good_steps]
        return extra

    def _load_start(self) -> None:
        """Weights to start from; resuming wins over the checkpoint, that over the backbone."""
        config = self.config
        if config.resume:
            self._resume(last_checkpoint(config.resume, config.ckpt_path))
        elif config.resume_yolov4:
            self._resume(Path(config.resume_yolov4))
        elif config.pretrained_checkpoint:
            skip = tuple(config.checkpoint_filter_list) if config.filter_weight else ()
            path = self._local_file("pretrained_checkpoint")
            self.logger.info("load %s", load_network(self.network, path, skip=skip))
        elif config.pretrained_backbone:
            path = self._local_file("pretrained_backbone")
            self.logger.info("load backbone %s", load_backbone(self.network, path))
        if self.average is not None and self.step == 0:
            self.average.reset()

    def _local_file(self, option: str) -> Path:
        """The checkpoint that an option names, downloaded if it is an address."""
        return local_file(self.config[option], option, self.config.download_path, (".ckpt",))

    def _resume(self, path: Path) -> None:
        """Weights, optimizer, position in the schedule, epoch, step and best result of an earlier run."""
        self.logger.info("resume %s", load_network(self.network, path, average=False))
        values, state = read_checkpoint(path)
        if state is None:
            self.logger.warning("%s carries no training state (a published checkpoint): weights only", path)
            return
        if state["steps_per_epoch"] != self.steps_per_epoch:
            self.step = round(state["step"] / state["steps_per_epoch"] * self.steps_per_epoch)
            self.logger.warning(
                "%s had %d steps an epoch, this run has %d: going on from step %d",
                path, state["steps_per_epoch"], self.steps_per_epoch, self.step,
            )  # fmt: skip
        else:
            self.step = state["step"]
        self.best_map, self.best_epoch = state["best_map"], state["best_epoch"]
        self._resume_history(path, state)
        for slot in self._state_parameters():
            if slot.name not in values:
                raise UserError(
                    f"{path}: lacks {slot.name}; resume with the options that it was written with, or use it "
                    "as pretrained_checkpoint"
                )
            slot.set_data(ms.Tensor(values[slot.name], slot.dtype))
        updates = state.get("updates", self.step) if self.step == state["step"] else self.step
        self.optimizer.global_step.set_data(ms.Tensor([updates], ms.int32))

    def _resume_history(self, path: Path, state: dict) -> None:
        """The earlier run's rows of the epochs that are done, and its sums of the one that is not."""
        if not self.runtime.is_master:
            return
        earlier = history.read_history(path.resolve().parent.parent / history.FILE_NAME)
        done = self.step // self.steps_per_epoch
        self.rows = [row for row in earlier if row.epoch <= done]
        if self.rows:
            history.write_history(self.folder / history.FILE_NAME, self.rows)
        if self.step == state["step"]:
            self.epoch_meter.restore(state.get("epoch_sums"))

    # ---------------------------------------------------------------- the loop

    def run(self) -> float:
        """Train to the end. Returns the best mAP (-1 where nothing was evaluated).

        Raises:
            UserError: the loss is not finite; names the step and the pictures.
        """
        config = self.config
        last_step = self.steps_per_epoch * config.max_epoch
        if config.max_steps:
            last_step = min(last_step, config.max_steps)
        if config.need_profiler:
            last_step = min(last_step, self.step + PROFILED_STEPS)
        profiler = self._start_profiler() if config.need_profiler else None
        meter = LossMeter()
        self.epoch_meter.restart_clock()
        with progress_bar(last_step, "train", "step", self.runtime.rank, self.step) as bar:
            while self.step < last_step:
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
                    bar.update()
                    if self.step % config.log_interval == 0:
                        self._log(meter)
                    if self.step % self.steps_per_epoch == 0:
                        self._record_epoch()
                    if self._saves_now():
                        self._save()
                    if self.step >= last_step:
                        break
                if self.step % self.steps_per_epoch == 0 and self._evaluates_after(epoch + 1):
                    self._evaluate(epoch + 1)
                    meter.restart_clock()
                if self.step % self.steps_per_epoch == 0:
                    if self.report and self.step < last_step:
                        self.report.write(self.rows, is_running=True)
                    self.epoch_meter.restart_clock()
        if self.step % self._checkpoint_interval and not config.need_profiler:
            self._save()
        if self.report:
            self.report.write(self.rows)
            self.logger.info("report: %s", self.report.path)
        if self.events:
            self.events.close()
        if profiler:
            profiler.analyse()
            self.logger.info("profile of %d steps in %s", PROFILED_STEPS, self.folder / "profiler")
        if config.run_eval:
            self.logger.info(
                "End training, the best mAP is: %s, the best mAP epoch is %s", self.best_map, self.best_epoch
            )
        self.logger.info("==========end training===============")
        return self.best_map

    def _steps(self, epoch: int, start: int) -> Iterator[tuple]:
        """Train on the batches of an epoch, from a step on: loss, its parts and the batch of each step."""
        batches = self.loader.epoch(epoch, start)
        if self.config.data_sink and can_sink(self.config):
            yield from sunk_steps(self.train_step, batches, self.steps_per_epoch - start)
            return
        for batch in batches:
            images, boxes = ms.Tensor(batch.images), ms.Tensor(batch.boxes)
            if self._is_adversarial():
                images = self._attacked(images, boxes)
            yield *self.train_step(images, boxes), batch

    def _is_adversarial(self) -> bool:
        """Whether this step trains on pictures that the network has changed; the same draw after a resume."""
        draw = np.random.default_rng((self.config.seed, self.step)).random()
        return self.config.sat > 0 and draw < self.config.sat

    def _attacked(self, images: ms.Tensor, boxes: ms.Tensor) -> ms.Tensor:
        self.network.set_train(False)
        images = self.adversary(images, boxes)
        self.train_step.set_train()
        return images

    def _log(self, meter: "LossMeter") -> None:
        loss, parts, steps, seconds = meter.take()
        pictures = steps * self.config.per_batch_size * self.runtime.group_size
        self.logger.info(
            step_line(
                epoch=self.step // self.steps_per_epoch,
                iteration=self.step - 1,
                loss=loss,
                step_ms=1000 * seconds / steps,
                fps=pictures / seconds,
                lr=float(self.rates[self.step - 1]),
            )
        )
        self.logger.info("loss parts: box %.4f, objectness %.4f, class %.4f", *parts)

    def _state_line(self, loss: float) -> str:
        """What the progress bar says of the step: loss, speed of the epoch so far, memory."""
        return f"loss {loss:.1f}, {self._speed(self.epoch_meter):.1f} pictures/s, {used_memory(self.config)}"

    def _speed(self, meter: "LossMeter") -> float:
        """Pictures a second of all ranks."""
        return meter.steps * self.config.per_batch_size * self.runtime.group_size / meter.seconds

    def _record_epoch(self) -> None:
        """A row in `results.csv` of the epoch that has just ended; an evaluation completes it."""
        speed, seconds = self._speed(self.epoch_meter), self.epoch_meter.seconds
        loss, (box, objectness, class_loss), _, _ = self.epoch_meter.take()
        row = history.EpochRow(
            epoch=self.step // self.steps_per_epoch,
            step=self.step,
            loss=loss,
            box=float(box),
            objectness=float(objectness),
            class_loss=float(class_loss),
            lr=float(self.rates[self.step - 1]),
            ap=math.nan,
            ap50=math.nan,
            pictures_per_second=speed,
            seconds=seconds,
        )
        self._write_row(row)
        if self.events:
            losses = {"total": loss, "box": row.box, "objectness": row.objectness, "class": row.class_loss}
            scalars = {f"loss/{name}": value for name, value in losses.items()}
            self.events.add(self.step, {**scalars, "train/lr": row.lr, "train/pictures_per_second": speed})

    def _write_row(self, row: history.EpochRow) -> None:
        if not self.runtime.is_master or self.config.need_profiler:
            return
        self.rows = history.with_row(self.rows, row)
        history.write_history(self.folder / history.FILE_NAME, self.rows)

    def _stop_on_bad_loss(self, loss: float, batch) -> None:
        names = ", ".join(str(path) for path in batch.paths)
        if self.report:
            self.report.write(self.rows)
        raise UserError(
            f"the loss is {loss} at epoch {self.step // self.steps_per_epoch + 1}, step {self.step + 1}, "
            f"pictures: {names}; nothing was saved after the last checkpoint. Lower lr, raise warmup_epochs, "
            "set clip_norm (with ms_amp_level: lower amp_loss_scale), or look at these pictures' boxes"
        )

    # ---------------------------------------------------------------- checkpoints and evaluation

    @property
    def _checkpoint_interval(self) -> int:
        interval = self.config.ckpt_interval
        return interval if interval > 0 else self.steps_per_epoch

    def _saves_now(self) -> bool:
        return self.step % self._checkpoint_interval == 0

    def _writes_checkpoints(self) -> bool:
        return self.runtime.is_master or not self.config.is_save_on_master

    def _save(self, path: Path | None = None) -> None:
        """Write a step checkpoint (or the one at `path`) with all that a resumed run needs."""
        if not self._writes_checkpoints() or self.config.need_profiler:
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
        self.logger.info("epoch: %d, mAP:\n%s", epoch, result.report())
        ap, ap50 = (value if value >= 0 else math.nan for value in result.stats[:2])
        if self.events:
            self.events.add(self.step, {"validation/ap": ap, "validation/ap50": ap50})
        if self.report:
            row = next(row for row in self.rows if row.epoch == epoch)
            self._write_row(replace(row, ap=ap, ap50=ap50))
            self.report.add_evaluation(result, evaluation.table, self.validation_set, epoch)
        if result.mean_ap < self.best_map:
            return
        self.best_map, self.best_epoch = result.mean_ap, epoch
        self.logger.info("update best result: %s", result.mean_ap)
        if self.config.save_best_ckpt:
            path = self.checkpoint_folder / "best_map.ckpt"
            self._save(path)
            self.logger.info("update best checkpoint at: %s", path)

    def _start_profiler(self):
        return ms.Profiler(output_path=str(self.folder / "profiler"))


class LossMeter:
    """Mean of the loss and its parts, and the time, since the last log line or over an epoch."""

    def __init__(self):
        self._clear()

    def _clear(self) -> None:
        self.total, self.parts, self.steps, self.before = 0.0, np.zeros(3), 0, 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time since the last line (an evaluation, say) out of the next one."""
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time since the start, that of an interrupted run before it included."""
        return self.before + time.perf_counter() - self.start

    def update(self, loss: float, parts: np.ndarray) -> None:
        """Add one step: its loss and the (3,) box, objectness and class parts."""
        self.total += loss
        self.parts += parts
        self.steps += 1

    def take(self) -> tuple[float, np.ndarray, int, float]:
        """(mean loss, mean parts, steps, seconds), and start anew."""
        result = (self.total / self.steps, self.parts / self.steps, self.steps, self.seconds)
        self._clear()
        return result

    def sums(self) -> list[float]:
        """What `restore` takes, for a checkpoint."""
        return [self.total, *self.parts.tolist(), self.steps, self.seconds]

    def restore(self, sums: list[float] | None) -> None:
        """Go on from the sums of an interrupted run (None: it kept none)."""
        if sums:
            self.total, self.parts, self.steps, self.before = sums[0], np.array(sums[1:4]), sums[4], sums[5]


def create_train_loader(config: Config, runtime: Runtime) -> TrainLoader:
    """The training set of the options, read and shuffled for this rank."""
    image_dir, ann_file = resolve_set(config.data_dir, "train", config.ann_file)
    dataset = load_detection_set(
        image_dir, ann_file, config.labels, keep_empty=config.keep_empty, invalid_boxes=config.invalid_boxes
    )
    sampler = DistributedSampler(
        len(dataset.records), runtime.rank, runtime.group_size, shuffle=True, seed=config.seed
    )
    return TrainLoader(
        dataset,
        sampler,
        create_augment(config),
        batch_size=config.per_batch_size,
        shapes=config.train_shapes,
        resize_rate=config.resize_rate,
        max_box=config.max_box,
        seed=config.seed,
        workers=config.num_parallel_workers,
    )


def create_augment(config: Config) -> TrainAugment | PerspectiveAugment:
    """The random changes of the recipe that `augmentation` names."""
    shared = {"flip": config.flip, "mosaic": config.mosaic, "mixup": config.mixup}
    if config.augmentation == "perspective":
        return PerspectiveAugment(
            degrees=config.degrees,
            translate=config.translate,
            scale=config.scale,
            shear=config.shear,
            perspective=config.perspective,
            hue_gain=config.hue_gain,
            saturation_gain=config.saturation_gain,
            value_gain=config.value_gain,
            **shared,
        )
    return TrainAugment(
        jitter=config.jitter,
        hue=config.hue,
        saturation=config.saturation,
        value=config.value,
        each_multiscale=config.each_multiscale,
        **shared,
    )


def train(config: Config, runtime: Runtime) -> int:
    """Run the training of the options; the exit code."""
    config = config.replace(rank=runtime.rank, group_size=runtime.group_size)  # as the launcher set them
    Trainer(config, runtime).run()
    return 0
