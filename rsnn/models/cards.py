"""Model cards: the README.md of a checkpoint, made from its config and from what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PAPER = """@inproceedings{rsnn2024,
  title = {{RSNN}: Recurrent Spiking Neural Networks for Dynamic Spatial-Temporal Information Processing},
  booktitle = {Proceedings of the 32nd ACM International Conference on Multimedia},
  year = {2024}
}"""


@dataclass(frozen=True)
class Facts:
    """What a card says that its author knows and no program can measure.

    Attributes:
        name: the checkpoint's full name in the zoo, as in `"rsnn-nmnist-cl.1000"`.
        data: what it was trained on, in a sentence or two.
        dataset: the data set's short name.
        split: which recordings trained, which validated, which tested.
        evaluated_on: what the accuracy is of, in a few words, as in `"validation part"`.
        selected_accuracies: of each training run, with seeds 0, 1, ..., for the epoch that validation selected.
        last_accuracies: of each training run, for the last epoch.
        reproduce: the commands that train it and that print its figures.
        limits: what it cannot do, or was not tried on.
        licence: of the weights, as an SPDX identifier.

    """

    name: str
    data: str
    dataset: str
    split: str
    evaluated_on: str
    selected_accuracies: tuple[float, ...]
    last_accuracies: tuple[float, ...]
    reproduce: str
    limits: str
    licence: str


def plain_card(config: dict[str, Any]) -> str:
    """Return the card of a checkpoint of which nothing has been measured: what it is and how to load it."""
    model = config["model"]
    return _joined(
        _front_matter({"tags": ["event-camera", "spiking-neural-network"]}),
        f"# {model['type']} saved with rsnn {config['library_version']}",
        _usage("./this-folder", model["type"]),
        _preprocessing(model),
        "No evaluation came with this checkpoint.",
    )


def published_card(
    config: dict[str, Any], facts: Facts, evaluation: dict[str, Any], energy: dict[str, Any] | None = None
) -> str:
    """Return the card of a checkpoint with its measured figures.

    Args:
        config: the checkpoint's `config.json`.
        facts: what its author says.
        evaluation: `rsnn.evaluation.Evaluation.to_dict()` of the checkpoint.
        energy: `to_dict()` of its `rsnn.energy_report`.

    """
    model = config["model"]
    low, high = evaluation["interval_95"]
    return _joined(
        _front_matter(
            {
                "license": facts.licence.lower(),
                "pipeline_tag": "video-classification",
                "tags": ["event-camera", "spiking-neural-network", "neuromorphic", "convlstm"],
                "datasets": [facts.dataset],
                "metrics": ["accuracy"],
            },
            facts,
            evaluation["accuracy"],
        ),
        f"# {facts.name}",
        _usage(facts.name, model["type"]),
        "## Data",
        f"{facts.data}\n\n{facts.split}",
        "## Accuracy",
        f"**{evaluation['accuracy']:.1%}** on the {facts.evaluated_on}: {evaluation['samples']} recordings, 95 % "
        f"interval {low:.1%} to {high:.1%} (Wilson).",
        _table(
            ("seed", "epoch selected by validation", "last epoch"),
            [
                (str(seed), f"{selected:.1%}", f"{last:.1%}")
                for seed, (selected, last) in enumerate(
                    zip(facts.selected_accuracies, facts.last_accuracies, strict=True)
                )
            ],
        ),
        _table(("class", "accuracy"), [(name, f"{share:.1%}") for name, share in evaluation["per_class"].items()]),
        *(() if energy is None else ("## Energy", _energy(energy))),
        "## Input",
        _preprocessing(model),
        "## Limits",
        facts.limits,
        "## Reproduce",
        f"```sh\n{facts.reproduce.strip()}\n```",
        "## Citation",
        f"```bibtex\n{PAPER}\n```",
    )


def _joined(*blocks: str) -> str:
    return "\n\n".join(blocks) + "\n"


def _front_matter(fields: dict[str, Any], facts: Facts | None = None, accuracy: float | None = None) -> str:
    """Return the Hub's metadata block; with an accuracy also its `model-index` of evaluation results."""
    from huggingface_hub import EvalResult, ModelCardData

    results = None
    if facts is not None:
        results = [
            EvalResult(
                task_type="video-classification",
                dataset_type=facts.dataset,
                dataset_name=f"{facts.dataset} ({facts.evaluated_on})",
                metric_type="accuracy",
                metric_value=accuracy,
            )
        ]
    data = ModelCardData(
        library_name="rsnn",
        model_name=None if facts is None else facts.name,
        eval_results=results,
        **fields,
    )
    return f"---\n{data.to_yaml()}\n---"


def _usage(source: str, kind: str) -> str:
    return (
        f'```python\nimport rsnn\n\nmodel = rsnn.{kind}.from_pretrained("{source}")\n'
        'result = model.predict("recording.aedat")\nprint(result.label, result.probabilities)\n```'
    )


def _preprocessing(model: dict[str, Any]) -> str:
    names, steps = model.get("class_names"), model.get("preprocessing")
    classes = f"Classes: {', '.join(names)}." if names else "Its classes have no names."
    if steps is None:
        return f"{classes} It takes frames; how recordings became frames was not stored."
    height, width = steps["frame_size"]
    cut = "equal duration" if steps["split_by"] == "time" else "equal numbers of events"
    return (
        f"{classes} A recording is cut into {steps['num_frames']} frames of {cut}, {width} x {height} pixels; the "
        f"network sees {steps['normalize']} per pixel and polarity. Larger sensors are cropped to the frames' shape "
        "and scaled by adding events into the coarser grid."
    )


def _energy(report: dict[str, Any]) -> str:
    raise AssertionError(report)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
