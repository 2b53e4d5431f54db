from __future__ import annotations

import pytest

from dlspark.data.spark_job import last_python_line

JAVA = """An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collectAndServe.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 1 in stage 2.0 failed 1 times: \
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "worker.py", line 1, in main
    process()
OSError: [Errno 5] Input/output error

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "worker.py", line 2, in main
    process()
dlspark.errors.SourceError: an image file cannot be read; in /images/a.png.

\tat org.apache.spark.api.python.BasePythonRunner.handlePythonException(PythonRunner.scala:1)
Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:2)
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (JAVA, "dlspark.errors.SourceError: an image file cannot be read; in /images/a.png."),
        ("Job 3 cancelled\n\tat org.apache.spark.X", "Job 3 cancelled"),
    ],
)
def test_the_cause_is_found_in_what_spark_says(text: str, line: str) -> None:
    assert last_python_line(text) == line
