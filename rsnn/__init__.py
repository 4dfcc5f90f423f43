"""Recurrent spiking neural networks for event-camera recordings, with pretrained checkpoints.

```python
import rsnn

model = rsnn.RSNN.from_pretrained("rsnn-nmnist-cl")
result = model.predict("sample.bin")
print(result.label, result.probabilities)
```
"""

from importlib.metadata import version as _version

from rsnn import kernels, nn
from rsnn.data import Events, iter_events, read_events, to_frames
from rsnn.energy import energy_report
from rsnn.errors import RSNNError
from rsnn.models import RSNN, SCNN, ConvLSTMClassifier, Prediction, Preprocessing
from rsnn.zoo import create_model, list_models, load

__version__ = _version("rsnn")

__all__ = [
    "RSNN",
    "SCNN",
    "ConvLSTMClassifier",
    "Events",
    "Prediction",
    "Preprocessing",
    "RSNNError",
    "create_model",
    "energy_report",
    "iter_events",
    "kernels",
    "list_models",
    "load",
    "nn",
    "read_events",
    "to_frames",
]
