"""Fine-tune a checkpoint on a folder of recordings, one folder inside it for each class.

    python examples/fine_tune_folder.py rsnn-nmnist-cl my_recordings/ runs/mine

The same in one command: rsnn train --from rsnn-nmnist-cl --data my_recordings/
"""

import sys

from rich.console import Console

import rsnn
from rsnn.training import load_recipe, train
from rsnn.training.display import ConsoleDisplay

start, folder, output = sys.argv[1:4]
recipe = load_recipe("fine-tune", [f"start={start}", *sys.argv[4:]])
metrics = train(recipe, folder, output, display=ConsoleDisplay(Console()))
print(f"validation {metrics['selected_accuracy']:.1%}, last epoch {metrics['last_accuracy']:.1%}")
model = rsnn.load(f"{output}/model" if output.startswith(("/", "./", "../")) else f"./{output}/model")
print("classes:", ", ".join(model.class_names))
