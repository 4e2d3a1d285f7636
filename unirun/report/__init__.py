"""What a trace tells about a run: figures, advice, and one page with all of it.

    trace file ──> reading ──> figures ──> advice ──> text, JSON, page

`python -m unirun report` is the door to it.  Nothing in here runs a call, and nothing trusts the
file: names in it may be anything.
"""
