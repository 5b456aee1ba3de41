"""The report of a run: one page that opens anywhere, and its numbers as JSON.

`contents` gathers what a run folder knows, `figures` draws it, `page` writes the page;
`writing.write_report` is all three.
"""
