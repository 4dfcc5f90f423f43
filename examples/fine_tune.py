"""Fine-tune `rsnn-nmnist-cl` on five new classes: here the digits 5 to 9 of an N-MNIST archive, 20 recordings each.

    python examples/fine_tune.py nmnist_1000.npz

With recordings of your own, make `training` and `validation` lists of (Events, class index) in any way you like.
"""

from __future__ import annotations

import argparse
import random

import torch
from torch.nn import functional as F

import rsnn
from rsnn.data import EventArchive
from rsnn.evaluation import evaluate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("archive")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--output", default="./my-digits")
arguments = parser.parse_args()
random.seed(0)
torch.manual_seed(0)

# 20 recordings of each new class train; the archive's last 200 (which the checkpoint never trained on) validate.
archive = EventArchive(arguments.archive, sensor_size=(34, 34))
samples = [(events, int(label) - 5) for events, label in zip(archive, archive.labels, strict=True)]
validation = [(events, label) for events, label in samples[-200:] if label >= 0]
training = [sample for c in range(5) for sample in [s for s in samples[:-200] if s[1] == c][:20]]

model = rsnn.RSNN.from_pretrained("rsnn-nmnist-cl")
model.reset_classifier(5, ("five", "six", "seven", "eight", "nine"))  # the last layer is new, the rest is trained
model.freeze("encoder")
optimizer = torch.optim.AdamW(model.parameter_groups(weight_decay=0.01, classifier_lr=2e-3))
print(f"before: {evaluate(model, validation).accuracy:.1%} of {len(validation)}")
for epoch in range(1, arguments.epochs + 1):
    model.train()
    random.shuffle(training)
    for i in range(0, len(training), 10):
        events, labels = zip(*training[i : i + 10], strict=True)
        frames = torch.stack([model.preprocessing.frames(e) for e in events], dim=1)
        loss = F.cross_entropy(model(frames), torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: {evaluate(model, validation).accuracy:.1%} of {len(validation)}")

model.eval().save_pretrained(arguments.output)
saved = arguments.output if arguments.output.startswith(("/", ".")) else f"./{arguments.output}"
print(f"saved: rsnn predict {saved} RECORDING...")
