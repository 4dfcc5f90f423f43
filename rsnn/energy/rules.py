# ruff: noqa: SIM905  (tables read better than lists of quoted names)
"""Which tensor operations cost what: the tables behind docs/energy.md, by the names of torch's own operations."""

from __future__ import annotations

# An operation is a row of one of these tables or it is reported as not counted.

# Moving, selecting, comparing, clearing the sign: no arithmetic worth counting beside a multiplication.
_MOVES = """
    view _unsafe_view reshape _reshape_alias as_strided expand permute transpose t unsqueeze squeeze slice select split
    split_with_sizes unbind chunk detach alias clone contiguous _to_copy copy copy_ cat stack index index_select
    gather flip roll repeat unfold constant_pad_nd max_pool2d_with_indices max_pool3d_with_indices
    unsafe_split unsafe_chunk narrow movedim masked_select upsample_nearest2d lift_fresh slice_scatter select_scatter
    embedding diagonal resize_ set_ max_pool2d adaptive_max_pool2d view_as_real _conj im2col pixel_shuffle
    pixel_unshuffle channel_shuffle native_channel_shuffle index_put index_put_ masked_fill masked_fill_
"""
_LOGIC = (
    "logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not any all bernoulli bernoulli_"
)
_COMPARISONS = "eq ne lt le gt ge isnan isfinite heaviside sign"
_CONSTANTS = """
    zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty empty_strided
    new_empty_strided arange linspace scalar_tensor eye fill fill_ zero_ empty_permuted is_same_size
    _local_scalar_dense equal item rand rand_like randn randn_like
"""
_SELECTS = """
    relu relu_ clamp clamp_min clamp_max clamp_ clamp_min_ where abs neg max min maximum minimum amax amin argmax topk
    hardtanh sort
"""

COMPARISONS = frozenset(_COMPARISONS.split())
# What these make is new, whatever gave them a shape.
CONSTANTS = frozenset(_CONSTANTS.split())
FREE = frozenset(f"{_MOVES} {_LOGIC} {_COMPARISONS} {_CONSTANTS} {_SELECTS}".split())

# What keeps zeros and ones zeros and ones; multiplication of two such tensors is a logical and.
KEEPS_BINARY = frozenset(
    f"{_MOVES} {_LOGIC} relu relu_ clamp where abs max maximum min minimum amax amin mul mul_ heaviside".split()
)
BINARY = frozenset("bernoulli bernoulli_".split())
# Places of the arguments whose zeros and ones become the output's, where others (indices, masks) do not.
VALUES = {
    **dict.fromkeys("index index_select gather masked_select".split(), (0,)),
    **dict.fromkeys("index_put index_put_ masked_fill masked_fill_".split(), (0, 2)),
    "heaviside": (1,),  # what it makes of zeros
}
# The last of these may be a constant: one number in a tensor.
WITH_CONSTANT = frozenset("index_put index_put_ masked_fill masked_fill_ heaviside".split())
# Their numbers take part in the values.
WITH_NUMBERS = frozenset("mul mul_ clamp where masked_fill masked_fill_".split())
# Their second output is indices.
WITH_INDICES = frozenset("max min max_pool2d_with_indices max_pool3d_with_indices".split())
# These make a constant, which is binary where its value is 0 or 1.
ZEROS_AND_ONES = frozenset("zeros ones zeros_like ones_like new_zeros new_ones zero_ eye".split())
FILLS = frozenset("full full_like new_full fill fill_ scalar_tensor".split())
FILLS_IN_PLACE = frozenset("fill_ zero_".split())

# Per element of the output.
MULTIPLICATIONS = {
    **dict.fromkeys("mul mul_ div div_ square square_ reciprocal lerp lerp_".split(), 1),
    **dict.fromkeys("addcmul addcmul_ addcdiv addcdiv_".split(), 2),
}
# The term that is scaled by `alpha` is the second, but of `rsub`.
ADDITIONS = frozenset("add add_ sub sub_ rsub".split())
# They add where they are asked to `accumulate`.
ACCUMULATE = frozenset("index_put index_put_".split())
# A table of straight pieces, as hardware has them: one multiply-accumulate each.
_FUNCTIONS = """
    sigmoid tanh exp log log1p log2 sqrt rsqrt pow erf gelu silu elu softplus leaky_relu sin cos atan hardsigmoid
    hardswish expm1 log_sigmoid_forward
"""
FUNCTIONS = frozenset(f"{name}{in_place}" for name in _FUNCTIONS.split() for in_place in ("", "_"))
# Per element of the input (and window): additions; means and pooling multiply each output once more.
SUMS = frozenset("sum cumsum".split())
MEANS = frozenset("mean".split())
AVERAGE_POOLS = frozenset("avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d".split())
SOFTMAX = frozenset("_softmax _log_softmax _safe_softmax".split())
CONVOLUTIONS = frozenset("convolution _convolution".split())
NORMS = frozenset(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_batch_norm_no_update batch_norm_with_update _batch_norm_with_update miopen_batch_norm".split()
)
LAYER_NORMS = frozenset("native_layer_norm native_group_norm".split())
PRODUCTS = frozenset("mm addmm bmm baddbmm mv addmv dot".split())
ATTENTION = frozenset(
    "attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention".split()
)
# Their results are sums that a normalization folds into.
ACCUMULATED = CONVOLUTIONS | PRODUCTS
# Nothing to count and nothing to find out but what they write.
PLAIN = FREE - KEEPS_BINARY - COMPARISONS
