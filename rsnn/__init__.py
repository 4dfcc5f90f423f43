"""Recurrent spiking neural networks for event-camera recordings, with pretrained checkpoints.

```python
import rsnn

model = rsnn.RSNN.from_pretrained("rsnn-nmnist-cl")
result = model.predict("sample.bin")
print(result.label, result.probabilities)
```
"""

from rsnn import interrupts as _interrupts  # noqa: F401 - before PyTorch, whose import takes long

# isort: split
import typing as _typing
from importlib.metadata import version as _version

from rsnn import kernels, nn
from rsnn.data import Events, iter_events, read_events, to_frames
from rsnn.energy import energy_report
from rsnn.errors import RSNNError
from rsnn.lazy import later as _later
from rsnn.models import RSNN, SCNN, ConvLSTMClassifier, Prediction, Preprocessing
from rsnn.zoo import create_model, list_models, load

if _typing.TYPE_CHECKING:
    from rsnn import bench as bench
    from rsnn import data as data
    from rsnn import energy as energy
    from rsnn import errors as errors
    from rsnn import evaluation as evaluation
    from rsnn import export as export
    from rsnn import hub as hub
    from rsnn import models as models
    from rsnn import plots as plots
    from rsnn import streaming as streaming
    from rsnn import training as training
    from rsnn import zoo as zoo
else:
    __getattr__, __dir__ = _later(__name__, "bench", "evaluation", "export", "plots", "training")

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
