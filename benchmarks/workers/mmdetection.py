"""The process that measures mmdetection's own RetinaNet for scripts/benchmark.py, in PyTorch without its compiler.

It loads neither MindSpore nor our package. Its Python needs ``mmdet`` 3, ``mmengine`` and ``mmcv-lite``: the operators
that only a built mmcv has stand behind the maps, and are not reached.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types

import numpy as np
import torch
from official import as_if_trained
from serve import Job, Refusal, forget_peak, serve, use_cores

# RetinaNet of mmdetection's configs/retinanet/retinanet_r50_fpn_1x_coco.py.
HEAD = {
    "anchor_generator": {"type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 3,
                         "ratios": [0.5, 1.0, 2.0], "strides": [8, 16, 32, 64, 128]},
    "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
    "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
    "loss_bbox": {"type": "L1Loss"},
}  # fmt: skip
RESNET50 = {"type": "ResNet", "depth": 50, "num_stages": 4, "out_indices": (0, 1, 2, 3), "norm_eval": True}
NETS = {
    "retinanet_resnet50": {
        "type": "RetinaNet",
        "backbone": RESNET50,
        "neck": {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256, "start_level": 1,
                 "add_extra_convs": "on_input", "num_outs": 5},
        "bbox_head": {"type": "RetinaHead", "num_classes": 80, "in_channels": 256, "stacked_convs": 4,
                      "feat_channels": 256, **HEAD},
    }
}  # fmt: skip


class Unbuilt(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules below ``mmcv.ops``, whose every name is a class that does nothing."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "mmcv.ops" or fullname.startswith("mmcv.ops."):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = self.any_name
        return module

    def exec_module(self, module):
        pass

    @staticmethod
    def any_name(name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


class MMDetection(Job):
    """One of its nets."""

    def build(self, *, threads, model, form, inputs, load=None, save=None, **unused) -> dict:
        """Net, weights (.npz) and step: all maps of the batch."""
        if model not in NETS or form != "infer":
            raise Refusal(f"of mmdetection only {', '.join(NETS)} is measured, in inference")
        sys.meta_path.insert(0, Unbuilt())
        try:
            import mmdet
            import mmdet.models  # noqa: F401
            from mmdet.registry import MODELS
            from mmengine.registry import DefaultScope
        except ImportError as error:
            raise Refusal(f"mmdetection cannot be imported: {error}; pip install mmdet mmengine mmcv-lite") from error
        self.imported()
        use_cores(threads)
        torch.set_num_threads(threads)
        with np.load(inputs) as arrays:
            images = torch.from_numpy(arrays["images"])
        torch.manual_seed(0)
        DefaultScope.get_instance("benchmark", scope_name="mmdet")
        net = MODELS.build({"data_preprocessor": {"type": "DetDataPreprocessor"}, **NETS[model]})
        if load:
            with np.load(load) as arrays:
                net.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        else:
            as_if_trained(net)
        if save:
            np.savez(save, **{name: value.numpy() for name, value in net.state_dict().items()})
        net.eval()

        def step() -> list[np.ndarray]:
            with torch.inference_mode():
                return [maps.numpy() for levels in net(images, mode="tensor") for maps in levels]

        self.step = step
        forget_peak()
        return {"device": "CPU", "versions": {"PyTorch": torch.__version__, "mmdetection": mmdet.__version__}}

    def output(self, path: str) -> dict:
        """All maps, one after the other."""
        np.save(path, np.concatenate([maps.reshape(-1) for maps in self.step()]))
        return {"kind": "maps"}


if __name__ == "__main__":
    serve(MMDetection())
