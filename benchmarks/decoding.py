"""Measure images per second from file to uint8 tensor of the network's size, for each way to decode; one process.

    python benchmarks/decoding.py --images ../shared/data/large_jpegs

In each run every way reads all images; the ways alternate, so that load on the machine slows all of them alike. Prints each way's
median over the runs and its ratio to plain Pillow.
"""

import statistics
import tempfile
import time
import warnings
from pathlib import Path

from lib.config.command_line import make_parser, parse
from lib.errors import FlukeError
from lib.process import run_script

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print the table; return the median images per second of each way."""
    parser = make_parser(__doc__, recipe=False)
    parser.add_argument("--images", default="../shared/data/large_jpegs", help="Folder of images, searched with its subfolders.")
    parser.add_argument("--size", type=int, default=224, help="Side of the tensors in pixels.")
    parser.add_argument("--limit", type=int, default=200, help="Largest number of images.")
    parser.add_argument("--runs", type=int, default=5, help="Runs of each way.")
    args = parse(parser, argv)
    paths = sorted(path for path in Path(args.images).rglob("*") if path.suffix.lower() in SUFFIXES)[: args.limit]
    if not paths:
        raise FlukeError(f"--images {args.images}: holds no images; name a folder with {', '.join(sorted(SUFFIXES))} files.")

    import torch
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2 import functional as F

    from lib.config.recipe import Data
    from lib.images.augmentation import decode_side, make_eval_transform
    from lib.images.cache import open_cache
    from lib.images.decoding import decode

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torchvision")
    resize = make_eval_transform(Data(size=args.size))
    short_side = decode_side(resize)

    def pillow(i: int) -> torch.Tensor:
        return F.pil_to_tensor(Image.open(paths[i]).convert("RGB").resize((args.size, args.size), Image.Resampling.BILINEAR))

    def torchvision(i: int) -> torch.Tensor:
        return resize(decode_image(str(paths[i]), ImageReadMode.RGB, apply_exif_orientation=True))

    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        cache = open_cache(Path(folder), paths, short_side or args.size, workers=0)
        build_rate = len(paths) / (time.perf_counter() - begin)
        ways = {
            "Pillow": pillow,
            "torchvision.io": torchvision,
            "decode, full": lambda i: resize(decode(paths[i])),
            "decode, scaled": lambda i: resize(decode(paths[i], short_side)),
            "cache": lambda i: resize(cache.get(i)),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.runs):
            for name, read in ways.items():
                begin = time.perf_counter()
                for i in range(len(paths)):
                    read(i)
                rates[name].append(len(paths) / (time.perf_counter() - begin))

    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{len(paths)} images, resized to {args.size} px, median of {args.runs} runs")
    for name, rate in medians.items():
        print(f"{name:27s} {rate:9.1f} images/s  {rate / medians['Pillow']:6.2f} x Pillow")
    print(f"building the cache, once    {build_rate:9.1f} images/s")
    return medians


if __name__ == "__main__":
    run_script(main)
