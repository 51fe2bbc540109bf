"""How PyTorch's operators behave on CUDA: what they launch, and which of them make the host wait."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten

VIEWS = frozenset(
    (
        "view",
        "_unsafe_view",
        "expand",
        "slice",
        "select",
        "transpose",
        "t",
        "permute",
        "unsqueeze",
        "squeeze",
        "split",
        "split_with_sizes",
        "unbind",
        "as_strided",
        "alias",
        "detach",
        "diagonal",
        "unfold",
        "chunk",
        "narrow",
        "movedim",
        "_reshape_alias",
        "view_as_real",
        "lift_fresh",
        "reshape",
        "unsafe_split",
        "unsafe_split_with_sizes",
        "swapaxes",
        "unsqueeze_",
        "squeeze_",
        "t_",
        "transpose_",
        "as_strided_",
        "swapaxes_",
    )
)
RESHAPED_IN_PLACE = frozenset(name for name in VIEWS if name.endswith("_"))
ALLOCATIONS = frozenset(
    (
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "sym_size",
        "is_same_size",
        "set_",
        "is_pinned",
        "resize_",
        "_has_compatible_shallow_copy_type",
    )
)
READS = frozenset(("_local_scalar_dense", "equal", "is_nonzero"))
"""They return a value to the host."""
SHAPED_BY_VALUES = frozenset(
    (
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "repeat_interleave",
        "bincount",
        "histc",
    )
)
"""The host waits for the size of the result, or for a bound."""
SOLVERS = frozenset(
    ("_linalg_svd", "_linalg_eigh", "linalg_qr", "linalg_inv_ex", "_linalg_solve_ex", "linalg_cholesky_ex")
)
"""The host waits for the solver's status."""
INDEXING = frozenset(("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"))

_KERNELS = {
    # From ATen's sources; all others launch one.
    "native_batch_norm": 3,
    "cudnn_batch_norm": 3,  # as the native one, so that counts do not depend on PyTorch's build
    "native_batch_norm_backward": 2,
    "cudnn_batch_norm_backward": 2,
    "constant_pad_nd": 2,
    "topk": 12,
    "sort": 4,
    "argsort": 4,
    "isfinite": 4,
    "masked_fill": 2,
    "scatter_add": 2,
    "index_put": 2,
    "logsumexp": 6,
    "select_backward": 2,
    "slice_backward": 2,
}
_TENSORS_IN_A_KERNEL = (110, 64, 48, 36, 30)
"""How many tensors a kernel of a `_foreach` or `_fused` operator takes, by the number of lists of them."""


def count_kernels(name: str, args: tuple[Any, ...]) -> int:
    """The kernels of an operator in eager mode.

    Args:
        name: Its name, without its namespace and overload.
        args: Its arguments.
    """
    if name in VIEWS or name in ALLOCATIONS or name in READS or name == "_pin_memory":
        return 0
    if name.startswith(("_foreach_", "_fused_")):
        lists = [each for each in args if isinstance(each, (list, tuple)) and each and isinstance(each[0], Tensor)]
        depth = len(lists) + (not name.endswith("_"))
        return -(-len(lists[0]) // _TENSORS_IN_A_KERNEL[min(depth, 5) - 1]) if lists else 1
    if name == "convolution":
        return 1 if args[2] is None else 2  # cuDNN's result, then the bias
    if name == "convolution_backward":
        return sum(bool(wanted) for wanted in args[-1])
    return _KERNELS.get(name) or _KERNELS.get(name.rstrip("_"), 1)


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested arguments."""
    return [each for each in tree_flatten(values)[0] if isinstance(each, Tensor)]
