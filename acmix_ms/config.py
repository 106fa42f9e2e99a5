"""Typed configuration: dataclasses give keys, types, defaults and ranges; YAML files and ``key=value`` fill them.

A YAML file may name one or several files it builds on (``base: ../base/digits.yaml``, relative to itself); these are
merged first, then the file, then the command line. What is not in the dataclasses below is an error, so that a
misspelt key cannot be lost in silence.
"""

import dataclasses
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union  # OmegaConf evaluates the annotations, on Python 3.9 as well: no `X | None`

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from acmix_ms.checkout import shipped
from acmix_ms.errors import UserError, closest


def _choice(default: str, *choices: str) -> Any:
    return field(default=default, metadata={"choices": choices})


def _number(default, least=None, most=None, above=None, below=None) -> Any:
    """A number with ``least <= value <= most`` and ``above < value < below``, each bound where given."""
    return field(default=default, metadata={">=": least, "<=": most, ">": above, "<": below})


@dataclass
class ModelConfig:
    """What is trained."""

    name: str = "acmix_resnet_digits"
    num_classes: Optional[int] = _number(None, least=1)  # None: as many as the dataset has
    kwargs: dict[str, Any] = field(default_factory=dict)  # passed to create_model
    init_checkpoint: Optional[str] = None  # weights to start from instead of random ones
    frozen_stages: int = _number(0, least=-1)  # the stem and so many stages stay as they are; 0, -1: none, nor the stem


@dataclass
class DataConfig:
    """Where the images come from and how they are prepared."""

    name: str = _choice("digits", "digits", "imagefolder", "mindrecord")
    path: Optional[str] = None  # the folder with train/ and val/ or with the records; digits need none
    batch_size: int = _number(64, least=1)  # images per device and step
    image_size: int = _number(32, least=1)  # side in pixels
    workers: int = _number(2, least=1, most=256)  # decoding threads
    on_error: str = _choice("skip", "skip", "fail")  # unreadable images: replaced (training), not counted (val)
    min_crop_area: float = _number(0.08, above=0, most=1)  # least share of the image in a random crop
    eval_crop_ratio: float = _number(0.875, above=0, most=1)  # evaluation crops image_size out of image_size / ratio
    interpolation: str = _choice("bilinear", "bilinear", "bicubic")  # digits are bilinear
    # Training only. The names are timm's. Digits know neither auto_augment nor color_jitter.
    augment: bool = True  # false turns off all that follows but repeated_aug
    auto_augment: Optional[str] = None  # RandAugment in timm's notation, such as rand-m9-mstd0.5-inc1
    color_jitter: float = _number(0.0, least=0, most=1)  # brightness, contrast, saturation by 1 +- this
    reprob: float = _number(0.0, least=0, most=1)  # random erasing: share of images in which noise hides a rectangle
    mixup: float = _number(0.0, least=0)  # alpha; 0: none
    cutmix: float = _number(0.0, least=0)  # alpha; 0: none
    mixup_prob: float = _number(1.0, least=0, most=1)  # share of batches with mixup or cutmix
    mixup_switch_prob: float = _number(0.5, least=0, most=1)  # of cutmix, where both are on
    repeated_aug: int = _number(1, least=1, most=16)  # copies of an image in an epoch, which takes fewer images instead


@dataclass
class OptimConfig:
    """How the weights move."""

    name: str = _choice("sgd", "sgd", "adamw")
    lr: float = _number(0.1, above=0)  # the peak, after warm-up
    lr_reference_batch: Optional[int] = _number(None, least=1)  # if given, lr is scaled by global batch / this
    epochs: int = _number(90, least=1)
    warmup_epochs: float = _number(0.0, least=0)
    warmup_start: float = _number(0.0, least=0, most=1)  # warm-up starts from this fraction of lr
    min_lr: float = _number(0.0, least=0)  # where the cosine ends; scaled as lr is
    momentum: float = _number(0.9, least=0, below=1)  # sgd
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # adamw
    eps: float = _number(1e-8, above=0)  # adamw
    weight_decay: float = _number(1e-4, least=0)  # not on biases, norms, rates and position tables
    layer_decay: float = _number(1.0, above=0, most=1)  # rate of a layer over that of the next; the classifier has lr
    label_smoothing: float = _number(0.0, least=0, below=1)
    clip_norm: float = _number(0.0, least=0)  # largest global gradient norm; 0: no clipping


