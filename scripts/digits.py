"""Write scikit-learn's 1,797 handwritten digits out as two contests, for a first run without any download.

    python scripts/digits.py --out demo/data

<out>/classes: images/, train.csv, test.csv, sample_submission.csv, and truth.csv, which a contest would keep to itself.
<out>/identities: the same digits as ten individuals, two of which are in the test only: new_digit is their right answer.
"""

from __future__ import annotations

from pathlib import Path

from lib.config import command_line
from lib.files import write_text
from lib.process import run_script


def main(argv: list[str] | None = None) -> Path:
    """Run the script with `argv`; returns the folder it wrote."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--out", default="demo/data", help="Folder to write to.")
    out = Path(command_line.parse(parser, argv).out)

    import numpy as np
    import pandas as pd
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    test = rng.permutation(len(digits)) < 0.3 * len(digits)
    names = [f"{i:04d}.png" for i in range(len(digits))]
    for contest in ("classes", "identities"):
        (out / contest / "images").mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, pixels):
            grey = Image.fromarray((image.reshape(8, 8) * 255 / 16).astype(np.uint8))
            grey.resize((32, 32), Image.Resampling.BICUBIC).save(out / contest / "images" / name)

    def table(file: str, columns: dict[str, list[str]]) -> None:
        write_text(out / file, pd.DataFrame(columns).to_csv(index=False))

    train_names, test_names = [names[i] for i in np.flatnonzero(~test)], [names[i] for i in np.flatnonzero(test)]
    labels = np.array([f"digit {digit}" for digit in digits])
    table("classes/train.csv", {"image": train_names, "label": labels[~test].tolist()})
    table("classes/test.csv", {"image": test_names})
    table("classes/sample_submission.csv", {"image": test_names, "label": ["digit 0"] * len(test_names)})
    table("classes/truth.csv", {"image": test_names, "label": labels[test].tolist()})

    strangers = digits >= 8
    known = ~test & ~strangers
    table("identities/train.csv", {"Image": [names[i] for i in np.flatnonzero(known)], "Id": [f"d_{d}" for d in digits[known]]})
    guess = "new_digit d_0 d_1 d_2 d_3"
    truth = np.where(strangers, "new_digit", np.char.add("d_", digits.astype(str)))
    table("identities/sample_submission.csv", {"Image": test_names, "Id": [guess] * len(test_names)})
    table("identities/truth.csv", {"Image": test_names, "Id": truth[test].tolist()})
    print(f"{out}: two contests of {len(train_names)} and {known.sum()} training and {len(test_names)} test images")
    return out


if __name__ == "__main__":
    run_script(main)
