"""Model cards: the README.md of a checkpoint, made from its config and what was measured of it."""

from __future__ import annotations

from typing import Any


def plain_card(config: dict[str, Any]) -> str:
    """Return the card of a checkpoint of which nothing has been measured yet."""
    model = config["model"]
    names = model.get("class_names") or []
    lines = [
        "---",
        "library_name: rsnn",
        "tags:",
        "- event-camera",
        "- spiking-neural-network",
        "---",
        "",
        f"# {model['type']} saved with rsnn {config['library_version']}",
        "",
        "```python",
        "import rsnn",
        "",
        'model = rsnn.load("./this-folder")',
        "```",
        "",
        f"Classes: {', '.join(names) if names else 'not named'}.",
        "",
        "No evaluation came with this checkpoint.",
        "",
    ]
    return "\n".join(lines)
