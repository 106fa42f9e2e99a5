"""The keys of a configuration: their types, defaults, ranges and what they mean, each said once, here."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Optional  # the annotations are evaluated, on Python 3.9 as well: no `X | None`

VERSION = 2  # raise it when a key moves, and tell `migrations` where to
TASKS = ("classification", "detection", "segmentation")
LARGEST_INT = 2**31 - 1  # MindSpore counts in 32 bits


def _key(default: Any, about: str = "") -> Any:
    """A text or a truth value."""
    return field(default=default, metadata={"about": about})


def _choice(default: str, *choices: str, about: str = "") -> Any:
    return field(default=default, metadata={"about": about, "choices": choices})


def _number(default, about="", least=None, most=None, above=None, below=None) -> Any:
    """A finite number with ``least <= value <= most`` and ``above < value < below``, each bound where given."""
    return field(default=default, metadata={"about": about, ">=": least, "<=": most, ">": above, "<": below})


def _numbers(*default: float, about: str = "", **bounds: Optional[float]) -> Any:
    """A list of numbers that keep the same bounds."""
    return field(default_factory=lambda: list(default), metadata=_number(None, about, **bounds).metadata)


def _section(kind: type) -> Any:
    return field(default_factory=kind, metadata={"about": kind.__doc__})


@dataclass
class ModelConfig:
    """What is trained."""

    name: str = _key("acmix_resnet_digits", "one of models.list_models()")
    num_classes: Optional[int] = _number(None, "null: as many as the data have", least=1, most=1_000_000)
    kwargs: dict[str, Any] = field(default_factory=dict, metadata={"about": "passed to create_model"})
    init_checkpoint: Optional[str] = _key(None, "weights to start from instead of random ones")
    backbone_checkpoint: Optional[str] = _key(None, "weights of a classifier, for the backbone of a larger net")
    norm_eval: bool = _key(False, "the backbone's BatchNorms keep their running statistics, as in mmdetection")
    frozen_stages: int = _number(0, "the stem and so many stages stay as they are; 0, -1: none, nor the stem", least=-1)


@dataclass
class KnownArguments:
    """What ``model.kwargs`` must be where they hold one of these; not all models take them, and some take more."""

    depths: list[int] = _numbers(least=1, most=1000)
    window_size: int = _number(7, least=1, most=4096)
    image_size: int = _number(224, least=1, most=4096)
    drop_rate: float = _number(0.0, least=0, below=1)
    drop_path_rate: float = _number(0.0, least=0, below=1)


@dataclass
class AugmentConfig:
    """Training images of classification. The names are timm's; digits know neither auto_augment nor color_jitter."""

    enabled: bool = _key(True, "false turns off all that follows but repeated_aug")
    min_crop_area: float = _number(0.08, "least share of the image in a random crop", above=0, most=1)
    auto_augment: Optional[str] = _key(None, "RandAugment in timm's notation, such as rand-m9-mstd0.5-inc1")
    color_jitter: float = _number(0.0, "brightness, contrast, saturation by 1 +- this", least=0, most=1)
    reprob: float = _number(0.0, "random erasing: share of images in which noise hides a rectangle", least=0, most=1)
    mixup: float = _number(0.0, "alpha; 0: none", least=0)
    cutmix: float = _number(0.0, "alpha; 0: none", least=0)
    mixup_prob: float = _number(1.0, "share of batches with mixup or cutmix", least=0, most=1)
    mixup_switch_prob: float = _number(0.5, "of cutmix, where both are on", least=0, most=1)
    repeated_aug: int = _number(
        1, "copies of an image in an epoch, which takes fewer images instead", least=1, most=16
    )


@dataclass
class CanvasConfig:
    """How pictures of any size become arrays of one size, for detection and segmentation. As in mmdetection."""

    # Segmentation knows height, width, short_sides, max_side and flip of these.

    height: Optional[int] = _number(
        None, "of the padded array, in pixels; of segmentation: of the crops that train", least=1, most=4096
    )
    width: Optional[int] = _number(None, "the same; at least the height", least=1, most=4096)
    turns: bool = _key(True, "images that are higher than wide get the canvas turned; false: all get the same one")
    short_sides: list[int] = _numbers(
        about="the shorter side is resized to one of these, in evaluation to the largest", least=1, most=4096
    )
    choose: str = _choice("value", "value", "range", about="one of short_sides, or any length between the ends")
    max_side: Optional[int] = _number(None, "but the longer one to this at most; null: any", least=1, most=4096)
    flip: Optional[float] = _number(None, "share of training images that are mirrored; null: half", least=0, most=1)
    crop: bool = _key(False, "half of the training images are cropped first, as DETR and Swin's 3x recipes do")
    max_objects: int = _number(100, "of a training image; further ones are left out", least=1, most=1000)


@dataclass
class SegmentsConfig:
    """Images whose pixels have classes, of segmentation alone; the names and numbers are mmsegmentation's."""

    zero_ignored: Optional[bool] = _key(
        None, "label 0 has no class, and class i is label i + 1; null: of ade20k and shapes, not of pairs"
    )
    scales: list[float] = _numbers(
        *(0.5, 2.0), about="training images are so much larger, at least and at most", least=0.1, most=10
    )
    cat_max_ratio: float = _number(0.75, "largest share of one class in a crop, if that can be", above=0, most=1)
    photometric: bool = _key(True, "training images vary in brightness, contrast, saturation and hue")
    inference: str = _choice("whole", "whole", "slide", about="all of an image at once, or in windows like the crops")
    stride: Optional[int] = _number(None, "slide: from window to window; null: two thirds of one", least=1, most=4096)
    test_scales: list[float] = _numbers(1.0, about="answers are means over images so much larger", least=0.1, most=10)
    test_flip: bool = _key(False, "answers are means over an image and its mirror image")