@dataclass
class TrainConfig:
    """How a run behaves."""

    resume: bool = False
    deterministic: bool = False
    precision: str = _choice("fp32", "fp32", "fp16", "mixed", "bf16")
    sync_bn: bool = False  # BatchNorm over the images of all devices; Ascend only
    ema_decay: float = _number(0.0, least=0, below=1)  # of the average of the weights that is validated; 0: none
    recompute: bool = False  # compute the operators' insides again in the backward pass instead of keeping them
    log_every: int = _number(50, least=1)  # steps between progress lines
    events: bool = False  # also write what is logged for TensorBoard, into run_dir/events; needs tensorboardX
    save_every_steps: int = _number(0, least=0)  # save within epochs too; 0: at their ends only
    keep_checkpoints: int = _number(2, least=1)  # newest training states kept; a damaged one leaves the one before
    allow_changes: bool = False  # resume although the configuration differs from that of the checkpoint


@dataclass
class RuntimeConfig:
    """What it runs on."""

    device: str = _choice("auto", "auto", "Ascend", "GPU", "CPU")
    mode: str = _choice("graph", "graph", "pynative")
    threads: Optional[int] = _number(None, least=1)  # None: all cores


@dataclass
class Config:
    """Everything; one section per part."""

    run_dir: Optional[str] = None  # None: runs/<name of the configuration file>
    seed: int = _number(0, least=0, most=2**31 - 1)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


# What may differ between a run and its continuation without a word: it changes no step.
FREE_TO_CHANGE = (
    *("run_dir", "model.init_checkpoint", "data.path", "data.workers", "runtime.device", "runtime.threads"),
    *("train.resume", "train.recompute", "train.log_every", "train.save_every_steps", "train.keep_checkpoints"),
    *("train.allow_changes", "train.events"),
)

# What people type for short on the command line.
SHORTHANDS = {"resume": "train.resume", "recompute": "train.recompute"}


def load(path: Union[str, os.PathLike], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file with its bases, apply ``key=value`` overrides, check everything.

    ``configs/...`` is also found where the working folder has no such file: among the project's own.

    Raises:
        UserError: missing or unreadable file, unknown key, wrong type, value out of range; one line each.
    """
    path = shipped(path)
    values = OmegaConf.merge(_read(path, ()), _parse_overrides(overrides))
    config = from_dict(values)
    if config.run_dir is None:
        config.run_dir = os.path.join("runs", path.stem)
    return config


def for_model(name: str, overrides: Sequence[str] = ()) -> Config:
    """The defaults for one model at ImageNet's image size, for commands that need no file."""
    values = {"model": {"name": name}}
    if not name.endswith("_digits"):
        values["data"] = {"name": "imagefolder", "image_size": 224}
    return from_dict(OmegaConf.merge(values, _parse_overrides(overrides)))


def from_text(text: str, overrides: Sequence[str] = ()) -> Config:
    """A configuration that `to_yaml` wrote, such as that of a checkpoint, with ``key=value`` overrides."""
    return from_dict(OmegaConf.merge(OmegaConf.create(text), _parse_overrides(overrides)))


def from_dict(values: Union[dict, DictConfig]) -> Config:
    """A checked `Config` from plain nested values."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), values)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise UserError(f"{key}: {str(error).splitlines()[0]}") from error
    _check_ranges(config)
    return config


def dump(config: Config, path: Union[str, os.PathLike]) -> None:
    """Write the whole configuration as YAML that `load` reads back."""
    Path(path).write_text(to_yaml(config), encoding="utf-8")


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def differences(before: str, config: Config) -> list[str]:
    """What a run with ``config`` would do otherwise than one with ``before``, YAML text: ``["optim.lr: 0.1 -> 0.2"]``.

    Keys that one of the two does not have count as well.
    """
    old, new = (_flat(OmegaConf.create(text)) for text in (before, to_yaml(config)))
    keys = [key for key in {**old, **new} if key not in FREE_TO_CHANGE and old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys]


def _flat(values: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted keys."""
    found = {}
    for key, value in values.items():
        found.update(_flat(value, f"{prefix}{key}.") if isinstance(value, DictConfig) else {f"{prefix}{key}": value})
    return found


def _read(path: Path, parents: tuple[Path, ...]) -> DictConfig:
    """One YAML file merged over its bases. ``parents``: the files that led here, to notice a circle."""
    if path.resolve() in parents:
        raise UserError(f"{path}: its base leads back to itself; remove one 'base' of the circle")
    try:
        values = OmegaConf.load(path)
    except FileNotFoundError as error:
        named = f" (named as base of {parents[-1]})" if parents else ""
        raise UserError(f"configuration file {path} does not exist{named}{_suggest_config(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"configuration file {path} cannot be read: {error}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"configuration file {path} is not valid YAML: {error}") from error
    if not isinstance(values, DictConfig):
        raise UserError(f"configuration file {path} must hold 'key: value' lines, not a list or a single value")
    bases = values.pop("base", [])
    if isinstance(bases, str):
        bases = [bases]
    if bases is None or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: base must be a file name or a list of file names")
    _check_keys(values, str(path))
    chain = (*parents, path.resolve())
    return OmegaConf.merge(*[_read(path.parent / base, chain) for base in bases], values)


def _suggest_config(path: Path) -> str:
    folder = path.parent
    names = sorted(p.name for p in folder.glob("*.yaml")) if folder.is_dir() else []
    return f"; {closest(path.name, names)}" if names else ""


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """``["optim.lr=1e-3", "resume=true"]`` as nested values; later ones win."""
    full = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"argument {text!r}: give overrides as key=value, such as optim.lr=0.05")
        full.append(f"{SHORTHANDS.get(key.strip(), key.strip())}={value.strip()}")
    try:
        values = OmegaConf.from_dotlist(full)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"arguments {' '.join(full)}: {str(error).splitlines()[0]}") from error
    _check_keys(values, "command line")
    return values


