"""Write the images that lie within TFRecord, BSON, JSON, CSV or Parquet files as files, with a table of the records' other values.

    python scripts/unpack.py "tfrecords/train/*.tfrec" --out data/train
    python scripts/unpack.py train.bson --out data/train      # products with several images: one row per image
    python scripts/unpack.py train.json test.json --out data  # lists of numbers as planes of pixels, of one scale
    python scripts/unpack.py "*_image_data_*.parquet" --shape 137 236 --out data/images  # a column per pixel

Writes OUT/images/ and OUT/table.csv (image, file, and a column for each number and text of the records). In a recipe:
data.train_csv OUT/table.csv, data.image_dir OUT/images, and data.train_where {file: train} where files were unpacked together.
Neither TensorFlow nor MongoDB's driver is needed.
"""

from __future__ import annotations

from pathlib import Path

from lib.config import command_line
from lib.process import run_script


def main(argv: list[str] | None = None) -> int:
    """Run the script with `argv`; return the number of images."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("files", nargs="+", help="Packed files, or patterns of them.")
    parser.add_argument("--out", required=True, type=Path, help="Folder to write; empty or new.")
    parser.add_argument("--shape", nargs=2, type=int, help="Height and width, for a column per pixel; default: square.")
    args = command_line.parse(parser, argv)

    from lib.pipelines.unpack import unpack

    return unpack(args.files, args.out, args.shape)


if __name__ == "__main__":
    run_script(main)
