"""How long batches take, and the rest of a run, from what its steps and validations have taken so far."""

from __future__ import annotations

import time


def describe_duration(seconds: float) -> str:
    """Return a duration as a person says it: 40 s, 12 min, 2 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class BatchTimes:
    """How long the batches of an epoch take, from when it is made on, and how long training waits for their images."""

    def __init__(self) -> None:
        self.began = self.waiting_since = self.first_ended = time.monotonic()
        self.waited, self.batches = 0.0, 0

    def start_batch(self) -> None:
        """Note that the images of the next batch have come."""
        self.waited += time.monotonic() - self.waiting_since

    def end_batch(self) -> None:
        """Note that a batch has been trained on."""
        self.batches += 1
        if self.batches == 1:
            self.first_ended = time.monotonic()

    def wait(self) -> None:
        """Note that the next batch's images are needed."""
        self.waiting_since = time.monotonic()

    def after_first(self) -> tuple[float, int]:
        """Return the seconds since the end of the first batch, which is slower than others, and the batches since."""
        return time.monotonic() - self.first_ended, self.batches - 1

    def speed(self, batch_size: int) -> dict[str, float]:
        """Return images per second, and the share of the time in which training waited for images."""
        seconds = time.monotonic() - self.began
        return {"images_per_second": round(self.batches * batch_size / seconds, 1), "waiting": round(self.waited / seconds, 3)}


class TimeBudget:
    """How long the rest of a run takes, and whether training has to end now, so that a validation and the predictions still fit
    before the run's deadline.

    Seconds per batch are measured from the newest epoch's steps. Seconds per image without a backward pass are measured first from
    the steps of the first epoch, as a rough estimate, then from each validation.
    """

    MARGIN = 1.3
    SECONDS = 5.0
    """Kept for writing files."""

    def __init__(self, deadline: float | None, num_validation: int, images_to_predict: int):
        """`deadline` is a time.monotonic(), None for none; `images_to_predict` are predicted after the training."""
        self.deadline, self.num_validation, self.images_to_predict = deadline, num_validation, images_to_predict
        self.seconds_per_batch: float | None = None
        self.seconds_per_image = 0.0
        self.validated = False

    def measure_steps(self, seconds: float, batches: int, images: int | None) -> None:
        """Take what `batches` of together `images` images took; None for batches of features.

        Until a validation has been measured, the time per image counts as an estimate of it: a step has a backward pass; a
        validation may have flips and a larger image size.
        """
        self.seconds_per_batch = seconds / batches
        if images is not None and not self.validated:
            self.seconds_per_image = seconds / images

    def measure_validation(self, seconds: float, images: int) -> None:
        """Take a validation's time per image."""
        self.seconds_per_image, self.validated = seconds / images, True

    def seconds_left(self, batches: int, validations: int) -> float | None:
        """Return the seconds that these and the predictions take; None before any batch has been measured."""
        if self.seconds_per_batch is None:
            return None
        return batches * self.seconds_per_batch + self.seconds_per_image * (
            validations * self.num_validation + self.images_to_predict
        )

    def is_spent(self) -> bool:
        """Return whether what remains to be predicted would end after the deadline."""
        # A validation may begin before the next check; after an interruption its rows are predicted once more.
        images = 2 * self.num_validation + self.images_to_predict
        needed = self.MARGIN * self.seconds_per_image * images + self.SECONDS
        return self.deadline is not None and time.monotonic() + needed > self.deadline
