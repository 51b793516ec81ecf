"""Studies: one question, one protocol, one judge; a table, a report and the models."""

from allograft.study.record import Record, read_records
from allograft.study.run import run_study
from allograft.study.session import Result
from allograft.study.spec import Study, make_study, read_study

__all__ = ["Record", "Result", "Study", "make_study", "read_records", "read_study", "run_study"]
