"""The report: one page for any browser, and its summary in Markdown."""
