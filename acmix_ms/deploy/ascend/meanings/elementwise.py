"""Kernels that treat each number by itself, and those that change what they are given."""

from __future__ import annotations

import numpy as np

from acmix_ms.deploy.ascend.meanings.registry import NoMeaningError, kernel, wide


# ------------------------------------------------------------------------------------------------- one number at a time
def _erf(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return erf(wide(x))


# By the names of aclnn, and of the graph engine where that has the operator as well.
ONE = {
    ("aclnnRelu", "Relu"): lambda x: np.maximum(x, 0),
    ("aclnnNeg", "Neg"): np.negative,
    ("aclnnExp",): lambda x: np.exp(wide(x)),
    ("aclnnLog",): lambda x: np.log(wide(x)),
    ("aclnnErf", "Erf"): _erf,
    ("aclnnTanh", "Tanh"): lambda x: np.tanh(wide(x)),
    ("aclnnSigmoid", "Sigmoid"): lambda x: 1 / (1 + np.exp(-wide(x))),
    ("aclnnSqrt",): lambda x: np.sqrt(wide(x)),
    ("aclnnRsqrt",): lambda x: 1 / np.sqrt(wide(x)),
    ("aclnnReciprocal",): lambda x: 1 / x,
    ("aclnnAbs",): np.abs,
    ("aclnnLogicalNot",): np.logical_not,
    ("aclnnIsFinite",): np.isfinite,
    ("Cast", "TensorMove", "Identity"): lambda x: x,
}
TWO = {
    ("Add",): np.add,
    ("Sub",): np.subtract,
    ("aclnnMul", "aclnnMuls", "Mul"): np.multiply,
    ("aclnnDiv", "aclnnDivs", "RealDiv", "Div"): np.divide,
    ("aclnnMaximum",): np.maximum,
    ("aclnnMinimum",): np.minimum,
    ("aclnnEqTensor", "aclnnEqScalar"): np.equal,
    ("aclnnLtTensor", "aclnnLtScalar"): np.less,
    ("aclnnLeTensor", "aclnnLeScalar"): np.less_equal,
    ("aclnnGtTensor", "aclnnGtScalar"): np.greater,
    ("aclnnGeTensor",): np.greater_equal,
    ("aclnnLogicalAnd",): np.logical_and,
    ("aclnnPowTensorScalar", "aclnnPowTensorTensor"): np.power,
    ("aclnnRemainderTensorScalar",): np.mod,
}


def _elementwise() -> None:
    def one(function):
        def run(x, out, **_):
            out[...] = function(x)

        return run

    def two(function):
        def run(x, y, out, **_):
            y = np.asarray(y, x.dtype) if isinstance(y, (int, float)) and x.dtype.kind == "f" else y
            out[...] = function(x, y)

        return run

    for names, function in ONE.items():
        kernel(*names)(one(function))
    for names, function in TWO.items():
        kernel(*names)(two(function))


_elementwise()


@kernel("aclnnAdd", "aclnnAdds")
def _add(x, y, alpha, out):
    out[...] = x + np.asarray(y, x.dtype) * np.asarray(alpha, x.dtype)


@kernel("aclnnSub", "aclnnSubs")
def _sub(x, y, alpha, out):
    out[...] = x - np.asarray(y, x.dtype) * np.asarray(alpha, x.dtype)


@kernel("Addcmul")
def _addcmul(x, y, z, value, out, **_):
    out[...] = wide(x) + wide(y) * wide(z) * value


@kernel("AddN")
def _add_n(*tensors, N):
    *given, out = tensors
    out[...] = sum(map(wide, given))


@kernel("aclnnSWhere")
def _where(condition, x, y, out):
    out[...] = np.where(condition, x, y)


@kernel("aclnnGeluV2")
def _gelu(x, approximate, out):
    if approximate:
        raise NoMeaningError("aclnnGeluV2 by tanh")
    out[...] = wide(x) * 0.5 * (1 + _erf(wide(x) / np.sqrt(2)))


@kernel("aclnnGeluBackwardV2")
def _gelu_backward(gradient, x, approximate, out):
    """``approximate`` is a string here, which the record does not hold: "none", as the forward call says."""
    x = wide(x)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    out[...] = wide(gradient) * (0.5 * (1 + _erf(x / np.sqrt(2))) + x * density)


@kernel("aclnnThresholdBackward")
def _threshold_backward(gradient, x, threshold, out):
    out[...] = np.where(x > threshold, gradient, 0)


@kernel("aclnnCast")
def _cast(x, dtype, out):
    out[...] = x


@kernel("aclnnAllFinite")
def _all_finite(x, found):
    """MindSpore's own operator, which tells in spite of its name whether there is an infinity or nan."""
    found[...] = found | (not np.isfinite(x).all())


@kernel("NPUGetFloatStatusV2", "NPUClearFloatStatusV2")
def _float_status(*operands, **_):
    """The register of overflows of a 910A: nothing here saturates, so it stays empty."""
    for operand in operands[-1:]:
        operand[...] = 0


# ------------------------------------------------------------------------------------------------------------- in place
@kernel("aclnnInplaceCopy")
def _copy(target, x):
    target[...] = x


@kernel("aclnnInplaceZero")
def _zero(target):
    target[...] = 0


@kernel("aclnnInplaceOne")
def _one(target):
    target[...] = 1


@kernel("aclnnInplaceFillScalar")
def _fill(target, value):
    target[...] = value


@kernel("aclnnInplaceMaskedFillTensor")
def _masked_fill(target, mask, value):
    np.copyto(target, value, where=mask)


@kernel("Assign")
def _assign(target, x, out, **_):
    target[...] = x
    out[...] = x


@kernel("AssignAdd")
def _assign_add(target, x, out, **_):
    target[...] += x
    out[...] = target


@kernel("ApplyMomentum", "ApplyMomentumD")
def _momentum(weight, velocity, rate, gradient, momentum, *outs, use_nesterov=False, use_locking=False, **_):
    velocity[...] = wide(velocity) * momentum + gradient
    step = wide(gradient) + wide(velocity) * momentum if use_nesterov else wide(velocity)
    weight[...] = wide(weight) - step * rate
    for out, value in zip(outs, (weight, velocity)):
        out[...] = value


@kernel("AdamApplyOneWithDecayAssign", "AdamApplyOneWithDecay")
def _adam_with_decay(gradient, second, first, weight, rate, keep1, new1, keep2, new2, decay, epsilon, *outs, **_):
    """CANN names its inputs (input0.., mul0_x.., add2_y) but does not say what it computes; this is the subgraph that
    MindSpore's pass of the same name puts it in the place of.
    """
    found = wide(first) * keep1 + wide(gradient) * new1
    squares = wide(second) * keep2 + wide(gradient) ** 2 * new2
    stepped = wide(weight) - (found / (np.sqrt(squares) + epsilon) + wide(weight) * decay) * rate
    for out, value in zip(outs, (squares, found, stepped)):
        out[...] = value
