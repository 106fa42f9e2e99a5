"""What runs in the Python of MindSpore Lite: ``python lite_worker.py REQUEST.json``, started by `acmix_ms.deploy.lite`.

Standard library, numpy and mindspore_lite only, and valid for Python 3.7, the only one that PyPI has Lite for. The
answer is written to the file that the request names; stdout and stderr are full of Lite's own notes.
"""

import ctypes
import json
import os
import sys
import time

# The wheel 2.0.0 holds two runtimes that export the same names. The converter calibrates with the one in its own
# library, but gets the first that was loaded, which cannot read what it is given ("Failed to load MindIR model").
CONVERTER_FIRST = (
    "libmindspore_glog.so.0",
    "libmindspore_core.so",
    "libopencv_core.so.4.5",
    "libopencv_imgproc.so.4.5",
    "libopencv_imgcodecs.so.4.5",
    "libmslite_converter_plugin.so",
    "libmindspore_converter.so",
)


def version(request):
    """Which Lite this is."""
    import mindspore_lite as lite

    return {"version": lite.__version__}


def convert(request):
    """One file into a .ms; the converter appends the suffix itself."""
    if request.get("calibrates"):
        load_converter_first()
    import mindspore_lite as lite

    converter = lite.Converter()
    converter.save_type = lite.ModelType.MINDIR_LITE
    converter.input_format = lite.Format.NCHW
    converter.optimize = "general"
    converter.weight_fp16 = request["fp16"]
    if request["input_shape"]:
        converter.input_shape = request["input_shape"]
    kind = {"onnx": lite.FmkType.ONNX, "mindir": lite.FmkType.MINDIR}[request["kind"]]
    converter.convert(kind, request["source"], request["output"], config_file=request["config"])
    return {}


def load_converter_first():
    """Let the converter's library find its own runtime; see CONVERTER_FIRST. Other releases have other files."""
    import importlib.util

    package = importlib.util.find_spec("mindspore_lite").submodule_search_locations[0]
    paths = [os.path.join(package, "lib", name) for name in CONVERTER_FIRST]
    if all(os.path.isfile(path) for path in paths):
        for path in paths:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def shape(request):
    """What a file takes, -1 where any size will do."""
    return {"shape": own_shape(load(request))}


def run(request):
    """Outputs for all batches of a file of arrays; with ``repeats`` the last batch again and again, on the clock."""
    import numpy as np

    with np.load(request["inputs"]) as arrays:
        batches = [arrays[str(number)] for number in range(len(arrays.files))]
    outputs, names, model, size = [], [], None, None
    for batch in batches:
        # A second resize gives wrong values without a word (2.0.0: from an odd batch to an even one), so each new
        # size gets a model of its own.
        if model is None or size != batch.shape:
            model, size = load(request), batch.shape
            own = fit(model, batch.shape)
        names, values = in_own_batches(model, own, batch)
        outputs.append(values)
    named = {f"{i}.{j}": value for i, values in enumerate(outputs) for j, value in enumerate(values)}
    np.savez(request["outputs"], **named)
    seconds = []
    for _ in range(request["repeats"]):
        start = time.perf_counter()
        predict(model, batches[-1])
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "names": names}


def load(request):
    """The model of a file, on the CPU."""
    import mindspore_lite as lite

    context = lite.Context()
    context.target = ["cpu"]
    context.cpu.thread_num = request["threads"]
    model = lite.Model()
    model.build_from_file(request["model"], lite.ModelType.MINDIR_LITE, context)
    if len(model.get_inputs()) != 1:
        raise RuntimeError(f"it takes {len(model.get_inputs())} inputs, not one batch of images")
    return model


def own_shape(model):
    """(B, C, H, W) of its input."""
    return [int(size) for size in model.get_inputs()[0].shape]


def fit(model, shape):
    """Resize a model that leaves sizes open; the batch that it takes then."""
    own = own_shape(model)
    if len(own) != len(shape) or any(size not in (-1, given) for size, given in zip(own[1:], shape[1:])):
        raise RuntimeError(f"it takes {own}, given was {list(shape)}")
    batch = shape[0] if own[0] == -1 else own[0]
    if -1 in own:
        model.resize(model.get_inputs(), [[batch, *shape[1:]]])
    return batch


def in_own_batches(model, size, batch):
    """(names, values) of the outputs for a batch of any size. A model of a fixed size gets its own size, the last batch
    filled up: Lite would resize it too, but then reshapes that hold the size give wrong values without a word.
    """
    import numpy as np

    outputs, names = [], []
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        full = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        names, values = predict(model, full)
        outputs.append([value[: len(part)] for value in values])
    return names, [np.concatenate(values) for values in zip(*outputs)]


def predict(model, batch):
    """(names, values) of all outputs of one run."""
    inputs = model.get_inputs()
    inputs[0].set_data_from_numpy(batch)
    outputs = model.predict(inputs)
    return [output.name for output in outputs], [output.get_data_to_numpy().copy() for output in outputs]


JOBS = {"version": version, "convert": convert, "shape": shape, "run": run}


def main():
    """Answer one request: {"answer": ...} or {"error": ...}."""
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    try:
        answer = {"answer": JOBS[request["job"]](request)}
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        answer = {"error": str(error)}
    with open(request["reply"], "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os._exit(0)  # Lite 2.0.0 may crash while it cleans up


if __name__ == "__main__":
    main()
