"""The question: the study file, its sites and labels, and the units that answer it."""

from allograft.study.reading import make_study, read_study
from allograft.study.spec import Study

__all__ = ["Study", "make_study", "read_study"]
