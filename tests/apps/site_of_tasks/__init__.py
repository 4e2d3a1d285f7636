"""A site of Django whose tasks run on unirun."""
