"""Step 2 of 5: bring or find the weights and the data, verify every hash, list what only a person can fetch.

Leaves assets.json in the run; files go to data/<recipe>/<asset>/ or stay where they were found. Pauses between files.
"""
import sys
from pathlib import Path

from lib import cli


def work(job: cli.Job) -> list[Path]:
    from lib import places

    return places.bring_all(job)


if __name__ == "__main__":
    sys.exit(cli.main(2, work))
