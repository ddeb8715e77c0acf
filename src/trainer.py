"""The training loop: data, one step after another, log lines, checkpoints and evaluation on the way."""

import math
import signal
import time
from collections.abc import Iterator
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
from src.collectives import agree, start_time
from src.config import Config
from src.data_loader import TrainLoader
from src.deploy.network_backend import NETWORK_OPTIONS, NetworkBackend, build_network
from src.distributed_sampler import DistributedSampler
from src.download import local_file
from src.errors import UserError
from src.evaluation.session import evaluate_set, load_validation_set
from src.initializer import initialize, set_head_prior
from src.learning_checks import LossWatch, warnings_before
from src.logger import progress_bar, setup_logger, step_line
from src.loss import YoloLoss
from src.lr_scheduler import learning_rates
from src.network_setup import freeze, recompute_backbone, set_precision
from src.optimizer import create_adam, create_momentum, optimizer_slots
from src.perspective import PerspectiveAugment
from src.runtime import Runtime, can_sink, sunk_steps
from src.stop_request import AgreedStop, StopRequest
from src.train_step import AccumulatedStep, ForwardLoss, LossScaler, MovingAverage, TrainStep, Update
from src.transforms import TrainAugment
from src.yolo import Normalize
from src.yolo_dataset import load_detection_set, resolve_set

PROFILED_STEPS = 10


class Trainer:
    """One training run. `run()` goes from the configured start to `max_epoch`, or until it is asked to stop.

    Attributes:
        stopped_by: the signal that ended the run early, 0 if none did.
    """

    def __init__(self, config: Config, runtime: Runtime, stop: StopRequest | None = None):
        self.config = config
        self.runtime = runtime
        self.stop, self.stopped_by = AgreedStop(stop or StopRequest(), runtime), 0
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
        self._warn_before()
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
        self.evaluated_epoch = 0
        self._load_start()
        self.train_step = self._create_train_step()

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
        self.evaluated_epoch = state.get("evaluated_epoch", self.step // self.steps_per_epoch)
        for slot in self._state_parameters():
            if slot.name not in values:
                raise UserError(
                    f"{path}: lacks {slot.name}; resume with the options that it was written with, or use it "
                    "as pretrained_checkpoint"
                )
            slot.set_data(ms.Tensor(values[slot.name], slot.dtype))
        updates = state.get("updates", self.step) if self.step == state["step"] else self.step
        self.optimizer.global_step.set_data(ms.Tensor([updates], ms.int32))

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
        meter, watch = LossMeter(), LossWatch()
        first_step = self.step
        self._make_up_evaluation()
        with progress_bar(last_step, "train", "step", self.runtime.rank, self.step) as bar:
            while self.step < last_step and not self._is_stopped():
                epoch, start = divmod(self.step, self.steps_per_epoch)
                for total, parts, batch in self._steps(epoch, start):
                    loss = float(total.asnumpy())
                    if not math.isfinite(loss):
                        self._stop_on_bad_loss(loss, batch)
                    self.step += 1
                    meter.update(loss, parts.asnumpy().sum(axis=0))
                    if warning := watch.update(loss):
                        self.logger.warning("step %d: %s", self.step, warning)
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.1f}", refresh=False)
                    if self.step % config.log_interval == 0:
                        self._log(meter)
                    if self._saves_now():
                        self._save()
                    if self.step >= last_step or self._is_stopped():
                        break
                if self.stopped_by:
                    break
                if self.step % self.steps_per_epoch == 0 and self._evaluates_after(epoch + 1):
                    self._evaluate(epoch + 1)
                    meter.restart_clock()
        if self.step % self._checkpoint_interval and self.step > first_step and not config.need_profiler:
            self._save()
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
        batches = self.loader.epoch(epoch, start)
        if self.config.data_sink and can_sink(self.config):
            yield from sunk_steps(self.train_step, batches, self.steps_per_epoch - start)
            return
        for batch in batches:
            images, boxes = ms.Tensor(batch.images), ms.Tensor(batch.boxes)
            if self._is_adversarial():
                images = self._attacked(images, boxes)
            yield *self.train_step(images, boxes), batch

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

    def _stop_on_bad_loss(self, loss: float, batch) -> None:
        names = ", ".join(str(path) for path in batch.paths)
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
        result = evaluate_set(
            self.backend, self.validation_set, self.config, self.folder, self.runtime
        ).result
        if self.average is not None:
            self.average.swap()
        self.train_step.set_train()
        self.evaluated_epoch = epoch
        self.logger.info("epoch: %d, mAP:\n%s", epoch, result.report())
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
    """Mean of the loss and its parts, and the time, since the last log line."""

    def __init__(self):
        self._clear()

    def _clear(self) -> None:
        self.total, self.parts, self.steps = 0.0, np.zeros(3), 0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time until now (an evaluation, say) out of the next line."""
        self.start = time.perf_counter()

    def update(self, loss: float, parts: np.ndarray) -> None:
        """Add one step: its loss and the (3,) box, objectness and class parts."""
        self.total += loss
        self.parts += parts
        self.steps += 1

    def take(self) -> tuple[float, np.ndarray, int, float]:
        """(mean loss, mean parts, steps, seconds), and start anew."""
        result = (
            self.total / self.steps,
            self.parts / self.steps,
            self.steps,
            time.perf_counter() - self.start,
        )
        self._clear()
        return result


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
