"""dlspark: exact, loud and hard-to-kill distributed training of image classifiers on Spark.

Importing this package loads none of its heavy dependencies (torch, Spark, Horovod, Petastorm, MLflow):
each of them has one room that imports it.
"""

__version__ = "0.1.0"
