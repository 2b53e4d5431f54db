"""Images become a published dataset, on the session that spark-submit made.

spark-submit jobs/ingest.py source=... dataset=...
"""

import sys

from dlspark.cli import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))
