"""The errors that mer_fast raises on bad input: one line that names the argument or the file and says the mend."""


class MerFastError(ValueError):
    """Bad input."""


class BackendError(MerFastError):
    """An implementation that does not exist, is not built, or does not fit the tensor's device."""


class VideoError(MerFastError):
    """A video that cannot be read."""


class NoFaceError(MerFastError):
    """A video in which no face was found."""
