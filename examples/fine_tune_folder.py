"""Fine-tune a checkpoint on a folder of recordings, one folder inside it for each class.

    python examples/fine_tune_folder.py rsnn-nmnist-cl my_recordings/ runs/mine

The same in one command: rsnn train --from rsnn-nmnist-cl --data my_recordings/
"""

import argparse

from rich.console import Console

import rsnn
from rsnn.training import load_recipe, train
from rsnn.training.display import ConsoleDisplay

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("start", help="the checkpoint")
parser.add_argument("folder", help="of the recordings")
parser.add_argument("output", help="folder of the training")
parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="of the recipe, as optimizer.lr=1e-3")
arguments = parser.parse_args()
output = arguments.output
recipe = load_recipe("fine-tune", [f"start={arguments.start}", *arguments.settings])
metrics = train(recipe, arguments.folder, output, display=ConsoleDisplay(Console()))
print(f"validation {metrics['selected_accuracy']:.1%}, last epoch {metrics['last_accuracy']:.1%}")
model = rsnn.load(f"{output}/model" if output.startswith(("/", "./", "../")) else f"./{output}/model")
print("classes:", ", ".join(model.class_names))
