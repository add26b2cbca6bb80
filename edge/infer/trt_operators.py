"""Which ONNX operators TensorRT's parser takes, and in which types: as its authors publish it.

From docs/operators.md of onnx/onnx-tensorrt for TensorRT 10.15 (opsets 9 to 24). Operators listed as
unsupported are left out. Restrictions are those of operators that edge's networks use;
tests/infer/test_operators.py holds every network that edge can learn to both.
"""

from __future__ import annotations

from collections.abc import Mapping

SOURCE = "onnx/onnx-tensorrt, docs/operators.md, TensorRT 10.15"
OPSETS = range(9, 25)

_FLOATS = ("FP32", "FP16", "BF16")
_INTS = ("INT32", "INT64")

_BY_TYPES: Mapping[tuple[str, ...], str] = {
    _FLOATS: """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos
        Cosh CumSum Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
        GroupNormalization GRU HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization IsInf
        LayerNormalization LeakyRelu Log LogSoftmax LRN LSTM LpNormalization LpPool MatMul MaxPool
        MeanVarianceNormalization ParametricSoftplus PRelu QuantizeLinear RandomNormal RandomNormalLike
        RandomUniform RandomUniformLike Reciprocal Resize RMSNormalization RNN RotaryEmbedding Round
        ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
    """,
    (*_FLOATS, *_INTS): """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Min Mod
        Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
        ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth
        Sub Sum TopK
    """,
    (*_FLOATS, *_INTS, "BOOL"): """
        Concat Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop OneHot Reshape
        ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
    """,
    (*_FLOATS, *_INTS, "UINT8", "BOOL"): "Cast CastLike",
    (*_FLOATS, "FP8", "FP4", "INT4", *_INTS, "BOOL"): "Constant ConstantOfShape",
    (*_FLOATS, "FP8", *_INTS): "Mean",
    (*_FLOATS, "INT8", "FP8"): "Attention",
    (*_FLOATS, "INT8", *_INTS): "Gelu",
    (*_FLOATS, "INT32"): "TensorScatter",
    ("FP32", "FP16"): """
        BlackmanWindow DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression NonZero RoiAlign
    """,
    ("FP32",): "STFT",
    ("INT8", "FP8", "FP4", "INT4"): "DequantizeLinear",
    ("BOOL",): "And Not Or Xor",
}

SUPPORTED: Mapping[str, frozenset[str]] = {
    operator: frozenset(types) for types, operators in _BY_TYPES.items() for operator in operators.split()
}
"""Operator → types of its (first) input."""

NO_DILATIONS = frozenset({"AveragePool", "MaxPool", "LpPool"})
RESIZE_TRANSFORMATIONS = frozenset(
    {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"}
)
RESIZE_MODES = frozenset({"nearest", "linear"})
RESIZE_ROUNDINGS = frozenset({"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"})
AXES_STORED = frozenset(operator for operator in SUPPORTED if operator.startswith("Reduce"))
ZERO_POINT_ZERO = frozenset({"QuantizeLinear", "DequantizeLinear"})
