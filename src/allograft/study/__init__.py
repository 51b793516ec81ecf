"""The question: the study file, its sites and labels, and the units that answer it."""

from allograft.study.spec import Study, make_study, read_study

__all__ = ["Study", "make_study", "read_study"]
