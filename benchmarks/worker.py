"""What a worker of the scheduler has imported before it forks a task. `benchmarks.alone` forks its own from this."""

from __future__ import annotations

import logging
import runpy
import sys

from include.local.config import ROOT

sys.argv = ["airflow", "scheduler"]  # by which the file tells who imports it
KEPT = runpy.run_path(str(ROOT / "config" / "airflow_local_settings.py"))
logging.getLogger("enrichment").setLevel(logging.WARNING)  # the tables say what a task would log
