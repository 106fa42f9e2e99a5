"""What the kernels of an Ascend compute, in NumPy.

The meanings are those that CANN documents (the header of each aclnn function, the prototypes of its operators); inputs
are read in their number format, sums are taken in float64, results are rounded to the format of the output.
"""

from acmix_ms.deploy.ascend.meanings import elementwise, matrix, moving, norms, sums  # noqa: F401  they register
from acmix_ms.deploy.ascend.meanings.registry import NoMeaningError, call, compute, view

__all__ = ["NoMeaningError", "call", "compute", "view"]
