"""The few exceptions of dlspark.

Each message is built from the same five parts, so that a user can act on it without a search: what is
wrong, what was got, what is allowed, where it was found, and how to fix it.
"""

from __future__ import annotations


class DlsparkError(ValueError):
    """Base of every error that a user can cause or repair; the command line prints it without a traceback."""

    def __init__(
        self,
        what: str,
        *,
        got: object | None = None,
        allowed: object | None = None,
        where: object | None = None,
        fix: str | None = None,
    ) -> None:
        """Build the message.

        Args:
            what: what is wrong, as a clause without a full stop.
            got: the value or the fact that was found.
            allowed: the values or the range that would have been right.
            where: the key, file, URL or host where it was found.
            fix: what to do, as an imperative.
        """
        parts = [what]
        if got is not None:
            parts.append(f"got {got}")
        if allowed is not None:
            parts.append(f"allowed: {allowed}")
        if where is not None:
            parts.append(f"in {where}")
        message = "; ".join(parts) + "."
        if fix is not None:
            message += f" Fix: {fix.rstrip('.')}."
        self.what, self.got, self.allowed, self.where, self.fix = what, got, allowed, where, fix
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, since executors send these errors to the driver."""
        return (_rebuild, (type(self), str(self), dict(self.__dict__)))


def _rebuild(kind: type[DlsparkError], message: str, fields: dict[str, object]) -> DlsparkError:
    error = kind.__new__(kind)
    ValueError.__init__(error, message)
    error.__dict__.update(fields)
    return error


class ConfigError(DlsparkError):
    """The configuration is wrong: an unknown key or choice, a wrong type, a value out of range."""


class SourceError(DlsparkError):
    """The images that were pointed at cannot become a dataset."""


class DatasetError(DlsparkError):
    """A published dataset is missing, half-written, of another version, or not what its manifest says."""


class ModelError(DlsparkError):
    """A network is unknown, does not fit the images, or its weights cannot be loaded."""


class OutputExistsError(DlsparkError):
    """A stage would overwrite something and was not told to."""


class ClusterError(DlsparkError):
    """Spark, Java, Horovod or the slots of the cluster are not what the run asks for."""


class WorkerFailedError(DlsparkError):
    """A rank of a distributed job failed; the message names rank, host and the rank's own error."""


class LostWorkerError(WorkerFailedError):
    """A rank went away without an error of its own: it was killed or crashed, or its host is gone."""


class TrackingError(DlsparkError):
    """The MLflow server cannot be reached or refuses what it is asked."""
