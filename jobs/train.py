"""A published dataset becomes a trained network, on the session that spark-submit made.

spark-submit jobs/train.py dataset=... run_dir=...
"""

import sys

from dlspark.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
