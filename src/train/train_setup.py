"""The pieces of a training run as the options describe them: data, optimizer, loss and step."""

import mindspore as ms
import numpy as np

from ..config import Config
from ..data_loader import TrainLoader
from ..datasets.formats.yolo_labels import annotations_of
from ..distributed_sampler import DistributedSampler
from ..layers.batch_norm import collect_batch_norm
from ..loss import YoloLoss
from ..lr_scheduler import learning_rates
from ..perspective import PerspectiveAugment
from ..runtime.collectives import data_threads
from ..runtime.device import Runtime, fuse_gradients, mask_piece
from ..transforms import TrainAugment
from ..yolo import Normalize
from ..yolo_dataset import load_detection_set, resolve_set
from .optimizer import create_adam, create_momentum
from .train_step import AccumulatedStep, ForwardLoss, TrainStep
from .update import LossScaler, MovingAverage, Update


def create_train_loader(config: Config, runtime: Runtime) -> TrainLoader:
    """The training set of the options, read and shuffled for this rank."""
    image_dir, ann_file = resolve_set(config.data_dir, "train", config.ann_file)
    dataset = load_detection_set(
        image_dir,
        ann_file,
        config.labels,
        document=annotations_of(image_dir, ann_file, config.labels),
        **config.pick("keep_empty", "crowd_targets", "invalid_boxes", "bad_annotations", "wrong_sizes"),
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
        workers=data_threads(runtime, config.num_parallel_workers),
        **config.pick("resize_rate", "max_box", "seed"),
    )


def create_augment(config: Config) -> TrainAugment | PerspectiveAugment:
    """The random changes of the recipe that `augmentation` names."""
    shared = {"flip": config.augment_flip, **config.pick("mosaic", "mixup")}
    if config.augmentation == "perspective":
        return PerspectiveAugment(
            degrees=config.perspective_degrees,
            translate=config.perspective_translate,
            scale=config.perspective_scale,
            shear=config.perspective_shear,
            perspective=config.perspective_warp,
            hue_gain=config.perspective_hue,
            saturation_gain=config.perspective_saturation,
            value_gain=config.perspective_value,
            grey=config.padding_grey,
            **shared,
        )
    return TrainAugment(
        filters=tuple(config.resize_filters),
        keep_cut=config.cut_boxes == "clip",
        **config.pick("jitter", "hue", "saturation", "value", "each_multiscale"),
        **shared,
    )


def create_rates(config: Config, steps_per_epoch: int) -> np.ndarray:
    """The learning rate of each step, float32."""
    return learning_rates(
        config.lr_scheduler,
        steps_per_epoch=steps_per_epoch,
        lr_epochs=[int(epoch) for epoch in config.lr_epochs.split(",") if epoch.strip()],
        **config.pick("lr", "max_epoch", "warmup_epochs", "lr_gamma", "t_max", "eta_min", "warmup_from_zero"),
    )


def create_optimizer(config: Config, network: ms.nn.Cell, rates: np.ndarray) -> ms.nn.Optimizer:
    """The optimizer of the network's trainable parameters."""
    if config.optimizer == "adam":
        return create_adam(network, rates, weight_decay=config.weight_decay)
    return create_momentum(network, rates, **config.pick("momentum", "weight_decay", "loss_scale"))


def create_loss(config: Config) -> YoloLoss:
    """The loss that the options describe."""
    return YoloLoss(
        config.num_classes,
        heads=config.heads,
        gains=config.bbox_class_loss_coff,
        head_gains=config.detect_head_loss_coff,
        box_kind=config.box_loss,
        mask_piece=mask_piece(config),
        **config.pick("ignore_threshold", "label_smooth", "label_smooth_factor"),
        **config.pick("assignment", "box_weight", "ignore_scope", "padding_is_object"),
    )


def create_forward(config: Config, network: ms.nn.Cell) -> ForwardLoss:
    """From images and boxes to the loss."""
    return ForwardLoss(Normalize(config.image_mean, config.image_std), network, create_loss(config))


def create_train_step(
    config: Config,
    forward: ForwardLoss,
    optimizer: ms.nn.Optimizer,
    scaler: LossScaler | None,
    average: MovingAverage | None,
    group_size: int,
) -> TrainStep | AccumulatedStep:
    """The step of one batch, in parts where `accumulate` says so, in training mode."""
    if group_size > 1:
        fuse_gradients([p.size for p in optimizer.parameters], config.gradient_messages)
    update = Update(
        optimizer, clip_norm=config.clip_norm, group_size=group_size, scaler=scaler, average=average
    )
    if config.accumulate > 1:
        statistics = collect_batch_norm(forward.network) if config.cmbn else []
        return AccumulatedStep(forward, update, config.accumulate, statistics).set_train()
    return TrainStep(forward, update).set_train()
