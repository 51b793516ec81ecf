"""Cohorts: tables of cases, read from a manifest, seen through views in which hidden labels are
absent."""

from allograft.cohort.coding import Coding
from allograft.cohort.cohort import Cohort
from allograft.cohort.loader import Loader
from allograft.cohort.manifest import Case, read_manifest
from allograft.cohort.preprocessing import Preprocessing
from allograft.cohort.slices import Slices
from allograft.cohort.whole import Whole

__all__ = ["Case", "Coding", "Cohort", "Loader", "Preprocessing", "Slices", "Whole", "read_manifest"]
