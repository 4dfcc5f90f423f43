"""Model cards: the README.md of a checkpoint, made from its config and from what was measured of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rsnn.hub import HERE
from rsnn.models.config import public_name

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
        part: of which part the accuracy is, `"validation"` or `"test"`.
        evaluated_on: the same in a few words, as in `"validation part"`.
        reproduce: the commands that train it and that print its figures.
        limits: what it cannot do, or was not tried on.
        licence: of the weights, as an SPDX identifier.
        selected_accuracies: of each training run, with seeds 0, 1, ..., for the epoch that validation selected.
        last_accuracies: of each training run, for the last epoch.
        measured: further figures by name; those that end in "accuracy" or "share" are shown in percent.
        sections: further sections, Markdown by title.
        benchmark: the data set's identifier on the Hub and its task's, where it is one of the Hub's benchmarks.
        citation: BibTeX entries beside the paper's, as those of the data.

    """

    name: str
    data: str
    dataset: str
    split: str
    part: str
    evaluated_on: str
    reproduce: str
    limits: str
    licence: str
    selected_accuracies: tuple[float, ...] = ()
    last_accuracies: tuple[float, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    benchmark: tuple[str, str] | None = None
    citation: str = ""


def plain_card(config: dict[str, Any], source: str = HERE) -> str:
    """Return the card of a checkpoint of which nothing has been measured: what it is and how to load it.

    Args:
        config: the checkpoint's `config.json`.
        source: what to load it by.

    """
    model = config["model"]
    return _joined(
        _front_matter({"tags": _tags(model)}),
        f"# {model['type']} saved with rsnn {config['library_version']}",
        _usage(source, model["type"]),
        _preprocessing(model),
        "No evaluation came with this checkpoint.",
    )


def published_card(
    config: dict[str, Any],
    facts: Facts,
    evaluation: dict[str, Any],
    energy: dict[str, Any],
    weights: str,
    *,
    source: str | None = None,
) -> str:
    """Return the card of a checkpoint with its measured figures.

    Args:
        config: the checkpoint's `config.json`.
        facts: what its author says.
        evaluation: `rsnn.evaluation.Evaluation.to_dict()` of the checkpoint.
        energy: `to_dict()` of its `rsnn.energy_report`.
        weights: how many there are, and how they are stored, in a sentence.
        source: what to load it by, its name by default.

    """
    model = config["model"]
    low, high = evaluation["interval_95"]
    return _joined(
        _front_matter(
            {
                "license": facts.licence.lower(),
                "pipeline_tag": "video-classification",
                "tags": _tags(model),
                "datasets": [_identifier(facts.dataset)],
                "metrics": ["accuracy"],
            },
            facts,
            evaluation["accuracy"],
        ),
        f"# {facts.name}",
        _usage(source or facts.name, model["type"]),
        weights,
        "## Data",
        f"{facts.data.strip()}\n\n{facts.split.strip()}",
        "## Accuracy",
        f"**{evaluation['accuracy']:.1%}** on the {facts.evaluated_on}: {evaluation['samples']} recordings, 95 % "
        f"interval {low:.1%} to {high:.1%} (Wilson).",
        *_seeds(facts),
        _table(
            ("class", "accuracy"), [(_cell(name), f"{share:.1%}") for name, share in evaluation["per_class"].items()]
        ),
        *_measured(facts),
        "## Energy",
        _energy(energy),
        "## Input",
        _preprocessing(model),
        *(block for title, text in facts.sections.items() for block in (f"## {title}", text.strip())),
        "## Limits",
        facts.limits.strip(),
        "## Reproduce",
        f"```sh\n{facts.reproduce.strip()}\n```",
        "## Citation",
        f"```bibtex\n{(PAPER + chr(10) + facts.citation.strip()).strip()}\n```",
    )


def evaluation_results(facts: Facts, accuracy: float, date: str) -> str:
    """Return the file `.eval_results/*.yaml` of a checkpoint that was evaluated on one of the Hub's benchmarks.

    The Hub reads it beside the card: there it joins the benchmark's table of results.

    Args:
        facts: what its author says, `benchmark` among it.
        accuracy: what was measured.
        date: when, as YYYY-MM-DD.

    """
    assert facts.benchmark is not None
    dataset, task = facts.benchmark
    # Texts of JSON are texts of YAML.
    return (
        f"- dataset:\n    id: {json.dumps(dataset)}\n    task_id: {json.dumps(task)}\n"
        f"  value: {accuracy}\n  date: {json.dumps(date)}\n  notes: {json.dumps(facts.evaluated_on)}\n"
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
                task_name="Classification of event-camera recordings",
                dataset_type=_identifier(facts.dataset),
                dataset_name=f"{facts.dataset} ({facts.evaluated_on})",
                dataset_split=facts.part,
                metric_type="accuracy",
                metric_name="Accuracy",
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


def _identifier(dataset: str) -> str:
    """Return a data set's name as the Hub's identifiers are spelt, without spaces."""
    return dataset.replace(" ", "-")


def _tags(model: dict[str, Any]) -> list[str]:
    """Return what the Hub lists a model under, by what it is made of."""
    tags = ["event-camera", "neuromorphic"]
    if model["classifier"]["type"] in ("SCNN", "SpikingNetwork"):
        tags.append("spiking-neural-network")
    if model["encoder"]["type"].startswith("ConvLSTM"):
        tags.append("convlstm")
    return tags


def _usage(source: str, kind: str) -> str:
    return (
        f'```python\nimport rsnn\n\nmodel = {public_name(kind)}.from_pretrained("{source}")\n'
        'result = model.predict("recording.aedat")\nprint(result.label, result.probabilities)\n```'
    )


def _seeds(facts: Facts) -> list[str]:
    """Return the table of the training runs, where there is anything to say of them."""
    if not facts.selected_accuracies:
        return []
    last = facts.last_accuracies or (None,) * len(facts.selected_accuracies)
    rows = [
        (str(seed), f"{selected:.1%}", "" if other is None else f"{other:.1%}")
        for seed, (selected, other) in enumerate(zip(facts.selected_accuracies, last, strict=True))
    ]
    return [_table(("seed", "epoch selected by validation", "last epoch"), rows)]


def _measured(facts: Facts) -> list[str]:
    if not facts.measured:
        return []
    rows = [
        (_cell(name.replace("_", " ")), f"{value:.1%}" if name.endswith(("accuracy", "share")) else f"{value:g}")
        for name, value in facts.measured.items()
    ]
    return ["Measured besides:", _table(("what", "figure"), rows)]


def _preprocessing(model: dict[str, Any]) -> str:
    names, steps = model.get("class_names"), model.get("preprocessing")
    classes = f"Classes: {', '.join(names)}." if names else "Its classes have no names."
    if steps is None:
        return f"{classes} It takes frames; how recordings became frames was not stored."
    height, width = steps["frame_size"]
    cut = "equal duration" if steps["split_by"] == "time" else "equal numbers of events"
    seen = {
        "counts": "counts",
        "log1p": "log(1 + count)",
        "binary": "whether there was an event",
        "clip": f"counts up to {steps.get('clip_at')}",
        "per-sample": "counts relative to the recording's mean",
    }[steps["normalize"]]
    usual = f" Those it was trained on last about {steps['window_ms'] / 1000:g} s." if steps.get("window_ms") else ""
    finer = (
        f" (one in which they would last more than {steps['max_step_ms']} ms into 2, 3, ... times as many)"
        if steps.get("max_step_ms")
        else ""
    )
    return (
        f"{classes} A recording is cut into {steps['num_frames']} frames of {cut}{finer}, {width} x {height} pixels; "
        f"the network sees {seen} per pixel and polarity. Larger sensors are cropped to the frames' shape "
        f"and scaled by adding events into the coarser grid.{usual}"
    )


def _energy(report: dict[str, Any]) -> str:
    """Return the operations and joules of a sample: the whole network, its parts, and each in a row."""
    total, parts, costs = report["total"], report["parts"], report["energy_model"]
    rows = [
        (
            name,
            f"{part['mac'] / 1e6:.2f} M",
            f"{part['ac'] / 1e6:.2f} M",
            "" if part["firing_rate"] is None else f"{part['spikes'] / 1e3:.1f} k ({part['firing_rate']:.1%})",
            f"{1e6 * part['joules']:.2f} µJ",
        )
        for name, part in [*((name, part) for name, part in parts.items() if name != "other"), ("total", total)]
    ]
    missing = report["not_counted"]
    lower = f" Not counted, so that these are lower bounds: {', '.join(sorted(missing))}." if missing else ""
    return (
        f"**{1e6 * total['joules']:.1f} µJ** a recording, mean of {report['samples']}: operations with a non-zero "
        f"input and weight, {costs['mac_pj']:g} pJ a multiply-accumulate (MAC) and {costs['ac_pj']:g} pJ an "
        f"accumulate (AC) ({costs['source']}). The paper's definition counts the classifier alone.{lower}\n\n"
        + _table(("part", "MAC", "AC", "spikes (rate)", "energy"), rows)
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return a text as it stands in a cell of a table."""
    return text.replace("|", "\\|")
