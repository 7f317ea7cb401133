"""Where the published transactions are: `TIDEMILL_TEST_DATA`, or the folder `shared/data` beside the repository."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


def published_folder() -> Path:
    """The folder of the published data; without it the test is skipped, but in CI it fails."""
    root = Path(os.environ.get("TIDEMILL_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    folder = root / "fraud_handbook"
    if not folder.is_dir():
        message = f"no published data at {folder}; set TIDEMILL_TEST_DATA to the folder that holds fraud_handbook"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
