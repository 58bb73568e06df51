"""The sections of a report, one a file: what each says of a run, its charts and their data."""
