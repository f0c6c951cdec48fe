"""Write scikit-learn's 1,797 handwritten digits as two contests, for a first run without a download.

    python scripts/digits.py --out demo/data

<out>/classes: images/, train.csv, test.csv, sample_submission.csv, and truth.csv, the labels of the test images.
<out>/identities: the same digits as ten identities, two of which are in the test only; their right answer is new_digit.
"""

from __future__ import annotations

from pathlib import Path

from lib.config import command_line
from lib.files import write_text
from lib.process import announce, run_script


def main(argv: list[str] | None = None) -> Path:
    """Run the script with `argv`; return the folder that it wrote."""
    parser = command_line.make_parser(__doc__, recipe=False)
    parser.add_argument("--out", default="demo/data", help="Folder to write to.")
    out = Path(command_line.parse(parser, argv).out)

    import numpy as np
    import pandas as pd
    from PIL import Image
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    is_test = rng.permutation(len(digits)) < 0.3 * len(digits)
    names = np.array([f"{i:04d}.png" for i in range(len(digits))])
    for contest in ("classes", "identities"):
        (out / contest / "images").mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, pixels):
            grey = Image.fromarray((image.reshape(8, 8) * 255 / 16).astype(np.uint8))
            grey.resize((32, 32), Image.Resampling.BICUBIC).save(out / contest / "images" / name)

    def write_table(file: str, **columns: object) -> None:
        write_text(out / file, pd.DataFrame(columns).to_csv(index=False))

    test_names = names[is_test]
    labels = np.array([f"digit {digit}" for digit in digits])
    write_table("classes/train.csv", image=names[~is_test], label=labels[~is_test])
    write_table("classes/test.csv", image=test_names)
    write_table("classes/sample_submission.csv", image=test_names, label="digit 0")
    write_table("classes/truth.csv", image=test_names, label=labels[is_test])

    is_unknown = digits >= 8
    is_train = ~is_test & ~is_unknown
    identities = np.char.add("d_", digits.astype(str))
    truth = np.where(is_unknown, "new_digit", identities)
    write_table("identities/train.csv", Image=names[is_train], Id=identities[is_train])
    write_table("identities/sample_submission.csv", Image=test_names, Id="new_digit d_0 d_1 d_2 d_3")
    write_table("identities/truth.csv", Image=test_names, Id=truth[is_test])
    print(f"two contests of {(~is_test).sum()} and {is_train.sum()} training and {len(test_names)} test images")
    announce([out / "classes", out / "identities"], "accelerate launch scripts/train_classifier.py --cfg recipes/digits.yaml")
    return out


if __name__ == "__main__":
    run_script(main)