@dataclass
class DataConfig:
    """Where the images come from and how they are prepared."""

    name: str = _choice("digits", "digits", "imagefolder", "mindrecord", "shapes", "coco", "ade20k", "pairs")
    path: Optional[str] = _key(
        None, "the folder with train/ and val/, of records, COCO or ADE20K; digits and shapes need none"
    )
    batch_size: int = _number(64, "images per device and step", least=1, most=65_536)
    image_size: int = _number(32, "side in pixels", least=1, most=4096)
    workers: int = _number(2, "decoding threads", least=1, most=256)
    on_error: str = _choice(
        "skip", "skip", "fail", about="unreadable images: skip replaces (training) or does not count them (val)"
    )
    eval_crop_ratio: float = _number(0.875, "evaluation crops image_size out of image_size / ratio", above=0, most=1)
    interpolation: str = _choice("bilinear", "bilinear", "bicubic", about="digits are bilinear")
    resize: str = _choice("pillow", "pillow", "fast", about="fast: without antialiasing")
    augment: AugmentConfig = _section(AugmentConfig)
    canvas: CanvasConfig = _section(CanvasConfig)
    segments: SegmentsConfig = _section(SegmentsConfig)


@dataclass
class LossConfig:
    """What is minimised."""

    label_smoothing: float = _number(0.0, least=0, below=1)


@dataclass
class OptimConfig:
    """How the weights move."""

    name: str = _choice("sgd", "sgd", "adamw")
    lr: float = _number(0.1, "the peak, after warm-up", above=0)
    lr_reference_batch: Optional[int] = _number(None, "if given, lr is scaled by global batch / this", least=1)
    epochs: int = _number(90, "length of the run", least=1)
    iterations: Optional[int] = _number(None, "the length in steps; if given, it stands for epochs", least=1)
    warmup_epochs: float = _number(0.0, least=0)
    warmup_iterations: Optional[int] = _number(None, "if given, it stands for warmup_epochs", least=0)
    warmup_start: float = _number(0.0, "warm-up starts from this fraction of lr", least=0, most=1)
    schedule: str = _choice("cosine", "cosine", "step", "poly", about="what follows the warm-up")
    min_lr: float = _number(0.0, "where cosine and poly end, and what step stops at; scaled as lr is", least=0)
    milestones: list[int] = _numbers(about="step: lr falls after so many epochs (or iterations)", least=1)
    gamma: float = _number(0.1, "step: lr is multiplied with this at each milestone", above=0, most=1)
    power: float = _number(1.0, "poly: of the share of the way that is left", above=0, most=10)
    momentum: float = _number(0.9, "sgd", least=0, below=1)
    betas: list[float] = _numbers(0.9, 0.999, about="adamw", least=0, below=1)
    eps: float = _number(1e-8, "adamw", above=0)
    weight_decay: float = _number(1e-4, "not on biases, norms, rates and position tables", least=0)
    layer_decay: float = _number(1.0, "rate of a layer over that of the next; the classifier has lr", above=0, most=1)
    clip_norm: float = _number(0.0, "largest global gradient norm; 0: no clipping", least=0)


@dataclass
class TrainConfig:
    """How a run behaves."""

    resume: bool = _key(False, "go on from the newest training state in run_dir")
    deterministic: bool = _key(False, "the same bits in every run")
    precision: str = _choice("fp32", "fp32", "fp16", "mixed", "bf16")
    sync_bn: bool = _key(False, "BatchNorm over the images of all devices; Ascend only")
    ema_decay: float = _number(0.0, "of the average of the weights that is validated; 0: none", least=0, below=1)
    recompute: bool = _key(False, "compute the operators' insides again in the backward pass instead of keeping them")
    log_every: int = _number(50, "steps between progress lines", least=1)
    events: bool = _key(False, "also write what is logged for TensorBoard, into run_dir/events; needs tensorboardX")
    save_every_steps: int = _number(0, "save within epochs too; 0: at their ends only", least=0)
    keep_checkpoints: int = _number(2, "newest training states kept; a damaged one leaves the one before", least=1)
    allow_changes: bool = _key(False, "resume although the configuration differs from that of the checkpoint")


@dataclass
class RuntimeConfig:
    """What it runs on."""

    device: str = _choice("auto", "auto", "Ascend", "GPU", "CPU")
    mode: str = _choice("graph", "graph", "pynative")
    threads: Optional[int] = _number(None, "null: all cores", least=1)
    jit_level: str = _choice("O0", "O0", "O1")


@dataclass
class Config:
    """Everything; one section per part."""

    config_version: int = _number(VERSION, "of the names of the keys")
    task: str = _choice(TASKS[0], *TASKS)
    run_dir: Optional[str] = _key(None, "null: runs/<name of the configuration file>")
    seed: int = _number(0, least=0)
    model: ModelConfig = _section(ModelConfig)
    data: DataConfig = _section(DataConfig)
    loss: LossConfig = _section(LossConfig)
    optim: OptimConfig = _section(OptimConfig)
    train: TrainConfig = _section(TrainConfig)
    runtime: RuntimeConfig = _section(RuntimeConfig)


def section_of(item: dataclasses.Field) -> Optional[type]:
    """The dataclass of a field that is a section, else None."""
    return item.type if dataclasses.is_dataclass(item.type) else None


def keys(schema: type = Config, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """All dotted keys of a configuration dataclass, sections included, and their fields."""
    for item in dataclasses.fields(schema):
        yield prefix + item.name, item
        section = section_of(item)
        if section:
            yield from keys(section, f"{prefix}{item.name}.")
