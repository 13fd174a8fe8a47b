"""One scan in: from the documents of a report to committed records."""
