"""Images get labels from a model, on the session that spark-submit made.

spark-submit jobs/predict.py source=... predict.model=... predict.output=...
"""

import sys

from dlspark.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
