"""Studies: categories x methods x seeds x settings, with raw scores, tables, plots and paired tests."""
