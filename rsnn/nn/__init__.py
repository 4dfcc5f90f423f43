"""Building blocks: recurrent encoders, decision heads, spiking neurons and networks, all with explicit state.

Every block works on time-first tensors (T, N, C, H, W) and follows `output, state = block(input, state=None)`, as
`torch.nn.LSTM` does: nothing is kept inside a module between calls, so there is nothing to reset.
"""

from rsnn.nn.attention import ConvLSTMAttention
from rsnn.nn.convlstm import ConvLSTM, ConvLSTMState
from rsnn.nn.encoder import ConvLSTMEncoder, FramePool
from rsnn.nn.heads import (
    ConcatFrames,
    ConvClassifier,
    DecisionHead,
    LastFrame,
    LSTMHead,
    MeanFrames,
    SumFrames,
)
from rsnn.nn.lif import LIF
from rsnn.nn.neunorm import NeuNorm
from rsnn.nn.scnn import SCNN
from rsnn.nn.spiking_network import SpikingNetwork
from rsnn.nn.srm import SRM
from rsnn.nn.voting import Voting

__all__ = [
    "LIF",
    "SCNN",
    "SRM",
    "ConcatFrames",
    "ConvClassifier",
    "ConvLSTM",
    "ConvLSTMAttention",
    "ConvLSTMEncoder",
    "ConvLSTMState",
    "DecisionHead",
    "FramePool",
    "LSTMHead",
    "LastFrame",
    "MeanFrames",
    "NeuNorm",
    "SpikingNetwork",
    "SumFrames",
    "Voting",
]
