"""The command line, and `run_stage`, which notebooks and jobs call: three doors to the same pipelines.

Standard output carries one line, the result as JSON. During a stage file descriptor 1 leads to standard
error, so that nothing a library, a JVM or a child process prints can come between. Logging is set up here.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, TextIO

import dlspark
from dlspark.config.compose import compose
from dlspark.config.schema import Config
from dlspark.errors import ConfigError, DlsparkError, WorkerFailedError
from dlspark.help import STAGES, cache_help, data_help, general_help, stage_help

_OPTIONS = ("--help", "-h", "--version", "--debug")
_NEEDS_SPARK = ("ingest", "predict", "full", "bench-scale")
_LAUNCHES_WORKERS = ("train", "evaluate", "full", "compare")
_EXIT_UNEXPECTED, _EXIT_USER, _EXIT_INTERRUPTED = 1, 2, 130
_QUIET = ("py4j", "alembic", "mlflow", "petastorm", "git", "urllib3", "matplotlib", "PIL", "fsspec")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dlspark <stage> key=value ...`.

    Args:
        argv: the words after the program's name. None takes those of the process, and then a failure raises
            SystemExit: Databricks runs a wheel's entry point as a function and ignores what it returns.

    Returns:
        0; 2 for an error that the user can repair (its message is on stderr); 1 for an unexpected one; 130
        after Ctrl-C. `doctor` returns 2 if it found errors.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in words
    _start_logging(debug=debug)
    try:
        code = _run_words(words)
    except DlsparkError as error:
        code = _EXIT_USER
        _say(f"error: {_message(error)}", error if debug else None)
    except KeyboardInterrupt as error:
        code = _EXIT_INTERRUPTED
        _say("interrupted", error if debug else None)
    except Exception as error:  # noqa: BLE001 - whatever it is, a user gets a line and an exit code
        code = _EXIT_UNEXPECTED
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = traceback.format_exception_only(error)[-1].strip()
        _say(f"unexpected error: {reason} ({frame.filename}:{frame.lineno})", error if debug else None)
        if not debug:
            _say("--debug shows the traceback")
    if argv is None and code != 0:
        sys.exit(code)
    return code


def run_stage(stage: str, config: Config, spark: Any = None) -> Any:
    """Run a stage and return its typed result.

    Args:
        stage: one of dlspark.help.STAGES.
        config: from `dlspark.config.compose.compose`.
        spark: a SparkSession to use; None finds or opens one if the stage needs it, and closes only its own.

    Raises:
        ConfigError: there is no such stage.
        DlsparkError: whatever the stage raises.
    """
    _require_stage(stage)
    launches_workers = stage in _LAUNCHES_WORKERS
    if launches_workers:
        from pipelines.stage import with_backend

        # What is missing is said before Spark starts.
        config = with_backend(config)
    needs_spark = stage in _NEEDS_SPARK or (launches_workers and config.cluster.backend != "local")
    pipeline = import_module(f"pipelines.{stage.replace('-', '_')}")
    if spark is not None or not needs_spark:
        return pipeline.run(config, spark)
    from dlspark.cluster.session import spark_session

    with spark_session(config.cluster.master, f"dlspark {stage}") as session:
        return pipeline.run(config, session)


def _run_words(words: Sequence[str]) -> int:
    if words and words[0] == "data":
        return _run_data_words([word for word in words[1:] if word != "--debug"])
    if words and words[0] == "cache":
        return _run_cache_words([word for word in words[1:] if word != "--debug"])
    options = [word for word in words if word.startswith("-")]
    names = [word for word in words if not word.startswith("-")]
    unknown = [option for option in options if option not in _OPTIONS]
    if unknown:
        raise ConfigError("unknown option", got=", ".join(unknown), allowed="--help, --version, --debug")
    if "--version" in options:
        sys.stdout.write(f"dlspark {dlspark.__version__}\n")
        return 0
    wants_help = "--help" in options or "-h" in options
    if not names or names[0] == "help":
        (sys.stdout if wants_help or names else sys.stderr).write(general_help())
        return 0 if wants_help or names else _EXIT_USER
    stage, *overrides = names
    _require_stage(stage)
    if wants_help:
        sys.stdout.write(stage_help(stage))
        return 0
    with _stdout_for_result() as stdout:
        result = run_stage(stage, compose(overrides))
    return _give(result, stdout)


def _run_data_words(words: Sequence[str]) -> int:
    """Run `dlspark data <verb> PATH ...`."""
    if not words or {"--help", "-h", "help"} & set(words):
        sys.stdout.write(data_help())
        return 0 if words else _EXIT_USER
    with _stdout_for_result() as stdout:
        result = run_data(words)
    return _give(result, stdout)


def _run_cache_words(words: Sequence[str]) -> int:
    """Run `dlspark cache <verb> PATH`."""
    if not words or {"--help", "-h", "help"} & set(words):
        sys.stdout.write(cache_help())
        return 0 if words else _EXIT_USER
    with _stdout_for_result() as stdout:
        cache = import_module("pipelines.cache")
        result = cache.run(cache.parse(words))
    return _give(result, stdout)


def run_data(words: Sequence[str], spark: Any = None) -> Any:
    """Run a command on a dataset and return its typed result.

    Args:
        words: `<verb> PATH [PATH] [--option] [key=value ...]`.
        spark: a SparkSession to use; None finds or opens one if the command needs it, and closes its own.

    Raises:
        ConfigError: the words are no command.
        DlsparkError: whatever the command raises.
    """
    data = import_module("pipelines.data")
    command = data.parse(words)
    config = compose(command.overrides)
    if spark is not None or not command.needs_spark:
        return data.run(command, config, spark)
    from dlspark.cluster.session import spark_session

    with spark_session(config.cluster.master, f"dlspark data {command.verb}") as session:
        return data.run(command, config, session)


def _give(result: Any, stdout: TextIO) -> int:
    stdout.write(json.dumps(result.to_json(), allow_nan=False) + "\n")
    stdout.flush()
    return int(getattr(result, "exit_code", 0))


def _require_stage(stage: str) -> None:
    if stage in STAGES:
        return
    near = difflib.get_close_matches(stage, STAGES, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    forgotten = "put the stage first: dlspark <stage> key=value ..." if "=" in stage else None
    raise ConfigError(f"unknown stage{hint}", got=repr(stage), allowed=", ".join(STAGES), fix=forgotten)


@contextlib.contextmanager
def _stdout_for_result() -> Iterator[TextIO]:
    """Give the real standard output, and send all else that is written to it to standard error."""
    stdout = sys.stdout
    stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield stdout
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _start_logging(*, debug: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_ShortFormatter("%(asctime)s %(name)s: %(message)s" if debug else "%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("dlspark", "pipelines"):
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow sets the level of its loggers when it is imported, from this variable.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if debug else logging.ERROR)


class _ShortFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return level + super().format(record)


def _message(error: DlsparkError) -> str:
    """Leave the traceback of a rank to --debug."""
    if not isinstance(error, WorkerFailedError):
        return str(error)
    first, *more = str(error).splitlines()
    return f"{first}\n--debug shows what the rank said" if more else first


def _say(text: str, error: BaseException | None = None) -> None:
    lines = [text, *(traceback.format_exception(error) if error else ())]
    sys.stderr.write("\n".join(line.rstrip("\n") for line in lines) + "\n")
    sys.stderr.flush()
