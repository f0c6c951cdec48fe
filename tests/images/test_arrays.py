"""Images stored as arrays: .npy and DICOM."""

from pathlib import Path

import numpy as np
import pytest

from lib.errors import FlukeError
from lib.images.decoding import decode

RGB = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RGB, RGB),
        (np.moveaxis(RGB, -1, 0), RGB),
        (RGB / 255, RGB),
        (RGB.astype(np.uint16) * 257, RGB),
        (RGB[:, :, 0], RGB[:, :, [0, 0, 0]]),
        (RGB[:, :, :1], RGB[:, :, [0, 0, 0]]),
        ((RGB[:, :, 0] / 255).astype(np.float32), RGB[:, :, [0, 0, 0]]),
        (RGB[:, :, 0] > 127, np.where(RGB[:, :, [0, 0, 0]] > 127, 255, 0)),
    ],
)
def test_arrays_are_images(tmp_path: Path, values: np.ndarray, expected: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(decode(tmp_path / "a.npy").permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("values", [np.zeros((3, 4, 5, 6), np.uint8), np.zeros((4, 5, 2), np.uint8), -RGB.astype(float), "text"])
def test_other_arrays_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    if isinstance(values, str):
        (tmp_path / "a.npy").write_text(values)
    else:
        np.save(tmp_path / "a.npy", values)
    with pytest.raises(FlukeError, match=r"a\.npy: can't be"):
        decode(tmp_path / "a.npy")


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_is_shown_by_its_window_and_its_white(tmp_path: Path, kind: str) -> None:
    pydicom = pytest.importorskip("pydicom")
    values = np.array([[0, 1000, 2000], [3000, 4000, 4095]], np.uint16)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 2, 3, 1, kind
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.WindowCenter, data.WindowWidth = 2000, 2000  # 1000 and less is black, 3000 and more is white
    data.PixelData = values.tobytes()
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    found = decode(tmp_path / "a.dcm")[0].numpy().astype(int)
    shown = np.clip((values.astype(float) - 1000) / 2000, 0, 1) * 255
    expected = 255 - shown if kind == "MONOCHROME1" else shown
    assert np.abs(found - expected).max() <= 1
