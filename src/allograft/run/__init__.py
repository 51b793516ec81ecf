"""Running a study: one process's session, the judge, the preview."""
