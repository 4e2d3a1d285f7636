"""Its settings: a backend for each way to run tasks, see tests/integrations/test_django.py."""

import os
from pathlib import Path

DIRECTORY = Path(os.environ["DIRECTORY_OF_SITE"])
SECRET_KEY = "not secret"
USE_TZ = True
INSTALLED_APPS = ["apps.site_of_tasks"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(DIRECTORY / "database")}
}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "files": {
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": str(DIRECTORY / "cache"),
    },
}
_BACKEND = "unirun.integrations.django.UnirunBackend"
TASKS = {
    "default": {
        "BACKEND": _BACKEND,
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"executor": {"max_workers": 2, "grace": 0.2}},
    },
    "threads": {"BACKEND": _BACKEND, "OPTIONS": {"executor": {"backend": "thread"}}},
    "shared": {"BACKEND": _BACKEND, "OPTIONS": {"cache": "files", "call": {"retries": 1}}},
    "short": {"BACKEND": _BACKEND, "OPTIONS": {"call": {"timeout": 6}, "keep": 1}},
}
