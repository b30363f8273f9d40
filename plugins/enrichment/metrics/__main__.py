"""`python -m enrichment.metrics` writes the mapping for `statsd_exporter` to its standard output."""

from __future__ import annotations

import argparse
import sys

from enrichment.metrics.mapping import render

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m enrichment.metrics", description=__doc__)
    parser.add_argument("--prefix", default="airflow", help="Airflow's [metrics] statsd_prefix (default: airflow)")
    sys.stdout.write(render(parser.parse_args().prefix))
