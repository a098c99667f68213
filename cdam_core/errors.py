"""The typed errors of the library: one kind each for images, checkpoints, concepts and targets.

Every error carries a ``reason`` from a fixed list, so that a page or a script can react to it
without reading the sentence, and a message that says what arrived, what was expected and what
to do. Messages never contain the user's content (file names, tags, pixels).
"""


class CdamError(ValueError):
    """A mistake in what the caller handed over; ``str(error)`` is one sentence fit for a user.

    Args:
        reason: one of ``REASONS`` of the class.
        message: what arrived, what was expected and what to do.
    """

    REASONS: tuple[str, ...] = ()

    def __init__(self, reason: str, message: str):
        if reason not in self.REASONS:
            raise KeyError(f"{reason!r} is not a reason of {type(self).__name__}: {self.REASONS}")
        super().__init__(message)
        self.reason = reason


class BadImage(CdamError):
    """A file or array that is no usable image."""

    REASONS = (
        "empty",
        "too-large",
        "unreadable",
        "truncated",
        "too-many-pixels",
        "too-small",
        "too-elongated",
        "not-finite",
        "wrong-shape",
    )


class BadCheckpoint(CdamError):
    """A model that cannot be loaded or explained."""

    REASONS = (
        "unknown-model",
        "unreachable",
        "unreadable",
        "unsafe",
        "damaged",
        "mismatch",
        "unsupported",
    )


class BadConcept(CdamError):
    """A concept that cannot be built, loaded or used with this model."""

    REASONS = ("other-model", "damaged", "too-few", "unreadable", "zero-vector", "not-linear")


class BadTarget(CdamError):
    """A target, method or setting that this model cannot answer."""

    REASONS = (
        "no-head",
        "unknown-class",
        "wrong-type",
        "unknown-method",
        "unknown-setting",
        "bad-setting",
        "unsupported",
    )


class BadRegion(CdamError):
    """A part of a picture that is none."""

    REASONS = ("wrong-type", "empty")


class BadRecord(CdamError):
    """A file of results that cannot be read, or not be computed again."""

    REASONS = ("unreadable", "too-large", "unsafe", "damaged", "other-version", "needs-model",
               "needs-image")  # fmt: skip


class BadScan(CdamError):
    """A CT scan, or a set of annotations of one, that no crop can be taken from."""

    REASONS = ("not-found", "damaged", "unreadable", "compressed", "geometry", "missing-slices",
               "wrong-type", "empty", "too-large", "truncated")  # fmt: skip


class BadData(CdamError):
    """A data set, or a folder of results, that no benchmark can be run on."""

    REASONS = ("not-found", "empty", "unreadable", "labels", "unknown-class", "other-run",
               "missing-package", "unsupported")  # fmt: skip
