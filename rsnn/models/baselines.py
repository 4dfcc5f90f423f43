"""The published spiking networks that RSNN is compared with."""

from __future__ import annotations

from rsnn.models.base import EventClassifier
from rsnn.models.config import register_model


@register_model
class SLAYER(EventClassifier):
    """SLAYER's network for DVS128 Gesture: spike response neurons (Shrestha & Orchard, NeurIPS 2018).

    4a - 16C5 - 2a - 32C3 - 2a - 512 - K: aggregation (`SP` in [`SpikingNetwork`][rsnn.nn.SpikingNetwork]) by 4 and 2,
    convolutions and fully connected layers, all without biases. Layers as the first author gives them for the paper's
    8-layer network (the input counts); padding, weights of the aggregation, constants and initial weights as in the
    authors' slayerPytorch.

    Read differently, because here time is some 20 slices and not 1,450 milliseconds:

    - Inputs are the counts of a slice (theirs: whether any event came in a millisecond).
    - Time constants are one step each (theirs: 10 ms and 1 ms, both far below a slice).
    - Axonal delays, learned in theirs, are left out: they too are below a slice.
    - The threshold is 1 (theirs: 10), which is the same network in other units.
    - Initial weights are ten times PyTorch's. In these units theirs are ten times in convolutions and once in fully
      connected layers, where their longer response gathers ten times as much; with once, no output fires here.
    - Class scores are rates, to which a softmax is applied (theirs: wanted numbers of spikes, 180 and 30).

    `slayer-nmnist` is the network of the authors' example for N-MNIST, 16C5 - 2a - 32C3 - 2a - 64C3 - 10, its first
    convolution padded to keep the size (theirs: 32 x 32 of 34 x 34); `slayer-sign` is the gesture network.

    See [`SRM`][rsnn.nn.SRM] for the neurons' equations and their readings.

    Args:
        encoder: a [`FramePool`][rsnn.nn.FramePool], or any module from frames to features.
        classifier: a [`SpikingNetwork`][rsnn.nn.SpikingNetwork] of [`SRM`][rsnn.nn.SRM] neurons, or any module from
            features (T, N, C, H, W) to logits (N, K).
        class_names: names of the K classes, in order.
        preprocessing: how recordings become frames; without it only frames can be classified.
        logit_scale: rates times this are the logits.

    Raises:
        InputError: the parts do not fit each other.

    """


@register_model
class STBP(EventClassifier):
    """Spiking networks trained by spatio-temporal backpropagation: iterative LIF neurons, rectangular surrogate.

    Seven networks of the zoo are of this class; three of them first.

    `cnnsnn-gesture`, the CNN-based SNN of He et al. 2020 ("Comparing SNNs and RNNs on neuromorphic vision datasets"):
    MP4 - 64C3 - 128C3 - AP2 - 128C3 - AP2 - 256FC - K, as they print it; 2,322,891 parameters, which is their code's
    count too. From their code: biases, pooling followed by neurons of its own, decay 0.3, threshold 0.3, surrogate of
    width 0.5, dropout 0.5, one output neuron a class. Dropout is the same at every step and off in evaluation (theirs:
    drawn anew each step, and on in tests as well).

    `stbp-gesture`, the other gesture network of the same source, without convolutions: MP4 - 512FC - K, with the same
    neurons and no dropout. The table this library follows lists "STBP" and "CNN-based SNN" from one source and does
    not say which networks it means; these are the two that the source trains on gestures.

    `stbp-cifar10dvs`, Wu et al. 2019 ("Direct training for spiking neural networks: faster, larger, better") for
    CIFAR10-DVS: MP3 - 128C3 - 128C3 - AP2 - 128C3 - AP2 - 256C3 - AP2 - 1024FC - 10 K, [`NeuNorm`][rsnn.nn.NeuNorm]
    after every convolution, voting. The source has no public code, so: layers as in later re-implementations;
    constants, biases and pooling neurons as He et al.'s, who share authors with it; MP3 for the way from 128 x 128 to
    42 x 42; ten votes a class, as everywhere in this library; NeuNorm's decay 0.9; initial weights twice PyTorch's.

    `stbp-nmnist` is He et al.'s for N-MNIST, without convolutions or pooling: 512FC - K. They have no CNN for it:
    `cnnsnn-nmnist` is the gesture one with MP2 in place of MP4. `stbp-sign` and `cnnsnn-sign` are the gesture networks.

    In all of them the inputs are counts, max-pooled (theirs: whether any event came), a potential that just meets the
    threshold fires (theirs: one above it), and a softmax is applied to rates (theirs: squared error between rates and
    one-hot labels).

    Args:
        encoder: a [`FramePool`][rsnn.nn.FramePool], or any module from frames to features.
        classifier: a [`SpikingNetwork`][rsnn.nn.SpikingNetwork] of [`LIF`][rsnn.nn.LIF] neurons, or any module from
            features (T, N, C, H, W) to logits (N, K).
        class_names: names of the K classes, in order.
        preprocessing: how recordings become frames; without it only frames can be classified.
        logit_scale: rates times this are the logits.

    Raises:
        InputError: the parts do not fit each other.

    """
