"""The errors a user can act on. Each carries one sentence: what was wrong, where, what to do."""

from panbench.base.secrets import redacted


class PanbenchError(Exception):
    """Base of every error that is the input's fault. The command line prints it and exits with `exit_code`."""

    exit_code = 2
    stays = ""
    """What is kept on disk in spite of the error and how to go on from it, in a sentence that a caller sets."""

    def __str__(self) -> str:
        """The sentences. What libraries and servers say is quoted in them, so secrets are taken out here."""
        return redacted(f"{super().__str__()} {self.stays}".rstrip())


class BadDataset(PanbenchError):
    """A dataset, its JSON, its images or its ground-truth PNGs are not what they should be."""


class PredictionMismatch(PanbenchError):
    """Predictions do not fit the ground truth they are scored against."""


class BadModel(PanbenchError):
    """No such model, a config that cannot be used, or categories that do not match the dataset's."""


class ModelFailed(PanbenchError):
    """The code of a model that panbench does not bring raised an exception: neither the input's fault nor ours."""

    exit_code = 1


class BadCheckpoint(PanbenchError):
    """Weights are missing, damaged, unsafe to load, or do not fit the model."""


class BadRun(PanbenchError):
    """A run folder is missing, not ours, incomplete, or already exists."""


class BadArgument(PanbenchError):
    """An argument, or a combination of arguments, that cannot be used."""


def refuse_overwrite_and_resume(overwrite: bool, resume: bool) -> None:
    """Raises BadArgument where a run shall be both replaced and gone on with."""
    if overwrite and resume:
        raise BadArgument("--overwrite and --resume contradict each other. Give one of them.")


class DownloadFailed(PanbenchError):
    """A download could not be finished; each file on disk is complete or absent."""


class OutOfSpace(PanbenchError):
    """The disk is full; files written before are complete."""


class Interrupted(KeyboardInterrupt):
    """Work was interrupted; its sentence says how, and what stays."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class Terminated(KeyboardInterrupt):
    """A signal of the system asked the process to end (SIGTERM, SIGHUP): all that Ctrl-C does, and `exit_code`."""

    def __init__(self, signal_name: str, exit_code: int) -> None:
        super().__init__(f"Ended by {signal_name}.")
        self.signal_name = signal_name
        self.exit_code = exit_code
