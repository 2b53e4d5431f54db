# Databricks notebook source
# MAGIC %md
# MAGIC # dlspark
# MAGIC Runs one stage on this notebook's Spark session, with the `key=value` words of the command line;
# MAGIC `dlspark <stage> --help` lists them. In a job the widgets are its parameters.

# COMMAND ----------

# ruff: noqa: D100, F821 - a notebook begins with its marker; dbutils and spark are the runtime's
import json
import logging
import shlex

from dlspark.cli import run_stage
from dlspark.config.compose import compose

logging.basicConfig(level=logging.WARNING)
logging.getLogger("dlspark").setLevel(logging.INFO)
logging.getLogger("pipelines").setLevel(logging.INFO)

# COMMAND ----------

STAGES = ["ingest", "train", "evaluate", "register", "predict", "full"]
dbutils.widgets.dropdown("stage", "full", STAGES, "stage")
dbutils.widgets.text("overrides", "experiment=digits cluster=existing tracking=databricks", "key=value ...")

# COMMAND ----------

config = compose(shlex.split(dbutils.widgets.get("overrides")))
result = run_stage(dbutils.widgets.get("stage"), config, spark)

# COMMAND ----------

dbutils.notebook.exit(json.dumps(result.to_json()))
