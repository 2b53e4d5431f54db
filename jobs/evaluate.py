"""A run is evaluated on one split, on the session that spark-submit made.

spark-submit jobs/evaluate.py run_dir=... split=test
"""

import sys

from dlspark.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
