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
        keep_empty=config.keep_empty,
        crowd_targets=config.crowd_targets,
        invalid_boxes=config.invalid_boxes,
        bad_annotations=config.bad_annotations,
        wrong_sizes=config.wrong_sizes,
        document=annotations_of(image_dir, ann_file, config.labels),
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
        workers=data_threads(runtime, config.num_parallel_workers),
    )


def create_augment(config: Config) -> TrainAugment | PerspectiveAugment:
    """The random changes of the recipe that `augmentation` names."""
    shared = {"flip": config.augment_flip, "mosaic": config.mosaic, "mixup": config.mixup}
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
        jitter=config.jitter,
        hue=config.hue,
        saturation=config.saturation,
        value=config.value,
        each_multiscale=config.each_multiscale,
        filters=tuple(config.resize_filters),
        keep_cut=config.cut_boxes == "clip",
        **shared,
    )


def create_rates(config: Config, steps_per_epoch: int) -> np.ndarray:
    """The learning rate of each step, float32."""
    return learning_rates(
        config.lr_scheduler,
        lr=config.lr,
        steps_per_epoch=steps_per_epoch,
        max_epoch=config.max_epoch,
        warmup_epochs=config.warmup_epochs,
        lr_epochs=[int(epoch) for epoch in config.lr_epochs.split(",") if epoch.strip()],
        lr_gamma=config.lr_gamma,
        t_max=config.t_max,
        eta_min=config.eta_min,
        warmup_from_zero=config.warmup_from_zero,
    )


def create_optimizer(config: Config, network: ms.nn.Cell, rates: np.ndarray) -> ms.nn.Optimizer:
    """The optimizer of the network's trainable parameters."""
    if config.optimizer == "adam":
        return create_adam(network, rates, weight_decay=config.weight_decay)
    return create_momentum(
        network,
        rates,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        loss_scale=config.loss_scale,
    )


def create_loss(config: Config) -> YoloLoss:
    """The loss that the options describe."""
    return YoloLoss(
        config.num_classes,
        heads=config.heads,
        ignore_threshold=config.ignore_threshold,
        label_smooth=config.label_smooth,
        label_smooth_factor=config.label_smooth_factor,
        gains=config.bbox_class_loss_coff,
        head_gains=config.detect_head_loss_coff,
        box_kind=config.box_loss,
        mask_piece=mask_piece(config),
        assignment=config.assignment,
        box_weight=config.box_weight,
        ignore_scope=config.ignore_scope,
        padding_is_object=config.padding_is_object,
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
