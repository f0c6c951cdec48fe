"""Write a trained network for programs without Fluke: ONNX and torch.export, with its classes and a short example.

    python scripts/export.py --run runs/first --out exported

Normalization and probabilities are inside; the image is given as uint8 at the network's size. Both files are checked on real images
against the run: outputs differ by at most 1e-4. Needs `pip install -e ".[export]"`; what is written needs onnxruntime alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lib.config import command_line
from lib.process import run_script


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script with `argv`; returns what model.json holds."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--run", required=True, type=Path, help="A run, a fold of a k-fold run, or a best/model.safetensors.")
    parser.add_argument("--out", type=Path, help="Folder to write; default: <run>/export.")
    args = command_line.parse(parser, argv)

    from lib.pipelines.export import export_network

    return export_network(args.run, args.out or args.run / "export")


if __name__ == "__main__":
    run_script(main)