def _valid_keys(schema: type, prefix: str = "") -> list[str]:
    """All dotted keys of a configuration dataclass, sections included."""
    keys = []
    for item in dataclasses.fields(schema):
        keys.append(prefix + item.name)
        section = _section(item)
        if section:
            keys += _valid_keys(section, f"{prefix}{item.name}.")
    return keys


def _section(item: dataclasses.Field) -> Optional[type]:
    made = item.default_factory() if item.default_factory is not dataclasses.MISSING else None
    return type(made) if dataclasses.is_dataclass(made) else None


def _check_keys(values: DictConfig, source: str, schema: type = Config, prefix: str = "") -> None:
    known = {item.name: _section(item) for item in dataclasses.fields(schema)}
    for key in values:
        name = f"{prefix}{key}"
        if key not in known:
            raise UserError(f"{source}: unknown key {name!r}: {_nearest(name)}")
        section = known[key]
        if section is None:
            continue
        child = values._get_node(key)  # a plain access would resolve interpolations before everything is merged
        if not isinstance(child, DictConfig) or child._is_none():
            example = _valid_keys(section, f"{name}.")[0]
            raise UserError(f"{source}: {name} is a section: give {name}.<key>, such as {example}")
        _check_keys(child, source, section, f"{name}.")


def _nearest(name: str) -> str:
    """A hint for a wrong key; the last word also counts alone, so that ``lr`` finds ``optim.lr``."""
    keys = _valid_keys(Config)
    same_leaf = [key for key in keys if key.rpartition(".")[2] == name.rpartition(".")[2]]
    near = same_leaf or difflib.get_close_matches(name, keys, n=1, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(key) for key in near) + "?"
    return "the sections are " + ", ".join(key for key in keys if "." not in key)


_SYMBOLS = {
    ">=": lambda value, bound: value >= bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    "<": lambda value, bound: value < bound,
}


def _check_ranges(section: Any, prefix: str = "") -> None:
    """Hold every field against the bounds and choices written beside it."""
    for item in dataclasses.fields(section):
        value, name = getattr(section, item.name), f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            _check_ranges(value, f"{name}.")
            continue
        choices = item.metadata.get("choices")
        if choices and value not in choices:
            raise UserError(f"{name}={value!r}: {closest(str(value), choices)}")
        bounds = {s: item.metadata[s] for s in _SYMBOLS if item.metadata.get(s) is not None}
        # "not (...)" so that nan, which compares false with everything, is refused as well
        if value is not None and not all(_SYMBOLS[s](value, bound) for s, bound in bounds.items()):
            wanted = " and ".join(f"{s} {bound}" for s, bound in bounds.items())
            raise UserError(f"{name}={value}: must be {wanted}")
    if isinstance(section, OptimConfig):
        _check_optim(section)


def _check_optim(optim: OptimConfig) -> None:
    """What one bound alone cannot say."""
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise UserError(f"optim.betas={optim.betas}: give two numbers in [0, 1), such as [0.9,0.999]")
    if optim.lr == float("inf"):
        raise UserError("optim.lr=inf: must be finite")
    if optim.min_lr > optim.lr:
        raise UserError(f"optim.min_lr={optim.min_lr}: must be <= optim.lr={optim.lr}")
    if optim.warmup_epochs > optim.epochs:
        raise UserError(f"optim.warmup_epochs={optim.warmup_epochs}: must be <= optim.epochs={optim.epochs}")
