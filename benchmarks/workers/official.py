"""The process that measures the authors' PyTorch code for scripts/benchmark.py, from the user's own clone of it.

It loads neither MindSpore nor our package, and runs under any Python that has PyTorch and NumPy.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch
from serve import Job, Refusal, forget_peak, serve, use_cores

LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.05  # of AdamW; our side has the same
# Which parameters our trainer leaves without decay, beside vectors.
NO_DECAY = ("rate1", "rate2", "relative_position_bias_table")

# Stochastic depth is off on both sides: a step is then the same computation, and losses can be compared.
RESNET = ("ResNet", "ResNet_ImageNet", "ACmix_ResNet")
SWIN = ("Swin-Transformer/models", "swin_transformer_acmix", "SwinTransformer_acmix")
NETS = {
    "acmix_resnet26": (*RESNET, {"layers": [1, 2, 4, 1]}),
    "acmix_resnet38": (*RESNET, {"layers": [2, 3, 5, 2]}),
    "acmix_resnet50": (*RESNET, {"layers": [3, 4, 6, 3]}),
    "acmix_swin_tiny": (*SWIN, {"depths": [2, 2, 6, 2], "drop_path_rate": 0.0}),
    "acmix_swin_small": (*SWIN, {"depths": [2, 2, 18, 2], "drop_path_rate": 0.0}),
}


class DropPath(torch.nn.Module):
    """Stochastic depth: whole samples of a residual branch become zero."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        """(B, ...) -> (B, ...)."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * torch.bernoulli(x.new_full((x.shape[0],) + (1,) * (x.dim() - 1), keep)) / keep


def stand_in(name: str, **contents) -> None:
    """A module with ``contents`` under ``name``, unless the real one can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        parts = name.split(".")
        for end in range(1, len(parts)):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        module = types.ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module


def official_net(clone: str, model: str, image_size: int) -> torch.nn.Module:
    """The net as the authors' own files build it."""
    folder, file, name, arguments = NETS[model]
    stand_in("torchvision.models.utils", load_state_dict_from_url=None)
    stand_in(
        "timm.models.layers",
        DropPath=DropPath,
        to_2tuple=lambda value: value if isinstance(value, tuple) else (value, value),
        trunc_normal_=torch.nn.init.trunc_normal_,
    )
    sys.path.insert(0, str(Path(clone) / folder))
    builder = getattr(importlib.import_module(file), name)
    if folder != RESNET[0]:
        arguments = {**arguments, "img_size": image_size}
    torch.manual_seed(0)
    return builder(**arguments)


def as_if_trained(net: torch.nn.Module) -> None:
    """Weights that keep the size of their input, and batch norms with statistics other than 0 and 1.

    The authors' initial values are made for batch statistics: with the running ones activations explode, the softmax
    becomes a maximum, and two correct implementations differ. Nets without batch norms stay as they are.
    """
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if not norms:
        return
    with torch.no_grad():
        for value in net.parameters():
            if value.dim() > 1:
                value.normal_(0, value[0].numel() ** -0.5)
        for norm in norms:
            for value in (norm.weight, norm.bias, norm.running_mean):
                value.add_(0.1 * torch.randn_like(value))
            norm.running_var.mul_(1 + 0.1 * torch.rand_like(norm.running_var))


class Official(Job):
    """One official net, eager or compiled."""

    def build(self, *, clone, threads, source, model, form, image_size, inputs, load=None, save=None, **unused) -> dict:
        """Net, weights and step; ``source`` is ``"official"`` or ``"compiled"``, weights are .npz."""
        self.imported()
        use_cores(threads)
        torch.set_num_threads(threads)
        with np.load(inputs) as arrays:
            self.images = torch.from_numpy(arrays["images"])
            self.labels = torch.from_numpy(arrays["labels"].astype(np.int64))
        try:
            net = official_net(clone, model, image_size)
        except (ImportError, AttributeError) as error:
            raise Refusal(f"{clone} does not have the official code of {model}: {error}") from error
        if load:
            with np.load(load) as arrays:
                net.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        else:
            as_if_trained(net)
        if save:
            np.savez(save, **{name: value.numpy() for name, value in net.state_dict().items()})
        self.train_step(net, source) if form == "train" else self.inference(net, source)
        forget_peak()
        return {"device": "CPU", "versions": {"PyTorch": torch.__version__}}

    def inference(self, net: torch.nn.Module, source: str) -> None:
        """``self.step`` gives logits (B, classes)."""
        net.eval()
        forward = torch.compile(net) if source == "compiled" else net

        def step() -> np.ndarray:
            with torch.inference_mode():
                return forward(self.images).numpy()

        self.step, self.training = step, False

    def train_step(self, net: torch.nn.Module, source: str) -> None:
        """``self.step`` gives the loss: forward, backward, AdamW with the groups that our trainer makes."""
        net.train()
        forward = torch.compile(net) if source == "compiled" else net
        decayed, others = [], []
        for name, value in net.named_parameters():
            plain = value.dim() > 1 and name.rpartition(".")[2] not in NO_DECAY
            (decayed if plain else others).append(value)
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)

        def step() -> float:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(forward(self.images), self.labels)
            loss.backward()
            optimizer.step()
            return loss.item()

        self.step, self.training = step, True

    def output(self, path: str) -> dict:
        """Logits, or the losses of two steps; in training it must come before any other step."""
        np.save(path, np.asarray([self.step() for _ in range(2)] if self.training else self.step(), np.float32))
        return {}


if __name__ == "__main__":
    serve(Official())
